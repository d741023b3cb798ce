"""The pictures: predicted against actual change, and how their correlation depends on what is varied."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.report.figures import COLOURS, DASHES, PLOT_STYLE

SHOWN = ("first", "measured", "exact")  # of the predictors, in the scatter plots
LABELS = {
    "score": "raw score",
    "preconditioned": "preconditioned score",
    "first": "first order",
    "identity": "H = I",
    "measured": "H = c I",
    "exact": "exact H",
}
AXES = {
    "steps": "steps",
    "targets": "target samples",
    "pools": "N / k",
    "rates": "times the learning rate",
    "batches": "samples of a batch",
}

_STYLE = PLOT_STYLE | {"legend.handlelength": 3}


@matplotlib.rc_context(_STYLE)
def scatter(rows: list[dict], path: Path) -> None:
    """A panel for every optimizer and number of steps; a colour for a predictor, a mark for a stage."""
    rows = [row for row in rows if row["experiment"] == "steps"]
    optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))
    steps = sorted({row["setting"] for row in rows})
    stages = sorted({row["stage"] for row in rows})
    figure = Figure(figsize=(3.1 * len(steps), 3 * len(optimizers) + 0.6), layout="constrained")
    grid = figure.subplots(len(optimizers), len(steps), squeeze=False)
    for line, optimizer in zip(grid, optimizers, strict=True):
        for axes, count in zip(line, steps, strict=True):
            here = [row for row in rows if (row["optimizer"], row["setting"]) == (optimizer, count)]
            for colour, predictor in zip(COLOURS, SHOWN, strict=False):
                for mark, stage in zip("osD^v<>P", stages, strict=False):
                    points = [(row[predictor], row["actual"]) for row in here if row["stage"] == stage]
                    label = f"{LABELS[predictor]}, step {stage}"
                    axes.plot(*zip(*points, strict=True), mark, color=colour, markersize=3, alpha=0.6, label=label)
            _diagonal(axes, [row["actual"] for row in here])
            axes.set_title(f"{optimizer}, {count} step{'s' * (count > 1)}", fontsize=9)
        line[0].set_ylabel("actual change of the target loss")
    for axes in grid[-1]:
        axes.set_xlabel("predicted")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(SHOWN))
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _diagonal(axes: Axes, actual: list[float]) -> None:
    """Where both are equal. The picture is as wide as what happened; what is predicted beyond it lies at its edge."""
    margin = 0.6 * (max(actual) - min(actual)) or 1e-6
    low, high = min(actual) - margin, max(actual) + margin
    axes.plot([low, high], [low, high], color="black", linewidth=0.7)
    axes.set(xlim=(low, high), ylim=(low, high))
    for line in axes.lines:
        line.set_xdata(np.clip(line.get_xdata(), low, high))
    axes.locator_params(nbins=4)


@matplotlib.rc_context(_STYLE)
def curves(found: list[dict], path: Path) -> None:
    """Pearson's correlation by what is varied, its mean over the stages: a panel an experiment, a colour a predictor,
    dashes an optimizer."""
    experiments = [name for name in AXES if any(line["experiment"] == name for line in found)]
    optimizers = list(dict.fromkeys(line["optimizer"] for line in found))
    figure = Figure(figsize=(2.6 * len(experiments), 3.4), layout="constrained")
    panels = figure.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
    for axes, experiment in zip(panels, experiments, strict=True):
        here = [line for line in found if line["experiment"] == experiment]
        settings = sorted({line["setting"] for line in here})
        for dashes, optimizer in zip(DASHES, optimizers, strict=False):
            for colour, predictor in zip(COLOURS, LABELS, strict=True):
                values = [_pearsons(here, optimizer, predictor, setting) for setting in settings]
                if all(values):
                    means = [sum(stages) / len(stages) for stages in values]
                    label = f"{LABELS[predictor]}, {optimizer}"
                    axes.plot(settings, means, dashes, color=colour, marker="o", markersize=3, label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(settings, [f"{setting:g}" for setting in settings], minor=False)
        axes.set_xlabel(AXES[experiment])
    axes = figure.axes[0]
    axes.set_ylabel("Pearson's correlation with the actual change")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _pearsons(found: list[dict], optimizer: str, predictor: str, setting: float) -> list[float]:
    """Of every stage."""
    wanted = (optimizer, predictor, setting)
    return [line["pearson"] for line in found if (line["optimizer"], line["predictor"], line["setting"]) == wanted]
