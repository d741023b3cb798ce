"""What the report says about a prefilter: how well it foresaw the scores, what it chose, which n-grams it likes."""

import math

import numpy as np
import pyarrow as pa
from rich.text import Text

from scripts.report.format import WIDTH, Answer
from scripts.report.ngrams import LEAST_COUNT, liked, newest_weights, side_by_side
from scripts.report.open_run import OpenRun
from scripts.report.plot import plot
from scripts.report.texts import FREQUENCY_SAMPLES
from scripts.train.record import RunRecord
from selection.attribution import foresight
from selection.prefilters.judge import WINDOW
from selection.prefilters.registry import PREFILTERS

_MARKS = 40  # of the running mean in a terminal
_SEPARATION = (
    "separation: how likely target text that was not counted in is predicted higher than the pool (chance: 0.5)."
)
_ITS_OWN = "Method {} ranks by the predictions themselves: there are no scores to compare them with."
_PARTS = 6  # of a run that are told one by one
_PERIODS = 4  # off periods that are told one by one


def prefilter(run: OpenRun, top: int = 10) -> list[Answer]:
    """Everything about the prefilter; the last answer is there only where its n-grams can be read."""
    if run.selection.prefilter is None:
        raise ValueError(f"{run.name} has no prefilter: nothing was predicted")
    off, known = off_steps(run.record)
    outcomes = foresight.outcomes(run.log, off)
    told = _ITS_OWN.format(run.selection.method) if run.method.filter else _unscored(outcomes)
    answers = [_over_time(run, off, f"{_switching(off, known)} {told}"), *turns(run.record), *shares(run.record)]
    answers.append(_outcomes(run, outcomes))
    if run.log.knows_documents:
        answers.append(_sources(run, off))
    return answers + _ngrams(run, top)


def off_steps(record: RunRecord) -> tuple[list[int], int]:
    """The steps in which the prefilter was switched off, and of how many steps that is known."""
    lines = [line for line in record.training if "prefilter_on" in line]
    return [line["step"] for line in lines if not line["prefilter_on"]], len(lines)


def off_periods(off: list[int]) -> list[tuple[int, int]]:
    """First and last step of every stretch without the prefilter."""
    parts = np.split(off, np.flatnonzero(np.diff(off) > 1) + 1) if off else []
    return [(int(part[0]), int(part[-1])) for part in parts]


def running_mean(correlations: pa.Table) -> list[tuple[int, float]]:
    """(step, mean correlation of the last WINDOW scored steps): what the judge has heard by then."""
    steps, values = (correlations[name].to_pylist() for name in ("step", "correlation"))
    windows = (values[max(0, i + 1 - WINDOW) : i + 1] for i in range(len(values)))
    return [(step, sum(window) / len(window)) for step, window in zip(steps, windows, strict=True)]


def _over_time(run: OpenRun, off: list[int], note: str) -> Answer:
    found = foresight.correlations(run.log)
    values = found["correlation"].to_pylist()
    if len(values) > 1:
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        note = f"Mean {np.mean(values):.3f} over {len(values)} scored steps (standard error {error:.3f}). {note}"
    table = foresight.over_time(run.log, _PARTS, off)
    separations = [_separation(run.record, row["first_step"], row["last_step"]) for row in table.to_pylist()]
    table = table.append_column("separation", pa.array(separations, pa.float64()))
    if any(value is not None for value in separations):
        note += f"\n{_SEPARATION}"
    title = "How well the prefilter foresaw the scores: their correlation within a group"
    if run.method.filter:
        shown = table.drop_columns(["scored_steps", "correlation", "standard_error"])
        return Answer("predictions", "When the filter chose", table, note, shown)
    return Answer("predictions", title, table, note, above=_plot(found) if values else [])


def shares(record: RunRecord) -> list[Answer]:
    """What share of the picks every cluster of target samples was given, and its loss, in parts of the run; nothing
    where there are no clusters."""
    lines = [line for line in record.training if "share" in line]
    if not lines:
        return []
    rows = []
    for part in np.array_split(np.arange(len(lines)), min(_PARTS, len(lines))):
        first, last = lines[part[0]], lines[part[-1]]
        row = {"first_step": first["step"], "last_step": last["step"]}
        for cluster, share in enumerate(np.mean([lines[place]["share"] for place in part], axis=0), 1):
            row |= {f"share_{cluster}": float(share), f"loss_{cluster}": last["cluster_loss"][cluster - 1]}
        before = [lines[place]["picked_before"] for place in part if lines[place]["picked_before"] is not None]
        rows.append(row | {"picked_before": float(np.mean(before)) if before else None})
    note = (
        "share of the picks: the mean of those steps; loss of the cluster's watched samples: the last measured.\n"
        "picked before: how often the text of picks had been picked already, in the mean."
    )
    title = "Clusters of the target text, largest first"
    return [Answer("shares", title, pa.Table.from_pylist(rows), note)]


