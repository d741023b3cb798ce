"""The tables of `scripts.bench scale`."""

from typing import Any

from rich import box
from rich.table import Table


def totals(rows: list[Any]) -> Table:
    """Of every step: its collectives and bytes, against those of plain training; its peak."""
    table = bare_table(
        "a step of one rank",
        "coll.: collectives; / plain: of `regular`'s; MB: that a rank sends in a ring; reads: values that the host "
        "waits for; GiB: the most memory at once, on the first and the last rank",
        ("size", "W", "step", "coll.", "/ plain", "MB", "/ plain", "reads", "GiB, first", "last"),
    )
    for row in rows:
        plain = next((r for r in rows if (r.size, r.ranks, r.step) == (row.size, row.ranks, "regular")), None)
        cells = [str(row.first.calls.total()), "", f"{row.first.sent.total() / 1e6:.1f}", ""]
        if plain is not None:
            cells[1] = f"{row.first.calls.total() / plain.first.calls.total():.2f}"
            cells[3] = f"{row.first.sent.total() / plain.first.sent.total():.2f}"
        peaks = (f"{size / 2**30:.2f}" for size in (row.first.peak_bytes, row.last_peak_bytes))
        table.add_row(row.size, str(row.ranks), row.step, *cells, str(row.first.reads), *peaks)
    return table


def by_purpose(rows: list[Any]) -> Table:
    """What the collectives of the fewest ranks are for; more ranks make as many."""
    table = bare_table(
        "collectives, and MB that a rank sends, by purpose",
        "Of FSDP2 itself: gathered parameters and scattered gradients, by the pass that they are in",
        ("size", "W", "step", "purpose", "coll.", "MB"),
    )
    fewest = min(row.ranks for row in rows)
    for row in rows:
        if row.ranks != fewest:
            continue
        for (purpose, by_fsdp), calls in sorted(row.first.calls.items()):
            sent = f"{row.first.sent[purpose, by_fsdp] / 1e6:.1f}"
            name = f"FSDP2, in {purpose}" if by_fsdp else purpose
            table.add_row(row.size, str(row.ranks), row.step, name, str(calls), sent)
    return table


def bare_table(title: str, note: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, caption=note, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.title_justify = table.caption_justify = "left"
    for name in columns:
        table.add_column(name, justify="left" if name in ("size", "step", "purpose") else "right", no_wrap=True)
    return table
