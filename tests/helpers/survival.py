"""Settings of the runs that are killed, and whether two runs are the same."""

import json
import os

import torch
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict as load_state_dict

from model.checkpoint.safe_load import SafeReader
from selection.log.reader import read_log

STEPS = {"train__steps": 8, "train__eval_every": 3, "train__checkpoint_every": 2, "model__n_layer": 1}

# With all that outlives a step besides model and optimizer: a running direction, and a predictor that was sent scores.
CASCADE = {"selection__amortise__every": 3, "selection__amortise__drawn": 12}
WHOLE = STEPS | CASCADE | {"selection__direction__decay": 0.9}


def metrics_but_times(folder):
    """metrics.jsonl without what time it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]


def tensors_of(checkpoint):
    """Every tensor of a checkpoint, by name."""
    read = {}
    load_state_dict(read, storage_reader=SafeReader(checkpoint), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return {name: value for name, value in _flattened(read) if isinstance(value, torch.Tensor)}


def _flattened(nested, prefix=""):
    for name, value in nested.items():
        yield from _flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]


def assert_same(folder, whole, why=""):
    """Candidates, picks, scores and losses bit by bit; no row and no step twice or missing; the same checkpoint."""
    assert metrics_but_times(folder) == metrics_but_times(whole), why
    assert read_log(folder / "selection").equals(read_log(whole / "selection")), why
    assert sorted(os.listdir(folder / "checkpoints")) == sorted(os.listdir(whole / "checkpoints")), why
    newest = sorted(os.listdir(whole / "checkpoints"))[-1]
    ours, theirs = (tensors_of(path / "checkpoints" / newest) for path in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), why


def at_step(step, rank, action):
    """Code for a nursery's setup: `action` before this step on this rank."""
    return f"""
import os, signal, torch, scripts.train.loop as loop
take_step = loop.take_step
def stepped(run, *drawn):
    if (run.step, rank) == ({step}, {rank}):
        {action}
    return take_step(run, *drawn)
loop.take_step = stepped
"""
