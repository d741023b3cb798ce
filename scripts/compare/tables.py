"""What a comparison found, as Markdown tables for people and as CSV for programs."""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Sequence

from scripts.compare.results import Results, Spread, at_seconds, to_reach
from scripts.compare.study import scientific

WIDTH = 100
COLUMNS = ("arm", "learning_rate", "seed", "tuned", "step", "tokens", "seconds", "val_loss", "test_loss")


def as_csv(results: Results) -> str:
    """One row per arm, learning rate, seed and evaluation; `tuned`: whether it is the arm's chosen rate."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for trial in results.study.trials():
        result = results.of(trial.arm, trial.learning_rate, trial.seed)
        for line in result.evaluations if result else ():
            tuned = trial.learning_rate == results.chosen(trial.arm)
            measured = (line[column] for column in COLUMNS[4:])
            writer.writerow([trial.arm, trial.learning_rate, trial.seed, tuned, *measured])
    return out.getvalue()


def tables(results: Results) -> str:
    """All tables with their rules, in at most 100 columns."""
    study, level, total = results.study, results.level(), results.total_seconds()
    seeds = " ".join(map(str, study.seeds))
    parts = [
        text(
            f"Cells are the median over the seeds ({seeds}) and [lowest, highest]; n counts the runs. Every arm's "
            "learning rate is the one of its lowest final loss on val, on the first seed. Losses are in nats per "
            "token; seconds are those of training, without evaluations and checkpoints."
        ),
        markdown(("arm", "learning rate", "n", "final val loss", "final test loss", "s/step"), _finals(results)),
    ]
    if level is None or total is None:
        return "\n\n".join(
            [*parts, text(f"{study.reference} has no final test loss yet to compare with."), *_tuning(results)]
        )
    parts += [
        "## To the test loss of the reference",
        text(
            f"From the start to a test loss of {level:.4f}, the final one of {study.reference} (median over its "
            "seeds): the first crossing of each seed's curve, linear between evaluations. The ratio is to the "
            f"{total:.1f} s that a run of {study.reference} takes (median over its seeds). –: not reached."
        ),
        markdown(("arm", "steps", "seconds", f"/ {total:.1f} s"), _reached(results, level, total)),
        "## Test loss at equal seconds",
        text(
            f"After {total:.1f} s, linear between evaluations. *: with runs that were over before, whose last loss "
            f"stands in (as that of {study.reference} always does)."
        ),
        markdown(
            ("arm", f"test loss at {total:.1f} s", f"median - {study.reference}'s"), _at_equal(results, level, total)
        ),
        *_tuning(results),
    ]
    return "\n\n".join(parts)


def _finals(results: Results) -> list[list[str]]:
    rows = []
    for arm in results.study.arms:
        found, rate = results.tuned(arm), results.chosen(arm)
        if not found:
            rows.append([arm, "diverged" if results.tuning(arm) else "–", "0", "–", "–", "–"])
            continue
        losses = [cell(Spread(tuple(r.final(split) for r in found)), loss_of) for split in ("val", "test")]
        paces = [r.seconds_per_step for r in found if not r.diverged]
        rows.append([arm, scientific(rate), str(len(found)), *losses, f"{Spread(tuple(paces)).median:.4g}"])
    return rows


def _reached(results: Results, level: float, total: float) -> list[list[str]]:
    rows = []
    for arm in results.study.arms:
        if found := results.tuned(arm):
            steps, seconds = (to_reach(found, level, axis) for axis in ("step", "seconds"))
            how_many = sum(value < math.inf for value in steps.values)
            if steps.median == math.inf:
                rows.append([arm, f"not reached ({how_many} of {len(found)} runs)", "–", "–"])
            else:
                ratio = seconds / total
                rows.append([arm, cell(steps, "{:.0f}"), cell(seconds, "{:.1f}"), cell(ratio, "{:.2f}")])
    return rows


def _at_equal(results: Results, level: float, total: float) -> list[list[str]]:
    rows = []
    for arm in results.study.arms:
        if not (found := results.tuned(arm)):
            continue
        loss, short = at_seconds(found, total)
        reference = arm == results.study.reference
        if reference:  # its runs take about as long as each other: which were over a moment before says nothing
            loss, short = Spread(tuple(r.final("test") for r in found)), 0
        against = "" if reference or loss.median == math.inf else f"{loss.median - level:+.3f}"
        rows.append([arm, cell(loss, loss_of) + " *" * (short > 0), against])
    return rows


def _tuning(results: Results) -> list[str]:
    rates = results.study.learning_rates
    rows, notes = [], []
    for arm in results.study.arms:
        losses, chosen = results.tuning(arm), results.chosen(arm)
        cells = {rate: loss_of(loss) for rate, loss in losses.items()}
        if chosen is not None:
            cells[chosen] = f"**{cells[chosen]}**"
        rows.append([arm, *(cells.get(rate, "") for rate in rates)])
        notes += _notes(arm, losses, chosen, rates)
    shown = markdown(("arm", *map(scientific, rates)), rows)
    heading = f"Final val loss by learning rate, on seed {results.study.seeds[0]}."
    return ["## Tuning", heading, shown, *(["\n".join(f"- {note}" for note in notes)] if notes else [])]


def _notes(arm: str, losses: dict[float, float], chosen: float | None, rates: Sequence[float]) -> list[str]:
    if len(losses) < len(rates):
        return [f"{arm}: {len(losses)} of {len(rates)} learning rates have run."]
    if len(rates) == 1:
        return [f"{arm}: not tuned, there is one learning rate."]
    if chosen is None:
        return [f"{arm}: diverged at every learning rate."]
    if chosen in (rates[0], rates[-1]):
        end, further = ("lowest", "lower") if chosen == rates[0] else ("highest", "higher")
        return [f"{arm}: its best learning rate is the {end} of the grid, so a {further} one may be better."]
    return []


def cell(spread: Spread, form: str | Callable[[float], str]) -> str:
    """median [lowest, highest], or the one value there is."""

    def shown(value: float) -> str:
        if callable(form):
            return form(value)
        return form.format(value) if value < math.inf else "–"

    if len(spread.values) == 1:
        return shown(spread.median)
    return f"{shown(spread.median)} [{shown(spread.low)}, {shown(spread.high)}]"


def loss_of(value: float) -> str:
    """A loss as a cell shows it."""
    return f"{value:.3f}" if value < math.inf else "diverged"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too: the first to the left, the others to the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *padded[1:]]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def text(sentences: str) -> str:
    """Wrapped to the page."""
    return textwrap.fill(sentences, WIDTH)
