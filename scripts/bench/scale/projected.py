"""From what was counted of a step to how long it would take, on hardware that is given by four numbers."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from scripts.bench.scale.counted import Counted
from scripts.bench.scale.tables import bare_table

EVERY = 8  # S of the preset `amortised`


@dataclass(frozen=True)
class Hardware:
    """A GPU and its network. The defaults are an H100 behind 400 Gbit/s, at the utilisation that torchtitan reports."""

    peak: float = 989e12
    """Floating-point operations a second at most, of products in bfloat16."""
    utilisation: float = 0.36
    """Share of it that a step's products reach."""
    bandwidth: float = 50e9
    """Bytes a second that a rank sends."""
    latency: float = 30e-6
    """Seconds that a collective takes beside its bytes, for every doubling of the ranks."""


def seconds(step: Counted, ranks: int, hardware: Hardware) -> tuple[float, float]:
    """(of computing, of communication) of one step."""
    computing = step.operations.total() / (hardware.peak * hardware.utilisation)
    doublings = (ranks - 1).bit_length()
    sending = step.sent.total() / hardware.bandwidth
    return computing, sending + step.calls.total() * hardware.latency * doublings


def projected(rows: list[Any], hardware: Hardware) -> Table:
    """Steps where nothing is hidden behind computing, and where all of the communication is that can be."""
    table = bare_table(
        "projected seconds of a step",
        f"Assumed: {hardware.peak / 1e12:.0f} Tflop/s at most, of which products reach {hardware.utilisation:.0%}, and "
        f"nothing but products takes time on a GPU; a rank sends {hardware.bandwidth / 1e9:.0f} GB/s in a ring; a "
        f"collective takes {1e6 * hardware.latency:.0f} us for every doubling of the ranks. Alone: computing, then "
        "communication. Hidden: the longer of the two. / plain: of `regular`'s step",
        ("size", "W", "step", "computing", "communication", "alone", "/ plain", "hidden", "/ plain"),
    )
    for size, ranks in dict.fromkeys((row.size, row.ranks) for row in rows):
        times = {
            row.step: seconds(row.first, ranks, hardware) for row in rows if (row.size, row.ranks) == (size, ranks)
        }
        if "amortised, scored" in times:
            scored, between = times["amortised, scored"], times["amortised, between"]
            mean = ((a + (EVERY - 1) * b) / EVERY for a, b in zip(scored, between, strict=True))
            times[f"amortised, mean of {EVERY}"] = tuple(mean)
        for step, (computing, communication) in times.items():
            cells = [f"{computing:.4f}", f"{communication:.4f}"]
            for join in (sum, max):
                whole = join((computing, communication))
                cells += [f"{whole:.4f}", f"{whole / join(times['regular']):.2f}" if "regular" in times else ""]
            table.add_row(size, str(ranks), step, *cells)
    return table
