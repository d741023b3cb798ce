"""Steps of all ranks of a run on this machine, each a process of one thread, talking by gloo.

Every rank has one group a step, so that twice the ranks train on twice the picks.
"""

import os
import resource
import socket
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import torch
from rich.table import Table

from model.gpt2 import GPT2Config
from model.world import World
from scripts.bench.scale.rank import Rank, arm
from scripts.bench.scale.tables import bare_table

# Small enough for a CPU: layers, heads, width, T, V.
LAYERS, HEADS, WIDTH, TOKENS, VOCABULARY = 4, 6, 384, 256, 4096
PERIOD = 8  # steps, of which the preset `amortised` scores one
PHASES = ("choose", "update", "learn")


@dataclass(frozen=True)
class Measured:
    """Of one arm on W ranks: seconds of a step by phase, medians over rounds of the mean of a period, and of the whole;
    picked tokens and drawn candidates a second, over all ranks; the largest resident memory of a rank, in bytes."""

    ranks: int
    arm: str
    phases: tuple[float, ...]
    seconds: float
    tokens_per_second: float
    candidates_per_second: float
    resident_bytes: int


def measure(ranks: int, name: str, picks: int, rounds: int, shape: GPT2Config | None = None) -> Measured:
    """All ranks in processes of their own; the times are those of the first."""
    shape = shape or GPT2Config(VOCABULARY, LAYERS, HEADS, WIDTH, TOKENS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(ranks, get_context("spawn")) as processes:
        given = [processes.submit(_rank, rank, ranks, port, name, picks, rounds, shape) for rank in range(ranks)]
        found = [one.result() for one in given]
    times = found[0][0]  # of every round, by phase
    phases = tuple(statistics.median(phase) for phase in zip(*times, strict=True))
    seconds = statistics.median(map(sum, times))
    settings = arm(name, picks)
    tokens, drawn = (each * ranks / seconds for each in (picks * shape.sequence_length, settings.drawn))
    return Measured(ranks, name, phases, seconds, tokens, drawn, max(resident for _, resident in found))


def _rank(
    rank: int, ranks: int, port: int, name: str, picks: int, rounds: int, shape: GPT2Config
) -> tuple[list[tuple[float, ...]], int]:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = World.join("cpu")
    one, times = Rank(world, shape, arm(name, picks), "float32", recomputes=False), []
    for _ in range(1 + rounds):  # the first warms up
        spent = [0.0] * len(PHASES)
        for step in range(PERIOD):
            marks = [time.perf_counter()]
            choices = one.choose(step)
            marks.append(time.perf_counter())
            one.update(choices)
            marks.append(time.perf_counter())
            one.learn()
            marks.append(time.perf_counter())
            spent = [s + after - before for s, (before, after) in zip(spent, pairwise(marks), strict=True)]
        times.append(tuple(s / PERIOD for s in spent))
    world.leave()
    return times[1:], 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(found: list[Measured]) -> Table:
    shown = bare_table(
        "measured here",
        f"{LAYERS} layers, D = {WIDTH}, T = {TOKENS}, V = {VOCABULARY}, float32, gloo, one thread and one group a "
        f"rank, {os.cpu_count()} cores; seconds of a step, the mean of {PERIOD}; efficiency: tokens a second and rank "
        "against those of the fewest ranks",
        ("step", "W", "s", *PHASES, "tokens/s", "candidates/s", "efficiency", "MB"),
    )
    for one in found:
        fewest = min((other for other in found if other.arm == one.arm), key=lambda other: other.ranks)
        efficiency = one.tokens_per_second / one.ranks / (fewest.tokens_per_second / fewest.ranks)
        rates: list[Any] = [f"{one.tokens_per_second:.0f}", f"{one.candidates_per_second:.1f}", f"{efficiency:.2f}"]
        phases = (f"{seconds:.3f}" for seconds in one.phases)
        size = f"{one.resident_bytes / 1e6:.0f}"
        shown.add_row(one.arm, str(one.ranks), f"{one.seconds:.3f}", *phases, *rates, size)
    return shown
