"""Steps of all ranks of a run on this machine, each a process of one thread, talking by gloo.

Every rank has one group a step, so that twice the ranks train on twice the picks.
"""

import os
import resource
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from rich.table import Table

from model.gpt2 import GPT2Config
from model.world import World
from scripts.bench.scale.processes import copies
from scripts.bench.scale.rank import Rank, arm
from scripts.bench.scale.tables import bare_table

SHAPE = GPT2Config(vocab_size=4096, n_layer=4, n_head=6, n_embd=192, sequence_length=128)  # small enough for a CPU
PERIOD = 8  # steps, of which the preset `amortised` scores one
PHASES = ("choose", "update", "learn")


@dataclass(frozen=True)
class Measured:
    """Of one arm on W ranks: seconds of a step by phase, medians over rounds of the mean of a period, and of the whole;
    half the way from the least to the most of these, as a share of the median; picked tokens and drawn candidates a
    second, over all ranks; the largest resident memory of a rank, in bytes."""

    ranks: int
    arm: str
    phases: tuple[float, ...]
    seconds: float
    spread: float
    tokens_per_second: float
    candidates_per_second: float
    resident_bytes: int


def on_ranks_here(ranks: int, function: Callable, *arguments: Any) -> list:
    """[function(world, *arguments) of every rank], each in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(ranks, copies()) as pool:
        given = [pool.submit(_rank, rank, ranks, port, function, *arguments) for rank in range(ranks)]
        return [one.result() for one in given]


def _rank(rank: int, ranks: int, port: int, function: Callable, *arguments: Any) -> Any:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = World.join("cpu")
    found = function(world, *arguments)
    world.leave()
    return found


def measure(ranks: int, name: str, picks: int, rounds: int, shape: GPT2Config = SHAPE) -> Measured:
    """The times are those of the first rank."""
    found = on_ranks_here(ranks, _steps, name, picks, rounds, shape)
    times = found[0][0]  # of every round, by phase
    phases = tuple(statistics.median(phase) for phase in zip(*times, strict=True))
    wholes = [sum(phases) for phases in times]
    seconds = statistics.median(wholes)
    spread = (max(wholes) - min(wholes)) / 2 / seconds
    settings = arm(name, picks)
    tokens, drawn = (each * ranks / seconds for each in (picks * shape.sequence_length, settings.drawn))
    return Measured(ranks, name, phases, seconds, spread, tokens, drawn, max(resident for _, resident in found))


def _steps(world: World, name: str, picks: int, rounds: int, shape: GPT2Config) -> tuple[list[tuple[float, ...]], int]:
    one, times = Rank(world, shape, arm(name, picks), "float32", recomputes=False), []
    for step in range(2):  # a scored one, and one between, warm up
        _step(one, step)
    for _ in range(rounds):
        spent = [_step(one, step) for step in range(PERIOD)]
        times.append(tuple(sum(phase) / PERIOD for phase in zip(*spent, strict=True)))
    return times, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _step(one: Rank, step: int) -> list[float]:
    """Seconds by phase."""
    marks = [time.perf_counter()]
    choices = one.choose(step)
    marks.append(time.perf_counter())
    one.update(choices)
    marks.append(time.perf_counter())
    one.learn()
    marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)]


def table(found: list[Measured]) -> Table:
    shown = bare_table(
        "measured here",
        f"{SHAPE.n_layer} layers, D = {SHAPE.n_embd}, T = {SHAPE.sequence_length}, V = {SHAPE.vocab_size}, float32, "
        f"gloo, one thread and one group a rank, {os.cpu_count()} cores; seconds of a step, the mean of {PERIOD}, and "
        "half the way from the least to the most round; efficiency: tokens a second and rank against those of the "
        "fewest ranks; MB: resident",
        ("step", "W", "s", "± %", *PHASES, "tokens/s", "candidates/s", "efficiency", "MB"),
    )
    for one in found:
        fewest = min((other for other in found if other.arm == one.arm), key=lambda other: other.ranks)
        efficiency = one.tokens_per_second / one.ranks / (fewest.tokens_per_second / fewest.ranks)
        rates: list[Any] = [f"{one.tokens_per_second:.0f}", f"{one.candidates_per_second:.1f}", f"{efficiency:.2f}"]
        phases = (f"{seconds:.3f}" for seconds in one.phases)
        size = f"{one.resident_bytes / 1e6:.0f}"
        times = (f"{one.seconds:.3f}", f"{100 * one.spread:.0f}", *phases)
        shown.add_row(one.arm, str(one.ranks), *times, *rates, size)
    return shown
