"""Measures a model: its losses on the held-out splits of a dataset, or its answers to a published evaluation.

    python -m scripts.evaluate runs/demo --data data/demo
    python -m scripts.evaluate models/llama --data data/llama --splits test --samples 1000 --json
    python -m scripts.evaluate models/llama --task mmlu --task-files 'mmlu/test/*.csv'
    python -m scripts.evaluate models/chat --task samsum --task-files samsum/test.json --chat-template models/chat

The model is that of a run's newest checkpoint or of a folder of `transformers`. Of a dataset come perplexity, e to the
mean loss of the tokens, and bits per byte, by split and source; of a task accuracy, exact match and F1, or ROUGE.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from model.world import choose_device
from pipeline.dataset.manifest import HELD_OUT
from scripts.evaluate import losses, tasks
from scripts.export import open_model

TOKENS = 64


@dataclass(frozen=True)
class Evaluate:
    model: tyro.conf.Positional[Path]
    """Run folder, or folder of `transformers` or `peft`."""
    data: Path | None = None
    """Dataset folder, prepared with the model's tokenizer."""
    splits: tuple[Literal[HELD_OUT], ...] | None = None  # type: ignore[valid-type]
    """Splits of it to measure on (default: val and test)."""
    batch: int | None = None
    """Samples of it in one pass (default: 8)."""
    task: Literal[tuple(tasks.TASKS)] | None = None  # type: ignore[valid-type]
    """Evaluation whose questions are asked, in place of a dataset."""
    task_files: tuple[str, ...] = ()
    """Paths or globs of its files."""
    chat_template: str | None = None
    """A tokenizer's folder whose chat template writes the questions; by default they are written as LESS does."""
    tokens: int | None = None
    """Tokens of an answer that the model writes, at most (default: 64)."""
    samples: int = 0
    """Samples of each split, or questions, evenly spread; 0 takes all."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def check(self) -> None:
        """ValueError for what is missing, out of its range or does nothing."""
        if (self.data is None) == (self.task is None):
            raise ValueError("give either --data, a dataset whose losses are measured, or --task and --task-files")
        idle = ("task_files", "chat_template", "tokens") if self.task is None else ("splits", "batch")
        for name in idle:
            if getattr(self, name) not in (None, ()):
                what = "--data" if self.task is None else "--task"
                raise ValueError(f"--{name.replace('_', '-')} does nothing with {what}: leave it out")
        if self.task is not None and not self.task_files:
            raise ValueError(f"--task {self.task} needs --task-files: the paths or globs of its files")
        for name, value, least in (("samples", self.samples, 0), ("batch", self.batch, 1), ("tokens", self.tokens, 1)):
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, not {value}")


def evaluate(chosen: Evaluate, console: Console) -> tuple[dict, list]:
    """What --json prints, and what is shown in its place."""
    chosen.check()
    opened = open_model(chosen.model)
    opened.network.to(choose_device("auto")[0])
    told = {"model": str(chosen.model)}
    if chosen.task is None:
        splits, batch = chosen.splits or ("val", "test"), chosen.batch or 8
        measured = losses.losses(opened, chosen.data, splits, chosen.samples, batch, console)
        return told | {"data": str(chosen.data), "splits": measured}, [losses.table(measured)]
    asked = chosen.task_files, chosen.chat_template, chosen.samples, chosen.tokens or TOKENS
    measured, cut = tasks.answers(opened, chosen.task, *asked, console)
    shown = [tasks.table(measured)]
    if cut:
        shown.append(f"{cut} questions are longer than the model takes; their ends were asked")
    return told | {"task": chosen.task, "sources": measured, "cut": cut}, shown


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input or a file is at fault."""
    chosen = tyro.cli(Evaluate, args=arguments, description=__doc__, prog="scripts.evaluate")
    console = Console(stderr=chosen.json, width=None if Console().is_terminal else 100)
    try:
        told, shown = evaluate(chosen, console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(told))
    else:
        console.print(*shown, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
