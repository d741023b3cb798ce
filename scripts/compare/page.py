"""README.md of a comparison: its tables, and what made them."""

import os
import platform
import shlex
from collections.abc import Sequence

import torch

from scripts.compare.results import Results
from scripts.compare.tables import tables


def page(results: Results, command: Sequence[str]) -> str:
    """README.md: the tables, and what made them."""
    study = results.study
    codes = sorted({result.code for result in results})
    parts = [
        "# Comparison",
        tables(results),
        "![Loss against steps and seconds](curves.png)",
        "The lines are medians over the seeds, the bands go from the lowest to the highest, and the dashed line is "
        f"the final loss of {study.reference}. Every evaluation is a row of `results.csv`.",
        "## How it was made",
        f"    {shlex.join(command)}",
        f"{machine(study.ranks)}. Code: {', '.join(codes)}.",
        *(f"`{path}`:\n\n```toml\n{path.read_text().strip()}\n```" for path in study.paths),
    ]
    return "\n\n".join(parts) + "\n"


def machine(ranks: int) -> str:
    """Processor, cores, ranks, threads and torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # torchrun gives each of several ranks one thread unless it is told.
    threads = int(os.environ.get("OMP_NUM_THREADS", 1)) if ranks > 1 else torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{_processor()}, {cores} {_plural(cores, 'core')}, {device}; {ranks} {_plural(ranks, 'rank')} of {threads} "
        f"{_plural(threads, 'thread')}; torch {torch.__version__}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
