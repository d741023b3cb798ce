"""Methods that run the model on nothing but the picks."""

from .method import ALWAYS, CHOOSING, Method


class Regular(Method):
    """Draws k candidates a group and trains on all of them: plain training."""

    chooses, passes, reads = False, "none", ALWAYS


class Importance(Method):
    """The k of N whose n-grams are more frequent in the target text than in the pool: a static filter.

    After Xie et al., "DSIR", NeurIPS 2023, section 3; see selection/prefilters/importance.py.
    """

    passes, filter, reads = "none", "importance", CHOOSING | {"direction.targets", "filter.temperature", "filter.when"}
    ranks_by = "what the filter predicts from the n-grams"


class Match(Method):
    """Picks that bring the n-grams of what is trained on nearer to those of the target text: see
    selection/prefilters/match.py."""

    passes, filter = "none", "match"
    reads = CHOOSING | {"direction.targets", "filter.when"}
    ranks_by = "how much more frequent its n-grams are in the target text than in what was trained on lately"


class Need(Method):
    """A static filter for every cluster of the target text; the clusters' shares of the picks follow what each still
    needs, by the falling losses of a few target samples: see selection/prefilters/need.py."""

    passes, filter = "none", "need"
    reads = CHOOSING | {
        "direction.targets",
        "filter.when",
        "need.clusters",
        "need.samples",
        "need.every",
        "need.window",
    }
    ranks_by = "the best that a cluster's filter predicts from the n-grams; the clusters take turns by their shares"


class Auto(Method):
    """Plain training, `importance` or `need`, whichever lowers some target losses most for its cost. They
    take turns in the run itself: see selection/prefilters/contest.py."""

    passes, filter = "none", "auto"
    reads = Importance.reads | Need.reads | {"auto.block"}
    ranks_by = "what the filter in charge predicts from the n-grams"
