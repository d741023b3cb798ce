"""Loss curves in a terminal: dots of braille characters, measured losses as letters."""

from collections.abc import Sequence

from rich.text import Text

# The dots of a braille character by row and column, as bits of its code point (Unicode, Braille Patterns).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def plot(
    line: Sequence[tuple[float, float]],
    marks: dict[str, Sequence[tuple[float, float]]],
    width: int,
    height: int,
    label: str,
) -> list[Text]:
    """`height` lines of text and two for the x axis, each `width` columns wide.

    `line`: points (x, y) drawn as dots, averaged where several fall on one dot; `marks`: letter -> points
    drawn as that letter; `label` names the x axis. Points whose y is not finite are left out.
    """
    finite = {key: _finite(points) for key, points in {"": line, **marks}.items()}
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return [Text("nothing measured yet".ljust(width))]
    low_x, high_x = _range(x for x, _ in everything)
    low_y, high_y = _range(y for _, y in everything)
    axis = max(len(f"{low_y:.2f}"), len(f"{high_y:.2f}"))
    columns = width - axis - 2
    canvas = [[0] * columns for _ in range(height)]
    letters: dict[tuple[int, int], str] = {}

    def place(x: float, y: float, across: int, down: int) -> tuple[int, int]:
        column = round((x - low_x) / (high_x - low_x) * (across - 1))
        return column, round((high_y - y) / (high_y - low_y) * (down - 1))

    for x, y in _averaged(finite[""], low_x, high_x, 2 * columns):
        column, row = place(x, y, 2 * columns, 4 * height)
        canvas[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    for letter in marks:
        for x, y in finite[letter]:
            column, row = place(x, y, columns, height)
            letters.setdefault((row, column), letter)

    lines = []
    for row in range(height):
        text = Text(_tick(row, height, low_y, high_y).rjust(axis) + " │", style="dim")
        for column in range(columns):
            letter = letters.get((row, column))
            if letter:
                text.append(letter, style="bold")
            else:
                text.append(chr(0x2800 + canvas[row][column]), style="cyan not dim")
        lines.append(text)
    left, right = f"{low_x:.4g}", f"{high_x:.4g}"
    between = label.center(columns - len(left) - len(right))
    lines.append(Text(" " * axis + " └" + "─" * columns, style="dim"))
    lines.append(Text(" " * (axis + 2) + left + between + right, style="dim"))
    return lines


def _finite(points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None and abs(y) < float("inf")]


def _range(values) -> tuple[float, float]:
    values = list(values)
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _averaged(points, low: float, high: float, columns: int):
    """One point per dot column: the mean of those that fall on it."""
    buckets: dict[int, list] = {}
    for x, y in points:
        buckets.setdefault(round((x - low) / (high - low) * (columns - 1)), []).append((x, y))
    for bucket in buckets.values():
        yield tuple(sum(values) / len(bucket) for values in zip(*bucket, strict=True))


def _tick(row: int, height: int, low: float, high: float) -> str:
    """The y axis is labelled at its ends and in the middle."""
    if row not in (0, height // 2, height - 1):
        return ""
    return f"{high - (high - low) * row / (height - 1):.2f}"
