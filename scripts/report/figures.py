"""The figures of the HTML report, as SVG that takes its ink from the page, so that they follow its dark mode."""

import io

import matplotlib
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from scripts.report.format import printable
from scripts.train.record import RunRecord
from selection.prefilters.judge import WINDOW

# Okabe and Ito's palette without its yellow and black, which vanish on white and on dark paper.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
OTHER = "#888888"
_LABEL = 18  # characters of a source's name in a legend
_INK = "#010203"  # stands for the page's text colour in the SVG
PLOT_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
}
_STYLE = PLOT_STYLE | {
    "svg.fonttype": "none",  # text stays text: it takes the page's font, and can be searched
    "svg.hashsalt": "report",
    "text.parse_math": False,  # a source named $x$ is a name
    "legend.fontsize": 8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "grid.color": _INK,
}


@matplotlib.rc_context(_STYLE)
def loss(record: RunRecord, axis: str) -> str:
    """Training, val and test loss against `axis`, step or seconds."""
    figure, axes = _figure()
    points = [(line[axis], line["train_loss"]) for line in record.training]
    axes.plot(*_columns(points), color=OTHER, linewidth=0.8, label="train (picks only)")
    for name, colour, marker in (("val_loss", COLOURS[0], "o"), ("test_loss", COLOURS[3], "s")):
        points = [(line[axis], line[name]) for line in record.evaluations]
        axes.plot(*_columns(points), color=colour, marker=marker, markersize=3.5, label=name.replace("_loss", ""))
    axes.set(xlabel={"step": "step", "seconds": "seconds of training"}[axis], ylabel="loss (nats per token)")
    axes.legend()
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def stream(trends: pa.Table, sources: pa.Table, value: str) -> str:
    """Sources over time: `pick_rate` as lines, or what was `picked` as shares of the picks, stacked."""
    largest = sources.sort_by([("offered", "descending")])["source"].to_pylist()[: len(COLOURS)]
    rows = trends.to_pylist()
    windows = sorted({(row["first_step"], row["last_step"]) for row in rows})
    middles = [(first + last) / 2 for first, last in windows]
    values = {(row["source"], row["first_step"]): row[value] for row in rows}
    figure, axes = _figure()
    if value == "pick_rate":
        for source, colour, dashes in zip(largest, COLOURS, DASHES, strict=False):
            line = [values.get((source, first)) for first, _ in windows]
            axes.plot(middles, [float("nan") if y is None else y for y in line], color=colour, linestyle=dashes,
                      label=_label(source))  # fmt: skip
        axes.set(ylabel="pick rate")
    else:
        picked = [[values.get((source, first)) or 0 for first, _ in windows] for source in largest]
        everything = [sum(row[value] or 0 for row in rows if row["first_step"] == first) for first, _ in windows]
        picked.append([total - sum(column) for total, *column in zip(everything, *picked, strict=True)])
        shares = [[n / total if total else 0 for n, total in zip(line, everything, strict=True)] for line in picked]
        colours = [*COLOURS[: len(largest)], OTHER]
        labels = [_label(source) for source in largest] + ["other sources"]
        count = len(labels) if max(shares[-1]) > 1e-9 else len(largest)
        axes.stackplot(middles, shares[:count], colors=colours[:count], labels=labels[:count], alpha=0.85)
        axes.set(ylabel="share of the picks", ylim=(0, 1))
        axes.margins(x=0)
    axes.set(xlabel="step")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend_above(axes)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def histogram(bins: pa.Table, xlabel: str) -> str:
    """Scores of picked and rejected candidates, as outlines over the same bins."""
    figure, axes = _figure()
    rows = bins.to_pylist()
    bottom, width = rows[0]["low"], rows[0]["high"] - rows[0]["low"]
    places = [round((row["low"] - bottom) / width) for row in rows]  # bins that nothing falls in have no row
    edges = [bottom + i * width for i in range(places[-1] + 2)]
    for name, colour, dashes in (("picked", COLOURS[0], "-"), ("rejected", COLOURS[3], "--")):
        found = {place: row[name] for place, row in zip(places, rows, strict=True)}
        counts = [found.get(i, 0) for i in range(places[-1] + 1)]
        axes.stairs(counts, edges, color=colour, linestyle=dashes, linewidth=1.5, label=name)
        axes.stairs(counts, edges, color=colour, fill=True, alpha=0.15)
    axes.set(xlabel=f"{xlabel} (ends: and beyond)", ylabel="candidates")
    axes.legend()
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def correlations(by_step: pa.Table, means: list[tuple], off: list[tuple]) -> str:
    """Correlations of predictions and scores: scored steps as dots, their running mean, and shades where the prefilter
    was off."""
    figure, axes = _figure()
    steps, values = (by_step[name].to_pylist() for name in ("step", "correlation"))
    axes.axhline(0, color=OTHER, linewidth=0.8)
    axes.plot(steps, values, color=OTHER, marker=".", markersize=3, linestyle="", label="one scored step")
    axes.plot(*_columns(means), color=COLOURS[0], linewidth=1.5, label=f"mean of the last {WINDOW}")
    for number, (first, last) in enumerate(off):
        label = "prefilter off" if number == 0 else None
        axes.axvspan(first - 0.5, last + 0.5, color=COLOURS[3], alpha=0.2, linewidth=0, label=label)
    axes.set(xlabel="step", ylabel="correlation")
    _legend_above(axes)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def bias(bins: pa.Table, xlabel: str) -> str:
    """Pick rate over the bins of a feature, each drawn at its place among the candidates."""
    rows = bins.to_pylist()
    figure, axes = _figure(height=2.4)
    places = range(len(rows))
    axes.bar(places, [row["pick_rate"] for row in rows], color=COLOURS[0], width=0.85)
    overall = sum(row["picked"] for row in rows) / sum(row["offered"] for row in rows)
    axes.axhline(overall, color=COLOURS[3], linestyle="--", linewidth=1.2, label="all candidates")
    every = 1 if len(rows) <= 5 else 3
    axes.set_xticks(list(places)[::every], [_short(row["low"]) for row in rows][::every])
    axes.set(xlabel=xlabel, ylabel="pick rate")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", visible=False)
    _legend_above(axes)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def lengths(bins: pa.Table, splits: tuple[str, ...]) -> str:
    """Documents by their tokens in powers of two, the splits stacked."""
    figure, axes = _figure()
    places, below = range(bins.num_rows), [0] * bins.num_rows
    for split, colour in zip(splits, COLOURS, strict=False):
        counts = bins[split].to_pylist()
        axes.bar(places, counts, bottom=below, color=colour, width=0.9, label=split)
        below = [least + count for least, count in zip(below, counts, strict=True)]
    firsts = bins["tokens_from"].to_pylist()
    axes.set_xticks(list(places)[::2], [_short(first) for first in firsts[::2]])
    axes.set(xlabel="tokens of a document, least of the bin", ylabel="documents")
    axes.grid(axis="x", visible=False)
    _legend_above(axes)
    return _svg(figure)


