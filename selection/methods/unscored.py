"""Methods that run the model on nothing but the picks."""

from .method import ALWAYS, CHOOSING, Method


class Regular(Method):
    """Draws k candidates a group and trains on all of them: plain training."""

    chooses, passes, reads = False, "none", ALWAYS


class Importance(Method):
    """The k of N whose n-grams are more frequent in the target text than in the pool: a static filter.

    After Xie et al., "DSIR", NeurIPS 2023, section 3; see selection/prefilters/importance.py.
    """

    passes, filter, reads = "none", "importance", CHOOSING | {"direction.targets"}
    ranks_by = "what the filter predicts from the n-grams"
