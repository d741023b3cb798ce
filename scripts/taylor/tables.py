"""From the rows of all batches to correlations, their table and their CSV files."""

import csv
import io
from collections.abc import Iterable

import numpy as np
from rich import box
from rich.table import Table

from scripts.taylor.correlation import Correlation, correlation
from scripts.taylor.stage import PREDICTORS

COLUMNS = ("stage", "optimizer", "curvature", "experiment", "setting", "actual", *PREDICTORS)
FOUND = ("stage", "optimizer", "experiment", "setting", "predictor", "batches")
VALUES = ("pearson", "pearson_error", "spearman", "spearman_error", "actual", "predicted")


def correlations(rows: list[dict]) -> list[dict]:
    """A line for every stage, optimizer, experiment, setting and predictor: the correlation of predicted and actual
    changes over the batches, and the means of both."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("stage", "optimizer", "experiment", "setting")), []).append(row)
    found = []
    for key, members in groups.items():
        actual_n = np.array([row["actual"] for row in members])
        for predictor in PREDICTORS:
            if predictor in members[0]:
                predicted_n = np.array([row[predictor] for row in members])
                found.append(_line(key, predictor, predicted_n, actual_n))
    return found


def _line(key: tuple, predictor: str, predicted_n: np.ndarray, actual_n: np.ndarray) -> dict:
    of: Correlation = correlation(predicted_n, actual_n)
    values = (*key, predictor, of.count, of.pearson, of.pearson_error, of.spearman, of.spearman_error)
    return dict(zip((*FOUND, *VALUES), (*values, actual_n.mean(), predicted_n.mean()), strict=True))


def as_csv(rows: Iterable[dict], columns: tuple[str, ...]) -> str:
    """Numbers with six digits; what a row has not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


def table(found: list[dict]) -> Table:
    """The walks: a line for every stage, optimizer and number of steps, with Pearson's and Spearman's correlations."""
    title = "Pearson and Spearman correlation of predicted and actual change, in hundredths"
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown.title_justify = "left"
    for name in ("stage", "by", "steps", "change", *PREDICTORS):
        short = {"preconditioned": "precond."}.get(name, name)
        shown.add_column(short, justify="left" if name == "by" else "right", no_wrap=True)
    lines: dict[tuple, dict] = {}
    for line in found:
        if line["experiment"] == "steps":
            key = (line["stage"], line["optimizer"], line["setting"])
            lines.setdefault(key, {})[line["predictor"]] = line
    for (stage, optimizer, steps), by_predictor in lines.items():
        cells = [_cell(by_predictor.get(name)) for name in PREDICTORS]
        actual = next(iter(by_predictor.values()))["actual"]
        shown.add_row(str(stage), optimizer, str(steps), f"{actual:+.4f}", *cells)
    return shown


def _cell(line: dict | None) -> str:
    return "" if line is None else f"{100 * line['pearson']:.0f} {100 * line['spearman']:4.0f}"
