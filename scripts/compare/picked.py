"""Which sources the picks of every arm came from, over the run: a CSV and a picture of a comparison."""

import csv
import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from scripts.compare.results import Result, Results
from scripts.report.figures import COLOURS, OTHER, PLOT_STYLE
from scripts.report.open_run import OpenRun
from selection.attribution import trends

PARTS = 10  # of a run
COLUMNS = ("arm", "first_step", "last_step", "source", "share")


def picked(results: Results) -> list[tuple]:
    """(arm, first step, last step, source, its share of the picks) in PARTS of every arm's run at its chosen rate on
    the first seed. An arm whose log is gone is left out. Spans are kept in the run folders, as by a report."""
    return [
        (arm, *row)
        for arm in results.study.arms
        for result in results.tuned(arm)[:1]
        if (result.trial.folder / "selection").is_dir()
        for row in _of_run(result)
    ]


def _of_run(result: Result) -> list[tuple]:
    with OpenRun.open(result.trial.folder, None) as run:
        rows = trends.over_time(run.log, PARTS).to_pylist() if run.log.knows_documents else []
    totals = dict.fromkeys((row["first_step"] for row in rows), 0.0)
    for row in rows:
        totals[row["first_step"]] += row["picked"]
    return [
        (row["first_step"], row["last_step"], row["source"], row["picked"] / (totals[row["first_step"]] or 1))
        for row in rows
    ]


def as_csv(rows: list[tuple]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *rows])
    return out.getvalue()


@matplotlib.rc_context(PLOT_STYLE)
def draw(rows: list[tuple], path: Path) -> None:
    """A panel an arm: shares of the picks, stacked, those of the sources picked most in all arms by name."""
    arms = list(dict.fromkeys(arm for arm, *_ in rows))
    totals: dict[str, float] = {}
    for *_, source, share in rows:
        totals[source] = totals.get(source, 0) + share
    named = sorted(totals, key=lambda source: (-totals[source], source))[: len(COLOURS)]
    figure = Figure(figsize=(3.2 * min(3, len(arms)), 2.6 * -(-len(arms) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(arms) // 3), min(3, len(arms)), squeeze=False, sharex=True, sharey=True).flat
    for arm, axes in zip(arms, panels, strict=False):  # arms first: their end takes no panel
        shares = {(first, source): share for name, first, _, source, share in rows if name == arm}
        middles = dict.fromkeys((first, (first + last) / 2) for name, first, last, *_ in rows if name == arm)
        stacked = [[shares.get((first, source), 0) for first, _ in middles] for source in named]
        others = [1 - sum(column) for column in zip(*stacked, strict=True)]
        colours = [*COLOURS[: len(named)], OTHER]
        axes.stackplot([x for _, x in middles], *stacked, others, colors=colours, labels=[*named, "others"], alpha=0.85)
        axes.set(title=arm, ylim=(0, 1))
        axes.margins(x=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in list(panels):  # what the grid has left over
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    figure.supxlabel("step", fontsize=9)
    figure.savefig(path, dpi=130, metadata={"Software": None})