def _figure(height: float = 2.9) -> tuple[Figure, Axes]:
    # Small in inches, so that the text is still large enough when a phone shrinks the figure.
    figure = Figure(figsize=(4.2, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend_above(axes: Axes) -> None:
    """Two names a row; the figure grows by the rows, so that the axes do not shrink."""
    handles, _ = axes.get_legend_handles_labels()
    figure = axes.figure
    figure.set_figheight(figure.get_figheight() + 0.17 * ((len(handles) + 1) // 2))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _label(source: str) -> str:
    """A source's name as a legend can show it; a legend leaves out labels that begin with an underscore."""
    name = printable(source).replace("\n", " ")
    if len(name) > _LABEL:  # names of one kind differ at their ends
        name = f"{name[: _LABEL // 2]}…{name[-_LABEL // 2 + 1 :]}"
    return f" {name}" if name.startswith("_") else name


def _columns(points: list[tuple]) -> tuple[list, list]:
    return tuple(map(list, zip(*points, strict=True))) if points else ([], [])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # The size comes from the page; the viewBox keeps the proportions.
    head, body = svg.split(">", 1)
    kept = [part for part in head.split("\n") if part]
    head = " ".join(kept)
    for name in ("width", "height"):
        start = head.index(f' {name}="')
        head = head[:start] + head[head.index('"', start + len(name) + 3) + 1 :]
    return f"{head}>{body}"
