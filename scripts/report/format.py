"""How answers are printed: tables in the terminal, CSV, JSON. Text of documents is data, never commands."""

import csv
import io
import json
import math
import unicodedata
from dataclasses import dataclass, field

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selection.log.schema import DROPPED, REJECTED

WIDTH = 100  # columns of a terminal that tables must fit in
_PREVIEW = 80  # characters of a text shown in a table
_NAME = 28  # columns of a name before it is folded
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories that do something, or nothing


@dataclass
class Answer:
    """A table that answers a question. `name` is its key in JSON; a column `text` holds text of documents.

    In a terminal `shown` stands for the table, if given; `upright` writes its one row downwards; `whole_text`
    prints texts in full below it, `above` is printed over it.
    """

    name: str
    title: str
    table: pa.Table
    note: str = ""
    shown: pa.Table | None = None
    upright: bool = False
    whole_text: bool = False
    above: list[Text] = field(default_factory=list)


def printable(text: str) -> str:
    """The text with characters that would act on a terminal or hide shown as escapes, but for ends of lines
    and tabs: ESC becomes \\x1b, the right-to-left override \\u202e."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _INVISIBLE and char not in "\n\t"
        else char
        for char in text
    )


def visible(text: str) -> str:
    """The text with every character that cannot be seen as an escape, blanks as ␣."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t").replace(" ", "␣")


def one_line(text: str, length: int = _PREVIEW) -> str:
    """The beginning of a text on one line."""
    line = printable(" ".join(text[: 4 * length].split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def number(value: float | None, column: str = "") -> str:
    """A number as its column wants it: ids and steps plain, rates and shares in percent, their changes in
    percentage points, losses with four decimals, other whole numbers in full, and the rest with four
    significant digits."""
    words = set(column.split("_"))
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if column == "change":  # of a rate or a share
        return f"{100 * value:+.1f} pp"
    if words & {"rate", "share", "overlap"} or column == "same_choice":
        return f"{100 * value:.1f} %"
    if isinstance(value, int) and words & {"id", "step", "from", "to"}:
        return str(value)
    if "loss" in words:
        return f"{value:.4f}"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def cell(value, name: str) -> str:
    """A value as it is shown in a table, by the column's name."""
    if isinstance(value, str):
        return one_line(value) if name == "text" else printable(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "pick":
        return {REJECTED: "rejected", DROPPED: "dropped"}.get(value, str(value))
    return number(value, name)


def as_json(answers: list[Answer]) -> str:
    """One object: name of the answer -> list of rows. NaN and infinity, which JSON has not, are strings."""
    return json.dumps({answer.name: _strict(answer.table.to_pylist()) for answer in answers}, indent=1)


def as_csv(answers: list[Answer], escape: bool) -> str:
    """CSV with a header line. Several answers follow each other after a line `# name`, parted by an empty
    line. `escape` shows control characters in texts as escapes: for a terminal."""
    out = io.StringIO()
    for position, answer in enumerate(answers):
        if len(answers) > 1:
            out.write(f"{'' if position == 0 else chr(10)}# {answer.name}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(answer.table.column_names)
        for row in answer.table.to_pylist():
            writer.writerow([_cell_csv(value, escape) for value in row.values()])
    return out.getvalue()


def print_answers(answers: list[Answer], console: Console) -> None:
    """Tables with a title; texts as their first line."""
    for answer in answers:
        shown = answer.table if answer.shown is None else answer.shown
        console.print(Text(answer.title, style="bold"))
        for line in answer.above:
            console.print(line, no_wrap=True)
        console.print(_upright(shown) if answer.upright else _table(shown, previews=not answer.whole_text))
        if answer.whole_text:
            for text in shown["text"].to_pylist():
                console.print(Text("\n" + printable(text)))
        if answer.note:
            console.print(Text(answer.note, style="dim"))
        console.print()


def _table(rows: pa.Table, previews: bool) -> Table:
    """A text takes what the other columns leave; a long name is folded, since it may be needed to ask on."""
    table = _empty_table()
    names = [name for name in rows.column_names if _has_values(rows, name) and (previews or name != "text")]
    columns = []
    for name in names:
        numeric, text = _is_numeric(rows.schema.field(name).type), name == "text"
        cells = [cell(value, name) for value in rows[name].to_pylist()]
        words = name.split("_")
        widest = max(map(len, cells + words))
        table.add_column(
            Text(" ".join(words)),
            justify="right" if numeric else "left",
            min_width=20 if text else widest if numeric else min(widest, _NAME // 2),
            max_width=None if text or numeric else _NAME,
        )
        columns.append([Text(cell, overflow="ellipsis" if text else "fold", no_wrap=text) for cell in cells])
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _upright(rows: pa.Table) -> Table:
    table = _empty_table(show_header=False)
    for name, value in rows.to_pylist()[0].items():
        if value is not None:
            table.add_row(Text(name.replace("_", " ")), Text(cell(value, name), justify="right"))
    return table


def _empty_table(**options) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, **options)


def _has_values(table: pa.Table, name: str) -> bool:
    """Quantities that this run did not measure take no room."""
    return table.num_rows == 0 or table[name].null_count < table.num_rows


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _cell_csv(value, escape: bool):
    if isinstance(value, str) and escape:
        return printable(value)
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _strict(value):
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
