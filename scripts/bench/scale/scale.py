"""What a step costs on many ranks; see scripts.bench for the command lines.

Of one rank among W on a fake process group, under fake tensors: the collectives of a step, the bytes that the rank
sends for them in a ring, the most memory at once on the first and the last rank. The step's own code runs, with the
parts of products as large as on a GPU; nothing is computed. GPT-2 with V = 50304 and T = 1024, passes in bfloat16.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import tyro
from rich.console import Console

from scripts.bench.scale import measured, predicted
from scripts.bench.scale.counted import SHAPES, Counted, count, shape_of
from scripts.bench.scale.measured import Measured, measure
from scripts.bench.scale.predicted import predict
from scripts.bench.scale.projected import Hardware, projected, seconds
from scripts.bench.scale.rank import ARMS, arm
from scripts.bench.scale.tables import by_purpose, totals
from selection.settings import read_by, replaced


@dataclass(frozen=True)
class ScaleOptions:
    """python -m scripts.bench scale"""

    sizes: tuple[Literal[tuple(SHAPES)], ...] = ("124M",)  # type: ignore[valid-type]
    """Networks."""
    ranks: tuple[int, ...] = ()
    """World sizes W that are counted; by default 8, 64 and 1024, and none with --here."""
    arms: tuple[Literal[ARMS], ...] = ARMS  # type: ignore[valid-type]
    """Presets of scripts/configs/selection; `amortised` has a step that is scored and one that is not."""
    picks: int = 8
    """k; N, m and the candidates drawn grow with it as the presets have them."""
    groups: int = 1
    """Groups of a step on every rank."""
    recompute: bool = False
    """Blocks are recomputed in backward."""
    memory: Literal["kept", "streamed"] = "kept"
    """Of the recorded pass."""
    here: tuple[int, ...] = ()
    """World sizes that are measured on this machine, by gloo, on a small network; in about two minutes on two cores."""
    rounds: int = 3
    """Times that 8 steps are measured there."""
    project: bool = False
    """Project the time of a step on the hardware that is given; with --here, from W = 1, beside what was measured."""
    hardware: Hardware = field(default_factory=Hardware)
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass
class Row:
    """A step of the first rank, and of the last one the peak alone."""

    size: str
    ranks: int
    step: str
    first: Counted
    last_peak_bytes: int


def measured_here(options: ScaleOptions, console: Console) -> list[Measured]:
    found = []
    for name in options.arms:
        for ranks in options.here:
            with console.status(f"measuring {name} on {ranks} rank{'s' * (ranks > 1)}"):
                found.append(measure(ranks, name, options.picks, options.rounds))
    return found


def counted_rows(options: ScaleOptions, console: Console) -> list[Row]:
    found = []
    for size in options.sizes:
        for ranks in options.ranks or (() if options.here else (8, 64, 1024)):
            for name in options.arms:
                with console.status(f"{size}, {ranks} ranks, {name}"):
                    found += _rows(options, size, ranks, name)
    return found


def _rows(options: ScaleOptions, size: str, ranks: int, name: str) -> list[Row]:
    settings = arm(name, options.picks)
    if "scoring.memory" in read_by(settings):
        settings = replaced(settings, "scoring.memory", options.memory)
    steps = {"amortised, scored": 8, "amortised, between": 9} if name == "amortised" else {name: 8}
    given = shape_of(size), settings, ranks
    more = {"groups": options.groups, "steps": tuple(steps.values()), "recomputes": options.recompute}
    first = count(*given, rank=0, **more)
    last = count(*given, rank=ranks - 1, **more)
    return [
        Row(size, ranks, step, here, there.peak_bytes) for step, here, there in zip(steps, first, last, strict=True)
    ]


def main(arguments: list[str]) -> int:
    """Counts, and prints tables or one JSON object."""
    options = tyro.cli(ScaleOptions, args=arguments, prog="scripts.bench scale", description=__doc__)
    for key in ("picks", "groups"):
        if getattr(options, key) < 1:
            raise ValueError(f"--{key} must be at least 1, not {getattr(options, key)}")
    if min(options.ranks, default=2) < 2:
        raise ValueError(f"--ranks {min(options.ranks)}: nothing travels among fewer than 2")
    console = Console(stderr=options.json, width=None if Console().is_terminal else 110)
    if min(options.here, default=1) < 1 or options.rounds < 1:
        raise ValueError("--here and --rounds must be at least 1")
    if options.project and options.here and 1 not in options.here:
        raise ValueError("--project with --here: name W = 1 as well, which it projects from")
    found = measured_here(options, console)
    predictions = predict(found, options.picks) if options.project else []
    rows = counted_rows(options, console)
    if options.json:
        here, there = ([dataclasses.asdict(one) for one in each] for each in (found, predictions))
        steps = [as_json(row, options) for row in rows]
        print(json.dumps({"options": dataclasses.asdict(options), "here": here, "projected": there, "steps": steps}))
        return 0
    if found:
        console.print(measured.table(found))
    if predictions:
        console.print(predicted.table(predictions))
    if rows:
        console.print(totals(rows))
        console.print(by_purpose(rows))
    if rows and options.project:
        console.print(projected(rows, options.hardware))
    return 0


def as_json(row: Row, options: ScaleOptions) -> dict:
    by_purpose = [
        {"purpose": purpose, "by_fsdp": by_fsdp, "collectives": calls, "bytes": row.first.sent[purpose, by_fsdp]}
        for (purpose, by_fsdp), calls in row.first.calls.items()
    ]
    counts = {"operations": row.first.operations, "host_reads": row.first.reads, "peak_bytes": row.first.peak_bytes}
    named = {"size": row.size, "ranks": row.ranks, "step": row.step}
    if options.project:
        times = seconds(row.first, row.ranks, options.hardware)
        named |= dict(zip(("computing_seconds", "communication_seconds"), times, strict=True))
    return named | counts | {"last_peak_bytes": row.last_peak_bytes, "collectives": by_purpose}
