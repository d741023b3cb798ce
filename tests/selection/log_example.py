"""A small selection log with everything in it, and the same rows as plain Python values."""

from collections import namedtuple

import numpy as np

from selection.attribution import spans_table
from selection.log import SelectionLog, read_log

Span = namedtuple("Span", "document source first last")
STEPS, GROUPS, N, K, SAMPLES = 30, 3, 6, 2, 144


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


def write_log(folder, seed=0, scored=True):
    """30 steps of 3 groups of 6 over 144 samples, 3.75 epochs. Picks are the 2 highest scores; code scores high."""
    rng = np.random.default_rng(seed)
    order = [np.concatenate([rng.permutation(48) + 48 * group for _ in range(4)]) for group in range(GROUPS)]
    for rank, groups in enumerate([(0, 1), (2,)]):
        log = SelectionLog(folder, rank)
        for step in range(STEPS):
            for group in groups:
                ids = order[group][step * N : (step + 1) * N]
                scores = rng.standard_normal(N) + [source_of(i // 4) == "code" for i in ids]
                quantities = {
                    "loss": 5 - step / 10 + rng.standard_normal(N),
                    "first_order": scores,
                    "interaction": rng.standard_normal(N),
                    "self_norm": rng.random(N),
                }
                picks = np.argsort(-scores)[:K]
                log.append(step, group, ids, picks, learning_rate=0.1 / (1 + step), **(quantities if scored else {}))
        log.close()
    return read_log(folder).to_pylist()


def write_spans():
    return spans_table((i, spans_of(i), 8 + i / SAMPLES) for i in range(SAMPLES))
