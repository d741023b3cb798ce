"""Whole runs of a tiny model, and what they leave behind."""

import json
import tempfile
from pathlib import Path

from scripts.train.__main__ import main
from selection.log.reader import read_log
from selection.methods import METHODS
from tests.helpers.nursery import shared_nursery

TINY = {
    "model.n-layer": 2,
    "model.n-head": 2,
    "model.n-embd": 16,
    "train.steps": 6,
    "train.groups": 4,
    "train.warmup-steps": 2,
    "train.learning-rate": 3e-3,
    "train.eval-every": 4,
    "train.eval-samples": 10,
    "train.checkpoint-every": 4,
    "data.workers": 0,
    "selection.candidates": 6,
    "selection.picks": 2,
    "selection.direction.samples": 5,
}

DRAWN = {"selection__amortise__drawn": 12}  # of which TINY's candidates are shortlisted


def options(dataset, out, **changes) -> list[str]:
    """A command line: TINY, less what the method does not read, and `changes`, as in selection__method="topk"."""
    reads = METHODS[changes.get("selection__method", "greats")].reads
    tiny = {key: v for key, v in TINY.items() if not key.startswith("selection.") or key[len("selection.") :] in reads}
    if "model__kind" in changes:
        tiny = {key: value for key, value in tiny.items() if not key.startswith("model.")}
    values = tiny | {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    arguments = [
        part for key, value in values.items() for part in ([f"--{key}"] if value is True else [f"--{key}", str(value)])
    ]
    return [*arguments, "--data.path", str(dataset), "--out", str(out)]


def run(dataset, out, **changes):
    """A run in this process; its folder."""
    assert main(options(dataset, out, **changes)) == 0
    return out


def run_on_two_ranks(dataset, out, **changes):
    return run_on_ranks(2, dataset, out, **changes)


def run_on_ranks(size, dataset, out, **changes):
    with tempfile.TemporaryDirectory() as folder:
        answer = shared_nursery().run(options(dataset, out, **changes), Path(folder) / "log", size)
        assert answer["codes"] == [0] * size, [path.read_text() for path in sorted(Path(folder).iterdir())]
    return out


def measured(folder, *keys):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[key] for key in keys) for line in lines if keys[0] in line]


def log_rows(folder, *columns):
    """The log's rows without the rank, in the order of step, group and drawing."""
    return read_log(folder / "selection", list(columns)).to_pydict()


LOSSES = ("train_loss", "grad_norm", "learning_rate", "step")
