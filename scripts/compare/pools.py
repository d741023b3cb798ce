"""Several comparisons beside each other, pools by arms, from the results.csv of each.

    python -m scripts.compare.pools runs/mixed runs/continued
    python -m scripts.compare.pools docs/pools/continued docs/pools/two-wanted --split val

For every pool: the final loss of every arm, its loss after as many seconds as the quickest arm takes, and the seconds
to the final losses of the references, as shares of what these take.
"""

import csv
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from scripts.compare.results import Point, Spread, at, crossing
from scripts.compare.tables import cell, loss_of, markdown, text

Curves = dict[str, list[list[dict]]]  # of an arm, at its chosen rate: the evaluations of each seed


@dataclass(frozen=True)
class Options:
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of comparisons, or of what was kept of them: each with a results.csv."""
    references: tuple[str, ...] = ("regular", "importance")
    """Arms to whose final losses the others' seconds are told."""
    split: Literal["val", "test"] = "test"
    """Whose losses."""


def read_curves(folder: Path) -> Curves:
    """Every arm's runs at its chosen rate. ValueError where there is no table, or a column is missing."""
    path = folder / "results.csv"
    if not path.is_file():
        raise ValueError(f"{folder} has no results.csv: name folders that scripts.compare has written")
    runs: dict = defaultdict(lambda: defaultdict(list))
    with open(path) as file:
        for row in csv.DictReader(file):
            try:
                line = {name: float(row[name]) for name in ("step", "seconds", "val_loss", "test_loss")}
                if row["tuned"] == "True":
                    runs[row["arm"]][row["seed"]].append(line)
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path} is no table of scripts.compare: {row}") from None
    return {arm: list(seeds.values()) for arm, seeds in runs.items()}


def points(run: list[dict], split: str) -> list[Point]:
    return [(line["seconds"], line[f"{split}_loss"]) for line in run]


def rows_of(curves: Curves, references: tuple[str, ...], split: str) -> list[list[str]]:
    """The rows of one pool, an arm each; see the module's text for the columns."""
    ends = {arm: [points(run, split)[-1] for run in runs] for arm, runs in curves.items()}
    seconds = min(statistics.median(x for x, _ in end) for end in ends.values())
    rows = []
    for arm, runs in curves.items():
        equal = Spread(tuple(at(points(run, split), seconds)[0] for run in runs))
        row = [arm, cell(Spread(tuple(y for _, y in ends[arm])), loss_of), cell(equal, loss_of)]
        for reference in references:
            total, level = (statistics.median(values) for values in zip(*ends[reference], strict=True))
            reached = statistics.median(crossing(points(run, split), level) for run in runs) / total
            row.append(f"{reached:.2f}" if reached < math.inf else "–")
        rows.append(row)
    return rows


def table(folders: tuple[Path, ...], references: tuple[str, ...], split: str) -> str:
    """All pools, each a table in Markdown."""
    note = (
        "Medians over the seeds and [lowest, highest]. At equal seconds: those of the arm that is through first. Last: "
        "the seconds until the final loss of that arm is reached, as a share of what it takes itself; –: not reached."
    )
    parts = [text(note)]
    for folder in folders:
        curves = read_curves(folder)
        known = tuple(name for name in references if name in curves)
        header = ("arm", f"final {split} loss", "at equal seconds", *(f"to {name}'s" for name in known))
        parts += [f"## {folder.name}", markdown(header, rows_of(curves, known, split))]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input is at fault."""
    options = tyro.cli(Options, args=arguments, prog="scripts.compare.pools", description=__doc__)
    try:
        print(table(options.folders, options.references, options.split))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
