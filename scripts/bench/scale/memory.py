"""How much memory a step takes: what selection.ghost.footprint estimates, beside what a step here takes at its fullest;
see scripts.bench for the command lines.

The second table has the estimate alone, for ranks and networks that this machine does not bear.
"""

import dataclasses
import json
from dataclasses import dataclass

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from model.gpt2 import GPT2, GPT2Config
from model.loss import GPU_ELEMENTS, chunks
from model.world import World
from scripts.bench.scale.counted import SHAPES, shape_of
from scripts.bench.scale.rank import Rank, arm
from scripts.bench.steps.step import peak_bytes
from selection.ghost.footprint import Footprint
from selection.settings import Selection


@dataclass(frozen=True)
class MemoryOptions:
    """python -m scripts.bench memory"""

    n_layer: int = 6
    """Transformer blocks."""
    n_embd: int = 256
    """Width D."""
    n_head: int = 4
    """Attention heads."""
    length: int = 128
    """T."""
    vocab_size: int = 4096
    """V."""
    picks: int = 8
    """k; N is twice as many."""
    ranks: int = 8
    """W of the second table."""
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True)
class Way:
    """name; settings of the Selector; whether blocks are recomputed in backward."""

    name: str
    settings: Selection
    recomputed: bool = False

    def estimate(self, footprint: Footprint) -> int:
        settings = self.settings
        if settings.method == "regular":
            return footprint.plain(settings.picks)
        given = settings.candidates, settings.picks, settings.scoring.prefix, settings.direction.rank == 0
        if settings.scoring.memory == "streamed":
            return footprint.streamed(*given)
        return footprint.kept(*given, gram=settings.method == "greats")


def ways(picks: int, length: int) -> list[Way]:
    def low_rank(**changes: object) -> Selection:
        return arm("amortised", picks, amortise__every=1, amortise__drawn=0, amortise__explore=0.25, **changes)

    streamed = low_rank(scoring__memory="streamed")
    return [
        Way("plain, k", arm("regular", picks)),
        Way("plain, N", arm("regular", 2 * picks)),
        Way("plain, N, recomputed", arm("regular", 2 * picks), True),
        Way("exact, kept", arm("exact", picks)),
        Way("rank 8, kept", low_rank()),
        Way("rank 8, streamed", streamed),
        Way("rank 8, streamed, recomputed", streamed, True),
        Way("exact, streamed, recomputed", arm("exact", picks, scoring__memory="streamed"), True),
        Way("rank 8, prefix T/4", low_rank(scoring__prefix=max(1, length // 4))),
    ]


def measured(world: World, shape: GPT2Config, way: Way) -> tuple[int, int]:
    """(estimate, the most that tensors took at once) of a step of a single rank in float32, in bytes."""
    rank = Rank(world, shape, way.settings, "float32", way.recomputed)
    rank.update(rank.choose(0))  # from now on there are the optimizer's state and the running direction
    standing = [p.detach() for p in rank.model.parameters()]
    standing += [value for state in rank.optimizer.state.values() for value in state.values()]
    standing += list(rank.selector.state_dict().get("direction", {}).get("sums", {}).values())
    size = sum(tensor.numel() * tensor.element_size() for tensor in standing)
    peak = size + peak_bytes(lambda: rank.update(rank.choose(1)))
    samples = way.settings.picks if way.settings.method == "regular" else way.settings.candidates
    logits = chunks(samples * shape.sequence_length, shape.vocab_size, world.device)[0].stop * shape.vocab_size
    more = {"tokens": shape.sequence_length, "number": 4, "logits": logits, "recomputed": way.recomputed}
    return way.estimate(Footprint(rank.model, ranks=1, **more)), peak


def estimated(size: str, way: Way, ranks: int) -> int:
    """Of a rank with a GPU, in bfloat16."""
    shape = shape_of(size)
    with torch.device("meta"):
        model = GPT2(shape)
    more = {"tokens": shape.sequence_length, "number": 2, "logits": GPU_ELEMENTS, "recomputed": way.recomputed}
    return way.estimate(Footprint(model, ranks=ranks, **more))


def main(arguments: list[str]) -> int:
    """Measures and estimates, and prints tables or one JSON object."""
    options = tyro.cli(MemoryOptions, args=arguments, prog="scripts.bench memory", description=__doc__)
    if options.picks < 1 or options.ranks < 1:
        raise ValueError("--picks and --ranks must be at least 1")
    console = Console(stderr=options.json, width=None if Console().is_terminal else 100)
    shape = GPT2Config(options.vocab_size, options.n_layer, options.n_head, options.n_embd, options.length)
    world, found = World.join("cpu"), []
    for way in ways(options.picks, options.length):
        with console.status(way.name):
            estimate, peak = measured(world, shape, way)
        there = ways(options.picks, shape_of("124M").sequence_length)
        same = next(other for other in there if other.name == way.name)
        found.append(
            {"way": way.name, "estimate": estimate, "measured": peak}
            | {size: estimated(size, same, options.ranks) for size in SHAPES}
        )
    world.leave()
    if options.json:
        print(json.dumps({"options": dataclasses.asdict(options), "ways": found}))
        return 0
    console.print(_table(options, found))
    return 0


def _table(options: MemoryOptions, found: list[dict]) -> Table:
    shown = Table(title="the most memory at once", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown.caption = (
        f"MiB here: {options.n_layer} layers, D = {options.n_embd}, T = {options.length}, V = {options.vocab_size}, "
        f"k = {options.picks}, N = {2 * options.picks}, float32, one rank; GiB estimated for GPT-2 on {options.ranks} "
        "GPUs, T = 1024, bfloat16"
    )
    shown.title_justify = shown.caption_justify = "left"
    for name in ("way", "estimate", "measured", "off", *SHAPES):
        shown.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    for row in found:
        here = f"{row['estimate'] / 2**20:.0f}", f"{row['measured'] / 2**20:.0f}"
        off = f"{100 * (row['estimate'] / row['measured'] - 1):+.0f} %"
        shown.add_row(row["way"], *here, off, *(f"{row[size] / 2**30:.1f}" for size in SHAPES))
    return shown
