"""One self-contained page about a run: no network, no script, opens from a file."""

from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline.atomic import write_whole
from scripts.report import figures, questions
from scripts.report.format import Answer, cell, printable
from scripts.report.open_run import OpenRun
from scripts.report.prefilter import off_periods, off_steps, running_mean
from selection.attribution import foresight, totals, trends

TOP = 10  # documents at either end
WINDOWS = 20  # stretches of steps in the figures over time
_FEATURES = {
    "bias_length": "document length in characters, least of the bin",
    "bias_position": "position in the document, least of the bin",
    "bias_rarity": "token rarity in bits per token, least of the bin",
    "bias_loss": "loss when scored in nats, least of the bin",
}


@dataclass
class Picture:
    """A figure with its caption."""

    caption: str
    svg: Markup


def write_page(run: OpenRun) -> Path:
    """Write `<run>/report.html` and return its path."""
    path = run.record.folder / "report.html"
    write_whole(path, render("report.html.j2", **_contents(run)))
    return path


def render(template: str, **contents) -> str:
    """A page of the folder `pages`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"printable": printable, "cell": cell}
    return environment.get_template(template).render(rows=_rows, **contents)


def _contents(run: OpenRun) -> dict:
    overview = {answer.name: answer for answer in questions.overview(run, TOP)}
    numbers = overview.pop("numbers")
    documents = [overview.pop(name) for name in ("highest_documents", "lowest_documents") if name in overview]
    tables = list(overview.values())
    if run.log.knows_documents:
        tables += questions.early_late(run)
    tables += questions.returning(run)
    return {
        "run": run.record,
        "numbers": numbers,
        "pictures": _pictures(run),
        "tables": [table for table in tables if table.table.num_rows],
        "documents": [(answer, answer.table.to_pylist()) for answer in documents],
        "config": (run.record.folder / "config.toml").read_text(),
    }


def _pictures(run: OpenRun) -> list[Picture]:
    found = []

    def add(caption: str, svg: str) -> None:
        found.append(Picture(caption, Markup(svg)))

    if run.record.training:
        add("Loss against steps", figures.loss(run.record, "step"))
        add("Loss against seconds of training", figures.loss(run.record, "seconds"))
    if run.log.knows_documents:
        over_time, sources = trends.over_time(run.log, WINDOWS), totals.sources(run.log)
        add("What was trained on, by source", figures.stream(over_time, sources, "picked"))
        add("Pick rate by source", figures.stream(over_time, sources, "pick_rate"))
    if run.selection.prefilter:
        correlations = foresight.correlations(run.log)
        off = off_periods(off_steps(run.record)[0])
        if correlations.num_rows:
            svg = figures.correlations(correlations, running_mean(correlations), off)
            add("Correlation of predictions and scores", svg)
    scores = totals.score_histogram(run.log)
    if scores.num_rows:
        add("Scores of picked and rejected candidates", figures.histogram(scores, run.method.ranks_by))
    for answer in questions.biases(run):
        add(answer.title, figures.bias(answer.table, _FEATURES[answer.name]))
    return found


def _rows(answer: Answer) -> list[dict]:
    shown = answer.table if answer.shown is None else answer.shown
    return shown.to_pylist()
