"""Loss curves of a comparison, as a PNG."""

import math
import statistics
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from scripts.compare.results import Result, Results
from scripts.report.figures import COLOURS, DASHES, PLOT_STYLE

_STYLE = PLOT_STYLE | {"legend.handlelength": 3}
_XLABELS = {"step": "step", "tokens": "tokens trained on", "seconds": "seconds of training"}
# The first losses are much higher than all that follow, and alike in all arms: they leave the picture, which is as
# high as what comes after so much of the shortest run.
_LEFT_OUT = 0.2


@matplotlib.rc_context(_STYLE)
def draw(results: Results, path: Path) -> None:
    """Val and test loss against steps, tokens and seconds: medians over seeds, bands from the lowest to the highest,
    the reference's final loss as a dashed line. Runs that diverged are left out."""
    found = {arm: [r for r in results.tuned(arm) if not r.diverged] for arm in results.study.arms}
    found = {arm: tuned for arm, tuned in found.items() if tuned}
    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.subplots(2, len(_XLABELS), sharey="row", sharex="col")
    for row, split in zip(grid, ("val", "test"), strict=True):
        for axes, axis in zip(row, _XLABELS, strict=True):
            for number, arm in enumerate(results.study.arms):
                if arm in found:
                    _curve(axes, found[arm], axis, split, number, arm)
            if reference := found.get(results.study.reference):
                label = f"final loss of {results.study.reference}"
                final = statistics.median(result.final(split) for result in reference)
                axes.axhline(final, color="black", linestyle=(0, (6, 3)), linewidth=0.8, label=label)
            axes.label_outer()
        row[0].set_ylabel(f"{split} loss (nats per token)")
        if found:
            row[0].set_ylim(*_limits([result for tuned in found.values() for result in tuned], split))
    for axes, label in zip(grid[-1], _XLABELS.values(), strict=True):
        axes.set_xlabel(label)
    grid[-1][list(_XLABELS).index("tokens")].xaxis.set_major_formatter(EngFormatter(sep=""))
    handles, names = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)))
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _curve(axes: Axes, results: list[Result], axis: str, split: str, number: int, label: str) -> None:
    """The runs of an arm have the same evaluations: those of one step make one point."""
    columns = list(zip(*(result.points(axis, split) for result in results), strict=True))
    x = [statistics.median(x for x, _ in column) for column in columns]
    losses = [[y for _, y in column] for column in columns]
    colour = COLOURS[number % len(COLOURS)]
    dashes = DASHES[(number + number // len(COLOURS)) % len(DASHES)]
    axes.plot(x, list(map(statistics.median, losses)), color=colour, linestyle=dashes, linewidth=1.4, label=label)
    axes.fill_between(x, list(map(min, losses)), list(map(max, losses)), color=colour, alpha=0.15, linewidth=0)


def _limits(results: list[Result], split: str) -> tuple[float, float]:
    begin = _LEFT_OUT * min(result.evaluations[-1]["step"] for result in results)
    shown = [y for result in results for x, y in result.points("step", split) if x >= begin and math.isfinite(y)]
    low, high = min(shown), max(shown)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin
