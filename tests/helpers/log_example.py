"""A small selection log with everything in it, and the same rows as plain Python values."""

from collections import namedtuple

import numpy as np

from selection.attribution.open_log import spans_table
from selection.log.reader import read_log
from selection.log.writer import SelectionLog

Span = namedtuple("Span", "document source first last")
STEPS, GROUPS, N, K, SAMPLES = 30, 3, 6, 2, 144
CURVATURE = 2.0


def spans_of(sample_id):
    """Documents of four samples each, 100 characters a sample; every third sample ends with 25 of the next one."""
    document = sample_id // 4
    first = sample_id % 4 * 100
    name = f"doc-{document:02d}"
    if sample_id % 3:
        return [Span(name, source_of(document), first, first + 100)]
    other = document + 1
    return [
        Span(name, source_of(document), first, first + 75),
        Span(f"doc-{other:02d}", source_of(other), 400, 425),
    ]


def source_of(document):
    return ("prose", "code", "mail")[document % 3]


def write_log(folder, seed=0, method="greats"):
    """30 steps of 3 groups of 6 over 144 samples, 3.75 epochs, with what a method logs. Picks are the 2 highest scores
    (of `regular`, which scores nothing, all 6); code has high first-order scores, losses, norms and predictions."""
    rng = np.random.default_rng(seed)
    order = [np.concatenate([rng.permutation(48) + 48 * group for _ in range(4)]) for group in range(GROUPS)]
    for rank, groups in enumerate([(0, 1), (2,)]):
        log = SelectionLog(folder, rank)
        for step in range(STEPS):
            for group in groups:
                ids = order[group][step * N : (step + 1) * N]
                code = np.array([source_of(i // 4) == "code" for i in ids])
                row = what_is_logged(method, rng, code, 5 - step / 10)
                log.append(step, group, ids, learning_rate=0.1 / (1 + step), **row)
        log.close()
    return read_log(folder).to_pylist()


def what_is_logged(method, rng, code, level):
    """The picks and quantities of a group of N: losses are about `level`, all is one higher where it is `code`."""
    first_order, loss = rng.standard_normal(N) + code, level + rng.standard_normal(N) + code
    interaction, norm, predicted = rng.standard_normal(N), rng.random(N) + code, rng.standard_normal(N) + code
    if method == "regular":
        return {"picks": range(N), "loss": loss}
    if method == "importance":  # the model sees nothing but the picks
        picks = np.argsort(-predicted)[:K]
        measured = {"measured": picks, "loss": loss[picks]}
        return {"picks": picks, "predicted": predicted, "by_prediction": True, **measured}
    quantities = {
        "greats": {"first_order": first_order, "interaction": interaction, "self_norm": norm, "score": first_order},
        "topk": {"first_order": first_order, "score": first_order},
        "bottomk": {"first_order": first_order, "score": -first_order},
        "gradnorm": {"self_norm": norm, "score": norm},
        "maxloss": {"score": loss},
    }[method]
    return {"picks": np.argsort(-quantities["score"])[:K], "loss": loss, **quantities}


def write_spans():
    return spans_table((i, spans_of(i), 8 + i / SAMPLES) for i in range(SAMPLES))


def write_cascade(folder, sign=1):
    """Four steps of one group behind a prefilter, by hand: 6 drawn, in steps 0 and 2 a shortlist of 4 scored, 2 picked.

    In step 1 the prefilter picks its two highest; in step 3, switched off, the first two drawn are taken. `sign`
    turns the scores round, and what they pick.
    """
    log = SelectionLog(folder, rank=0)

    def add(step, ids, predicted, measured, picks, scores=None):
        scores = None if scores is None else sign * np.array(scores)
        losses = np.arange(len(measured)) + step
        log.append(step, 0, np.array(ids), picks, learning_rate=0.5, measured=measured, loss=losses,
                   first_order=scores, score=scores, predicted=np.array(predicted))  # fmt: skip

    add(0, range(6), [6, 5, 4, 3, 2, 1], [0, 1, 2, 5], [5, 1] if sign > 0 else [0, 2], [1, 3, 2, 4])
    add(1, range(6, 12), [1, 2, 9, 4, 8, 3], [2, 4], [2, 4])
    add(2, [2, 8, 10, 0, 12, 13], [0.5, 0.4, 0.3, 0.2, 0.1, 0], [0, 1, 2, 3], [2, 1] if sign > 0 else [0, 3],
        [-1, 5, 6, 2])  # fmt: skip
    add(3, [3, 4, 5, 1, 14, 15], [1, 2, 3, 4, 5, 6], [0, 1], [0, 1])
    log.close()


def cascade_spans():
    """Each sample is a document of its own; those below 8 are from source a."""
    return spans_table((i, [Span(f"doc-{i}", "a" if i < 8 else "b", 0, 10 + i)], 8 + i / 16) for i in range(16))
