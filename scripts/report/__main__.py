"""What a run was taught, by what, and why something was left out: reads a run folder, offline.

    python -m scripts.report runs/demo                  # curves, sources, documents
    python -m scripts.report runs/demo --html           # a page, runs/demo/report.html
    python -m scripts.report runs/demo --sample 1234    # its text and its history
    python -m scripts.report runs/demo --document ID    # what became of its samples
    python -m scripts.report runs/demo --source NAME    # over time, its documents
    python -m scripts.report runs/demo --step 100       # what was in it, with text
    python -m scripts.report runs/demo --ask bias       # what the choice favours
    python -m scripts.report runs/demo --ask predictor  # how well a prefilter foresaw the scores, what it likes
    python -m scripts.report runs/demo --ask samples --order contribution --csv
    python -m scripts.report runs/demo --against runs/b # how two runs differ
    python -m scripts.report runs/demo --export-picks picks.jsonl  # the text that was picked, to train another model

Every answer is a table: in the terminal, or as --csv or --json with all columns and whole texts.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.text import Text

from scripts.report import questions
from scripts.report.format import WIDTH, Answer, as_csv, as_json, print_answers, printable
from scripts.report.open_run import OpenRun
from scripts.report.plot import plot
from scripts.report.questions import BY_NAME
from scripts.report.texts import write_picks
from scripts.train.record import RunRecord

Question = Literal["samples", "documents", "sources", "time", "early-late", "returning", "bias", "gaps", "predictor"]


@dataclass(frozen=True)
class Options:
    """Reports on a training run; at most one question at a time."""

    run: tyro.conf.Positional[Path]
    """Run folder: the --out of scripts.train."""
    ask: Question | None = None
    """A question to the whole log."""
    order: str | None = None
    """Column that --ask samples and --export-picks (default: contribution, where it is known) and --ask documents
    (default: mean_score) are ordered by."""
    lowest: bool = False
    """Lowest first."""
    top: int | None = None
    """Rows of samples and documents (default: 10); samples that --export-picks writes (default: all)."""
    sample: int | None = None
    """Sample id: its text and its history."""
    document: str | None = None
    """Document id: its samples and what became of them."""
    source: str | None = None
    """Source: its course over time, its highest and lowest documents."""
    step: int | None = None
    """Step: all of its candidates, with text."""
    against: Path | None = None
    """Another run folder to compare with."""
    export_picks: Path | None = None
    """JSON Lines to write: the text that was picked, with its scores."""
    html: bool = False
    """Write <run>/report.html, one self-contained page."""
    csv: bool = False
    """Print CSV."""
    json: bool = False
    """Print JSON."""
    data: Path | None = None
    """Dataset folder, where it is not where the run's config.toml says."""

    def check(self) -> None:
        asked = ["ask", "sample", "document", "source", "step", "against", "export_picks"]
        given = [f"--{name.replace('_', '-')}" for name in asked if getattr(self, name) is not None]
        if len(given + ["--html"] * self.html) > 1:
            raise ValueError(
                f"{' and '.join(given + ['--html'] * self.html)} are different questions: ask one at a time"
            )
        if self.csv and self.json:
            raise ValueError("--csv and --json exclude each other")
        if self.top is not None and self.top < 1:
            raise ValueError(f"--top is {self.top}; it must be at least 1")
        if (self.order or self.lowest) and self.ask not in ("samples", "documents") and not self.export_picks:
            raise ValueError("--order and --lowest belong to --ask samples, --ask documents and --export-picks")
        if self.export_picks and (self.csv or self.json):
            raise ValueError("--export-picks writes JSON Lines and prints no table: leave out --csv and --json")

    @property
    def rows(self) -> int:
        return 10 if self.top is None else self.top


def answer(run: OpenRun, options: Options) -> list[Answer]:
    """The answers to what was asked."""
    if options.sample is not None:
        return questions.sample(run, options.sample)
    if options.document is not None:
        return questions.document(run, options.document)
    if options.source is not None:
        return questions.source(run, options.source, options.rows)
    if options.step is not None:
        return questions.step(run, options.step)
    if options.against is not None:
        with OpenRun.open(options.against, options.data) as other:
            run.record.problems += [f"{other.name}: {problem}" for problem in other.record.problems]
            return questions.against(run, other)
    if options.ask == "samples":
        return questions.samples(run, options.order, options.lowest, options.rows)
    if options.ask == "documents":
        return questions.documents(run, options.order or "mean_score", options.lowest, options.rows)
    if options.ask:
        return BY_NAME[options.ask](run)
    return questions.overview(run, options.rows)


def show_curves(record: RunRecord, console: Console) -> None:
    """Loss over steps and over seconds, side by side."""
    marks = {"v": "val_loss", "t": "test_loss"}
    plots = [
        plot(
            [(line[axis], line["train_loss"]) for line in record.training],
            {letter: [(line[axis], line[name]) for line in record.evaluations] for letter, name in marks.items()},
            width=WIDTH // 2 - 1,
            height=12,
            label=axis,
        )
        for axis in ("step", "seconds")
    ]
    console.print(Text("Loss: dots train (picks only), v val, t test", style="bold"))
    for left, right in zip(*plots, strict=True):
        console.print(Text.assemble(left, "  ", right), no_wrap=True)
    console.print()


def export_picks(run: OpenRun, options: Options) -> str:
    """Writes the picks; a sentence that says what is there."""
    if run.texts is None:
        raise ValueError("--export-picks needs the dataset of the run: " + "; ".join(run.record.problems))
    order = questions.usual_order(run, options.order)
    lines = write_picks(run.log, run.texts, options.export_picks, order, options.lowest, options.top)
    return f"{options.export_picks} holds {lines:,} pieces of text that were picked, by {order}"


def report(options: Options) -> None:
    """Answer on standard output; what is missing or damaged is told on standard error."""
    options.check()
    with OpenRun.open(options.run, options.data) as run:
        if options.html:
            from scripts.report.html import write_page  # here: matplotlib is slow to load

            path = write_page(run)
            answers = []
        elif options.export_picks:
            told = export_picks(run, options)
            answers = []
        else:
            answers = answer(run, options)
        for problem in run.record.problems:
            print(f"note: {printable(problem)}", file=sys.stderr)
        if options.html:
            print(path)
        elif options.export_picks:
            print(told)
        elif options.json:
            print(as_json(answers))
        elif options.csv:
            print(as_csv(answers, escape=sys.stdout.isatty()), end="")
        else:
            console = Console(width=WIDTH, highlight=False, markup=False, emoji=False)
            if answers[0].name == "numbers":
                show_curves(run.record, console)
            print_answers(answers, console)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input is at fault."""
    options = tyro.cli(Options, args=arguments, prog="scripts.report", description=__doc__)
    try:
        report(options)
    except ValueError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
