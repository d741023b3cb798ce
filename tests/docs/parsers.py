"""From a command line in a text to the real parser of the command that it names, and to its entry point."""

import os
from importlib import import_module
from unittest import mock

import tyro
from torch.distributed.run import get_args_parser

from pipeline.prepare.recipe import Recipe
from scripts.bench.__main__ import BENCHMARKS
from scripts.compare.__main__ import Options as CompareOptions
from scripts.compare.pools import Options as PoolsOptions
from scripts.compare.study import read_study
from scripts.evaluate.__main__ import Evaluate
from scripts.export import Export
from scripts.generate import Generate
from scripts.mix.__main__ import Mix
from scripts.prepare.__main__ import Verify
from scripts.prepare.known import Likeness, Losses
from scripts.prepare.look import Inspect
from scripts.report.__main__ import Options as ReportOptions
from scripts.taylor.__main__ import Options as TaylorOptions
from scripts.train.options import parse as parse_train
from tests.docs.blocks import ROOT, words_of

BENCH_OPTIONS = {name: f"{name.capitalize()}Options" for name in BENCHMARKS}


def command_of(line: str) -> tuple[str, list[str]]:
    """(name, arguments) of the command that a line starts, torchrun taken off; the name may be make or pip."""
    program, *words = words_of(line)
    if program in ("make", "pip"):
        return program, words
    if program == "torchrun":
        launch = get_args_parser().parse_args(words)
        assert launch.module, line
        return launch.training_script.removeprefix("scripts."), launch.training_script_args
    assert (program, words[0]) == ("python", "-m"), line
    folder, _, name = words[1].partition(".")
    assert folder == "scripts" or name == "soak", line
    return name, words[2:]


def ranks_of(line: str) -> int:
    """How many processes torchrun would start of the command."""
    program, *words = words_of(line)
    if program != "torchrun":
        return 1
    launch = get_args_parser().parse_args(words)
    return int(launch.nnodes.rpartition(":")[2]) * int(launch.nproc_per_node)  # nodes may be least:most


def check(line: str) -> None:
    """Raises, or exits as the parser does, where the command would not accept its options. To be called at ROOT."""
    name, words = command_of(line)
    with mock.patch.dict(os.environ, WORLD_SIZE=str(ranks_of(line))):
        CHECKS[name](words)


def options_of(benchmark: str) -> type:
    return getattr(import_module(f"scripts.bench.{BENCHMARKS[benchmark]}"), BENCH_OPTIONS[benchmark])


def _train(words: list[str]) -> None:
    parse_train(words).check()


def _prepare(words: list[str]) -> None:
    kinds = {"verify": Verify, "inspect": Inspect, "losses": Losses, "likeness": Likeness}
    if words[0] in kinds:
        tyro.cli(kinds[words[0]], args=words[1:])
    else:
        tyro.cli(Recipe, args=words).check()


def _report(words: list[str]) -> None:
    tyro.cli(ReportOptions, args=["12" if word == "1234" else word for word in words]).check()


def _compare(words: list[str]) -> None:
    chosen = tyro.cli(CompareOptions, args=words)
    study = read_study(chosen.config, chosen.out, chosen.arms, chosen.seeds, chosen.data_path, chosen.ranks)
    for trial in study.trials():
        trial.config.check()


def _bench(words: list[str]) -> None:
    tyro.cli(options_of(words[0]), args=words[1:])


def _make(words: list[str]) -> None:
    (target,) = words
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target


def _pip(words: list[str]) -> None:
    assert words == ["install", "."]


def _soak(words: list[str]) -> None:
    assert words == []
    import_module("tests.soak")


CHECKS = {
    "train": _train,
    "prepare": _prepare,
    "report": _report,
    "compare": _compare,
    "compare.pools": lambda words: tyro.cli(PoolsOptions, args=words),
    "bench": _bench,
    "evaluate": lambda words: tyro.cli(Evaluate, args=words),
    "export": lambda words: tyro.cli(Export, args=words),
    "generate": lambda words: tyro.cli(Generate, args=words),
    "mix": lambda words: tyro.cli(Mix, args=words),
    "taylor": lambda words: tyro.cli(TaylorOptions, args=words).check(),
    "make": _make,
    "pip": _pip,
    "soak": _soak,
}