def turns(record: RunRecord) -> list[Answer]:
    """Who chose from when to when in a run of `auto`, and how the falls of the judges' losses compare by then; nothing
    where nobody takes turns."""
    lines = [line for line in record.training if "arm" in line]
    if not lines:
        return []
    starts = [place for place, line in enumerate(lines) if not place or line["arm"] != lines[place - 1]["arm"]]
    rows = []
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = lines[stop - 1]
        row = {"first_step": lines[start]["step"], "last_step": last["step"], "chose": last["arm"]}
        rows.append(row | {f"fall_{arm}": fall for arm, fall in last["falls"].items()})
    ratio, error = lines[-1]["gain_ratio"], lines[-1]["gain_error"]
    told = "no trial was over yet" if ratio is None else f"{ratio:.2f}, standard error {error:.2f}"
    note = (
        "fall: of the judges' losses a step, in the last trial that was over by then.\nWhat was in charge before the "
        f"last trial that plain training took part in, in falls of plain training: {told}."
    )
    return [Answer("turns", "Who chose", pa.Table.from_pylist(rows), note)]


def _separation(record: RunRecord, first: int, last: int) -> float | None:
    """The mean of what the judge heard of it in these steps."""
    lines = [line.get("prefilter_separation") for line in record.training if first <= line["step"] <= last]
    known = [value for value in lines if value is not None]
    return sum(known) / len(known) if known else None


def _plot(correlations: pa.Table) -> list[Text]:
    points = list(zip(*(correlations[name].to_pylist() for name in ("step", "correlation")), strict=True))
    means = running_mean(correlations)
    marks = means[:: -(-len(means) // _MARKS)]
    heading = Text(f"dots one scored step, m mean of the last {WINDOW}", style="dim")
    return [heading, *plot(points, {"m": marks}, width=WIDTH, height=8, label="step")]


def _outcomes(run: OpenRun, table: pa.Table) -> Answer:
    if run.method.filter:
        note = "scored: steps in which it ranked all that was drawn; between: steps in which it was off."
    else:
        note = "scored: steps that scored a shortlist; between: steps in which the prefilter alone chose."
    note += f" score: {run.method.ranks_by}."
    return Answer("outcomes", "What became of what was drawn", table, note)


def _sources(run: OpenRun, off: list[int]) -> Answer:
    note = (
        "shortlist rate, scored pick rate: of what scored steps drew; between pick rate: of what the others drew, by "
        "the prefilter alone."
    )
    table = foresight.by_source(run.log, off)
    return Answer("predicted_sources", "What the prefilter chose, by source, against the scores", table, note)


def _ngrams(run: OpenRun, top: int) -> list[Answer]:
    # Every cluster of `need` has weights of its own, made anew from the dataset: none are in its checkpoints. Those of
    # `match` change from step to step.
    one_table = run.selection.prefilter in PREFILTERS
    newest = newest_weights(run.record) if run.texts and one_table else None
    if newest is None:
        return []
    step, weights = newest
    table = liked(run.texts, weights, top)
    if not table.num_rows:
        return []
    note = (
        f"By weight, of those that came {LEAST_COUNT} times or more in at most {FREQUENCY_SAMPLES:,} samples of the "
        "pool. ␣ is a blank.\nA weight belongs to a bucket of hashed n-grams: what is less than half of its bucket is "
        "left out, the rest may still owe some of its weight to others."
    )
    title = f"N-grams that the prefilter likes most and least, after {step} steps"
    return [Answer("ngrams", title, table, note, side_by_side(table))]


def _switching(off: list[int], known: int) -> str:
    """When it was switched off and on again, in a sentence."""
    if not known:
        return "Whether the prefilter was on is not known: metrics.jsonl does not say."
    if not off:
        return "The prefilter was on throughout."
    if len(off) == known:
        return "The prefilter was off throughout."
    periods = off_periods(off)
    told = [f"from step {first} to {last}" for first, last in periods[:_PERIODS]]
    if len(periods) > _PERIODS:
        told.append(f"{len(periods) - _PERIODS} more times")
    return f"The prefilter was switched off {', '.join(told)}: in {len(off)} of {known} steps."


def _unscored(outcomes: pa.Table) -> str:
    picked = [row for row in outcomes.to_pylist() if row["outcome"] == "picked"]
    unscored = sum(row["candidates"] for row in picked if row["steps"].startswith("between"))
    share = unscored / max(1, sum(row["candidates"] for row in picked))
    return f"{100 * share:.1f} % of the picks were made without scores."
