"""Make a dataset folder of any text, or check one.

    python -m scripts.prepare --corpus installed-docs --out data/demo
    python -m scripts.prepare --corpus openwebtext --tokenizer gpt2 --seq-len 1024 --out data/owt
    python -m scripts.prepare --corpus hub --dataset owner/name --subset all --text-field body --out data/web
    python -m scripts.prepare --corpus webdataset --data-files 'shards-{000..099}.tar' --out data/shards
    python -m scripts.prepare --corpus json --data-files 'news/*.jsonl.gz' --text-field text \
        --source-field source --id-field id --target-sources news --out data/news
    python -m scripts.prepare --corpus openwebtext --tokenizer gpt2 --target-files 'mine/*.jsonl' --out data/mine
    python -m scripts.prepare --corpus instructions --data-files 'talks/*.jsonl' --seq-len 512 --out data/talks
    python -m scripts.prepare --recipe mix.toml --out data/mixed
    python -m scripts.prepare verify data/owt          # or with --drop: go on without the broken shards
    python -m scripts.prepare inspect data/owt         # or with --html: a page too
    python -m scripts.prepare losses data/mix --run runs/reference --out data/mix-losses.npz    # for method rho_loss
    python -m scripts.prepare likeness data/mix --out data/mix-likeness.npz                     # for method sbert

Text is tokenised over all cores (`--workers`), in constant memory. The folder appears under its name when it is whole.
Interrupted or killed, the same command goes on: what was encoded is kept in `<out>.partial`. `verify`
compares every shard with the manifest and ends with exit code 1 when one is broken; wrong input ends with 2. With
`--drop` it writes a manifest without the broken shards and ends with 0: to a run that is resumed, that is another
dataset. The old manifest is kept beside it, and no shard is removed. `losses` and `likeness` write a number for every
train sample, which a method reads by `selection.reference.file`.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from pipeline.corpora.document import Document
from pipeline.dataset.duplicates import problem_of
from pipeline.dataset.manifest import SPLITS, Manifest
from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe
from pipeline.prepare.verify import drop_shards, verify
from scripts.prepare.duplicates import sentences
from scripts.prepare.known import Likeness, Losses, likeness, losses
from scripts.prepare.look import Inspect, inspect

_SHOWN_SOURCES = 12
_REDRAW_SECONDS = 0.1


@dataclass(frozen=True)
class Verify:
    """Check every shard of a dataset folder against its manifest: bytes, sha256, samples; and the tokenizer."""

    path: tyro.conf.Positional[Path]
    """The dataset folder."""
    drop: bool = False
    """Write a manifest without the broken shards."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = max(task.elapsed or 0, 1e-9)
        return Text(f"{task.completed / seconds:,.0f}/s {task.fields['size'] / 1e6 / seconds:.1f} MB/s")


def _watched(progress: Progress, what: str, things: Iterable, total: int | None) -> Iterator:
    """The same things, with a bar that says how fast they pass. Their sizes are those of their texts or tokens."""
    task = progress.add_task(what, total=total, size=0)
    number, size, drawn = 0, 0, 0.0
    for thing in things:
        yield thing
        number += 1
        size += len(thing.text if isinstance(thing, Document) else thing.tokens)
        if monotonic() - drawn > _REDRAW_SECONDS:
            progress.update(task, completed=number, size=size)
            drawn = monotonic()
    progress.update(task, completed=number, total=number, size=size)


