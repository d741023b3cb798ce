"""A study file, and runs that are made up."""

import json
from pathlib import Path

from pipeline.dataset.manifest import Manifest
from scripts.train.options import read_config, to_toml

BASE = """
[data]
workers = 0
[model]
n_layer = 1
n_head = 1
n_embd = 16
[train]
steps = 4
learning_rate = 1e-3
min_learning_rate = 1e-4
warmup_steps = 1
eval_every = 2
eval_samples = 8
[selection]
candidates = 4
picks = 2
[selection.direction]
samples = 2
"""
TABLES = """
[compare]
learning_rates = [1e-3, 2e-3]
[arms.regular]
selection.method = "regular"
[arms.top]
selection.method = "topk"
selection.direction.rank = 2
"""


class Runs:
    """Stands in for scripts.train: `losses` gives (val, test) of the last step by (arm, learning rate, seed), `ends`
    how a run ends instead of being finished. A step takes `pace` seconds; both losses are 8 at first and fall
    linearly."""

    def __init__(self, losses, pace=None, ends=None):
        self.losses, self.pace, self.ends = losses, pace or {}, ends or {}
        self.calls = []

    def __call__(self, command: list[str], log: Path) -> int:
        config = read_config(Path(command[command.index("--config") + 1]))
        arm, folder = Path(config.out).parts[-2:]
        self.calls.append((f"{arm}/{folder}", "--train.resume" in command))
        key = arm, config.train.learning_rate, config.train.seed
        run = {"manifest_sha256": Manifest.load(config.data.dataset()).sha256, "world_size": 1, "code_version": "c"}
        Path(config.out).mkdir(exist_ok=True)
        Path(config.out, "config.toml").write_text(to_toml(config, run))
        end = self.ends.pop(key, None)
        lines = [] if end else self.evaluations(key, config.train.steps)
        if end == "diverged":
            lines = [{"step": 0, "val_loss": 8.0, "test_loss": 8.0, "seconds": 0.0}]
            lines += [{"step": step, "skipped": True} for step in range(10)]
        Path(config.out, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if end == "interrupted":
            raise KeyboardInterrupt
        log.write_text("some output\nerror: the disk is full\n" if end else "fine\n")
        return 2 if end else 0

    def evaluations(self, key, steps):
        val, test = self.losses[key]
        pace = self.pace.get(key[0], 1.0)
        for step in range(0, steps + 1, 2):
            done = step / steps
            yield {"step": step, "val_loss": 8 + (val - 8) * done, "test_loss": 8 + (test - 8) * done,
                   "seconds": step * pace}  # fmt: skip


# The best val loss and the best test loss are at different learning rates.
LOSSES = {
    ("regular", 1e-3, 0): (5.0, 6.0),
    ("regular", 2e-3, 0): (5.5, 4.0),
    ("regular", 1e-3, 1): (5.0, 6.4),
    ("top", 1e-3, 0): (5.0, 3.0),
    ("top", 2e-3, 0): (4.5, 4.0),
    ("top", 2e-3, 1): (4.6, 5.0),
}
ALL = [
    "regular/lr-1e-03-seed-0",
    "top/lr-1e-03-seed-0",
    "regular/lr-2e-03-seed-0",
    "top/lr-2e-03-seed-0",
    "regular/lr-1e-03-seed-1",
    "top/lr-2e-03-seed-1",
]
