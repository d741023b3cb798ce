"""The projection put to the test: from the fewest ranks measured here to the others, beside what these took.

Computing is calibrated by the measured step of the fewest ranks, arm by arm; the link by collectives of their own.
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass

import torch
import torch.distributed as dist
from rich.table import Table

from model.gpt2 import GPT2Config
from model.world import World
from scripts.bench.scale.counted import Counted, count
from scripts.bench.scale.measured import PERIOD, SHAPE, Measured, on_ranks_here
from scripts.bench.scale.projected import Hardware, seconds
from scripts.bench.scale.rank import arm
from scripts.bench.scale.tables import bare_table

SMALL, LARGE = 1, 1 << 20  # float32 of a rank
TIMES = 21


@dataclass(frozen=True)
class Predicted:
    """Seconds of an arm's step on W ranks, and the link that it was projected by."""

    ranks: int
    arm: str
    computing: float
    communication: float
    measured: float
    latency: float
    bandwidth: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return (self.computing + self.communication) / self.measured - 1


def link(ranks: int) -> tuple[float, float]:
    """(latency, bandwidth) of these ranks, as Hardware has them: of a gather and a scatter of a sum, medians."""
    small, large = on_ranks_here(ranks, _collectives)[0]
    sent = LARGE * 4 * (ranks - 1)
    return small / (ranks - 1).bit_length(), sent / (large - small)


def _collectives(world: World) -> list[float]:
    """Seconds of a collective on few and on many numbers."""
    found = []
    for size in (SMALL, LARGE):
        part, whole = torch.ones(size), torch.ones(size * world.size)
        times = []
        for _ in range(TIMES):
            started = time.perf_counter()
            dist.all_gather_single(whole, part)
            dist.reduce_scatter_single(part, whole)
            times.append((time.perf_counter() - started) / 2)
        found.append(statistics.median(times))
    return found


def mean_step(name: str, picks: int, ranks: int, shape: GPT2Config) -> Counted:
    """The mean of a period, of which the first step is one that an amortised arm scores."""
    first, later = count(shape, arm(name, picks), ranks, steps=(8, 9), dtype="float32", as_on_a_gpu=False)
    parts = ((getattr(first, part), getattr(later, part)) for part in ("calls", "sent", "operations"))
    means = (Counter({key: (a[key] + (PERIOD - 1) * b[key]) / PERIOD for key in a | b}) for a, b in parts)
    return Counted(*means, first.reads, first.peak_bytes)


def predict(found: list[Measured], picks: int, shape: GPT2Config = SHAPE) -> list[Predicted]:
    """Of every arm on more than one rank, from the same arm on one."""
    alone = {one.arm: one for one in found if one.ranks == 1}
    links = {ranks: link(ranks) for ranks in {one.ranks for one in found} - {1}}
    predictions = []
    for one in found:
        if one.ranks == 1:
            continue
        reached = mean_step(one.arm, picks, 1, shape).operations.total() / alone[one.arm].seconds
        latency, bandwidth = links[one.ranks]
        hardware = Hardware(reached, 1.0, bandwidth, latency)
        times = seconds(mean_step(one.arm, picks, one.ranks, shape), one.ranks, hardware)
        predictions.append(Predicted(one.ranks, one.arm, *times, one.seconds, latency, bandwidth))
    return predictions


def table(predictions: list[Predicted]) -> Table:
    links = {one.ranks: one for one in predictions}
    told = "; ".join(
        f"W = {ranks}: {1e6 * one.latency:.0f} us a collective and doubling, {one.bandwidth / 1e9:.2f} GB/s"
        for ranks, one in links.items()
    )
    shown = bare_table(
        "projected from W = 1, and measured",
        "Computing: the seconds of W = 1, in proportion to the products of a rank. Communication: what is counted, by "
        f"the link as measured. {told}",
        ("step", "W", "computing", "communication", "projected", "measured", "off"),
    )
    for one in predictions:
        times = one.computing, one.communication, one.computing + one.communication, one.measured
        shown.add_row(one.arm, str(one.ranks), *(f"{seconds:.3f}" for seconds in times), f"{100 * one.error:+.0f} %")
    return shown