def _prepare(recipe: Recipe, console: Console) -> int:
    columns = [TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed:,}")]
    columns += [_Rate(table_column=Column(no_wrap=True)), TimeRemainingColumn()]
    with Progress(*columns, console=console, expand=True) as progress:
        manifest = prepare(recipe, lambda *watched: _watched(progress, *watched))
    console.print(_table(manifest))
    console.print(f"{recipe.out}: samples of {manifest.sequence_length} + 1 tokens, {manifest.packing}", soft_wrap=True)
    for split, counts in manifest.conversations.items():
        if counts.get("truncated"):
            told = f"{split}: {counts['truncated']} conversations are longer and cut off, "
            told += f"{manifest.dropped_tokens[split]} targets with it; {counts['dropped']} of them had no other"
            console.print(f"{told} and are dropped", soft_wrap=True)
    for split, tokens in manifest.dropped_tokens.items():
        if tokens and not manifest.masked:
            console.print(f"{split}: {tokens} tokens at its end fill no sample and are dropped", soft_wrap=True)
    for sentence in sentences(manifest):
        console.print(sentence, soft_wrap=True)
    return 0


def _verify(folder: Path, drop: bool, console: Console) -> int:
    manifest = Manifest.load(folder)
    total = sum(len(shards) for shards in manifest.shards.values())
    with Progress(console=console) as progress:
        shards = progress.track(verify(manifest), total=total, description="checking shards")
        problems = {shard.name: problem for shard, problem in shards if problem}
    console.print(_table(manifest))
    for sentence in sentences(manifest):
        console.print(sentence, soft_wrap=True)
    for problem in problems.values():
        print(problem, file=sys.stderr)
    if damaged := problem_of(manifest):
        print(damaged, file=sys.stderr)
        return 1
    if problems and drop:
        left, before = drop_shards(manifest, problems)
        console.print(
            f"{folder} goes on without {', '.join(problems)}: {left.samples('train'):,} of "
            f"{manifest.samples('train'):,} train samples are left; the manifest before is {before}",
            soft_wrap=True,
        )
        return 0
    if problems:
        print(f"{folder} is broken: {len(problems)} of {total} shards", file=sys.stderr)
        return 1
    console.print(f"{folder} is whole: {total} shards, and the tokenizer is theirs", soft_wrap=True)
    return 0


def _table(manifest: Manifest) -> Table:
    """One row per split, then one per source of it."""
    table = Table(Column("split / source"))
    for column in ("documents", "samples", "tokens", "MB on disk", "% of split"):
        table.add_column(column, justify="right")
    for split in SPLITS:
        shards, sources = manifest.shards[split], manifest.sources[split]
        documents = sum(counts["documents"] for counts in sources.values())
        tokens = sum(counts["tokens"] for counts in sources.values())
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        cells = [f"{documents:,}", f"{manifest.samples(split):,}", f"{tokens:,}", f"{megabytes:.1f}", ""]
        table.add_row(split, *cells, style="bold")
        largest = sorted(sources.items(), key=lambda item: -item[1]["tokens"])
        for source, counts in largest[:_SHOWN_SOURCES]:
            share = 100 * counts["tokens"] / tokens
            cells = [f"{counts['documents']:,}", "", f"{counts['tokens']:,}", "", f"{share:.1f}"]
            table.add_row(f"  {source}", *cells)
        if len(largest) > _SHOWN_SOURCES:
            table.add_row(f"  and {len(largest) - _SHOWN_SOURCES} more sources")
        table.add_section()
    return table


def main(arguments: list[str]) -> int:
    console = Console()
    try:
        if arguments[:1] == ["verify"]:
            chosen = tyro.cli(Verify, args=arguments[1:], prog="scripts.prepare verify")
            return _verify(chosen.path, chosen.drop, console)
        if arguments[:1] == ["inspect"]:
            inspect(tyro.cli(Inspect, args=arguments[1:], prog="scripts.prepare inspect"), console)
            return 0
        if arguments[:1] == ["losses"]:
            losses(tyro.cli(Losses, args=arguments[1:], prog="scripts.prepare losses"), console)
            return 0
        if arguments[:1] == ["likeness"]:
            likeness(tyro.cli(Likeness, args=arguments[1:], prog="scripts.prepare likeness"), console)
            return 0
        recipe = tyro.cli(Recipe, args=arguments, prog="scripts.prepare", description=__doc__)
        return _prepare(recipe, console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(*getattr(stop, "__notes__", ["interrupted"]), file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
