"""What the selection log costs to write and to ask: made-up scores of full entropy, a day of a 64-rank run.

    python -m scripts.bench log                          # ten million candidates; some minutes, 400 MB of disk
    python -m scripts.bench log --candidates 100000      # a quick look
    python -m scripts.bench log --step-seconds 0.25      # the share of a step of your own
    python -m scripts.bench log --amortised              # behind a prefilter, most of it not scored

Writing is timed on one rank, of what the training loop logs of a choice. Every question is then asked in a process of
its own, which opens the log anew, so that times and peak memory are those of a fresh report.
"""

import multiprocessing
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.table import Table

from selection.attribution import bias, foresight, history, overlap, totals, trends
from selection.attribution.open_log import SPANS, OpenLog
from selection.log.schema import QUANTITIES
from selection.log.writer import FILE_ROWS, SelectionLog

RANKS, N, K = 64, 32, 16
DRAWN, SCORED, EVERY, PICKED = 64, 16, 8, 8  # of the amortised case: all drawn are predicted, few are scored
WINDOW = 2048  # samples that the stream permutes together
SOURCES, DOCUMENT_SAMPLES = 20, 3


@dataclass(frozen=True)
class LogOptions:
    """Times the selection log."""

    candidates: int = 10_000_000
    """Rows of the log."""
    step_seconds: float = 0.455
    """A step's time to compare writing with; by default that of GREATS on an A100, GPT-2 small, N = 32 (GhostSuite)."""

    amortised: bool = False
    """64 candidates a step behind a prefilter, 16 of them scored on every 8th step, 8 picked."""

    @property
    def drawn(self) -> int:
        return DRAWN if self.amortised else N

    @property
    def steps(self) -> int:
        """Steps of one group per rank; at least three, so that early and late can be told apart."""
        return max(3, self.candidates // (RANKS * self.drawn))

    @property
    def lane(self) -> int:
        """Samples per rank; two thirds of its rows, so that half of them come again."""
        return self.steps * self.drawn * 2 // 3


@dataclass
class Written:
    """What writing one rank's rows took."""

    seconds_per_step: float
    worst_seconds: float
    bytes_per_candidate: float
    files: int


def write_rank(folder: Path, rank: int, options: LogOptions, flush_every: int) -> Written:
    """One rank's rows of the whole run: every quantity of full entropy, ids as the stream permutes them."""
    rng = np.random.default_rng(rank)
    windows = -(-options.lane // WINDOW)
    epochs = [np.concatenate([rng.permutation(WINDOW) + w * WINDOW for w in range(windows)]) for _ in range(3)]
    ids = np.concatenate([epoch[epoch < options.lane] for epoch in epochs]) + rank * options.lane
    log = SelectionLog(folder, rank, flush_every)
    spent = []
    for step in range(options.steps):
        chosen = choose(rng, step) if options.amortised else score_all(rng)
        drawn = ids[step * options.drawn :][: options.drawn]
        started = time.perf_counter()
        log.append(step, rank, drawn, learning_rate=1e-3 / (step + 1), **chosen)
        spent.append(time.perf_counter() - started)
    started = time.perf_counter()
    log.close()
    spent.append(time.perf_counter() - started)
    files = list(folder.glob(f"*-rank{rank:05d}.parquet"))
    size = sum(path.stat().st_size for path in files)
    return Written(sum(spent) / options.steps, max(spent), size / (options.steps * options.drawn), len(files))


def score_all(rng: np.random.Generator) -> dict:
    """What a step that scores all that it draws logs."""
    values = {name: rng.standard_normal(N, dtype=np.float32) for name in QUANTITIES}
    return {"picks": np.argsort(-values["score"])[:K], "measured": np.arange(N), **values}


def choose(rng: np.random.Generator, step: int) -> dict:
    """What a step behind a prefilter logs: predictions of all, the rest of what it scored or trained on."""
    predicted = rng.standard_normal(DRAWN, dtype=np.float32)
    best, scored = np.argsort(-predicted), step % EVERY == 0
    measured = best[: SCORED if scored else PICKED]
    names = [name for name in QUANTITIES if name != "predicted"] if scored else ["loss"]
    values = {name: rng.standard_normal(len(measured), dtype=np.float32) for name in names}
    picks = measured[np.argsort(-values["score"])[:PICKED]] if scored else measured
    return {"picks": picks, "measured": measured, "predicted": predicted, **values}


def write_spans(path: Path, options: LogOptions) -> None:
    """Spans of every sample: documents of three samples, and the end of every third sample is another document's."""
    with pq.ParquetWriter(path, SPANS, compression="zstd") as writer:
        for rank in range(RANKS):
            own = np.arange(options.lane) + rank * options.lane
            shared = own[own % 3 == 0]
            ids = np.concatenate([own, shared])
            documents = np.concatenate([own // DOCUMENT_SAMPLES, shared // DOCUMENT_SAMPLES + 1])
            share = np.concatenate([np.where(own % 3 == 0, 0.6, 1.0), np.full(len(shared), 0.4)])
            columns = {
                "sample_id": ids,
                "document": np.char.add("openwebtext:", documents.astype(str)),
                "source": np.char.add("source-", (documents % SOURCES).astype(str)),
                "first": ids % 3 * 3000,
                "last": ids % 3 * 3000 + (3000 * share).astype(np.int64),
                "share": share,
                "rarity": (ids * 2654435761 % 1000 / 100).astype(np.float32),
            }
            writer.write_table(pa.table(columns, schema=SPANS).sort_by("sample_id"))


# What the report asks, by the name of its option.
QUESTIONS = {
    "summary": totals.summary,
    "--ask gaps": totals.gaps,
    "--ask samples": totals.samples,
    "--ask documents": totals.documents,
    "--ask sources": totals.sources,
    "--ask time": trends.over_time,
    "--ask early-late": trends.early_and_late,
    "--ask returning": trends.returning,
    "--ask bias": bias.bias,
    "--ask predictor (over time)": foresight.over_time,
    "--ask predictor (outcomes)": foresight.outcomes,
    "--ask predictor (sources)": foresight.by_source,
    "--sample": lambda log: history.sample_history(log, 1),
    "--document": lambda log: history.document_samples(log, "openwebtext:1"),
    "--step": lambda log: history.step_contents(log, 1),
    "--against (agreement)": lambda log: overlap.agreement(log, log),
    "--against (by sample)": lambda log: overlap.agreement_by_sample(log, log),
    "--against (sources)": lambda log: overlap.sources_moved(log, log),
}


def ask(folder: Path, name: str) -> tuple[float, float, float]:
    """Seconds from opening the log to the answer; processor seconds, summed over the cores, which a busy machine does
    not stretch; and the process's peak memory in MB."""
    started, used = time.perf_counter(), time.process_time()
    with OpenLog(folder / "selection", spans=[folder / "spans.parquet"]) as log:
        QUESTIONS[name](log)
    used = time.process_time() - used
    return time.perf_counter() - started, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str]) -> int:
    """Runs the command line."""
    options = tyro.cli(LogOptions, args=arguments, prog="scripts.bench log", description=__doc__)
    console = Console(width=100, highlight=False)
    with tempfile.TemporaryDirectory(prefix="bench-log-") as temporary:
        folder = Path(temporary)
        timed = write_rank(folder / "selection", 0, options, flush_every=100)
        for rank in range(1, RANKS):
            write_rank(folder / "selection", rank, options, flush_every=FILE_ROWS // options.drawn)
        write_spans(folder / "spans.parquet", options)
        share = timed.seconds_per_step / options.step_seconds
        table = Table(
            title=f"Writing {options.steps * RANKS * options.drawn:,} candidates from {RANKS} ranks",
            title_justify="left",
        )
        table.add_column("what")
        table.add_column("measured", justify="right")
        table.add_row("time per step on a rank, flushes included", f"{1e6 * timed.seconds_per_step:.0f} µs")
        table.add_row(f"share of a step of {options.step_seconds} s", f"{100 * share:.3f} %")
        table.add_row("longest flush", f"{1e3 * timed.worst_seconds:.0f} ms")
        table.add_row(
            f"bytes per candidate, {'amortised' if options.amortised else f'all {len(QUANTITIES)} quantities'}",
            f"{timed.bytes_per_candidate:.1f}",
        )
        table.add_row("files, all ranks", f"{len(list((folder / 'selection').iterdir()))}")
        console.print(table)
        table = Table(title="Asking", title_justify="left")
        for heading in ("question", "seconds", "processor seconds", "peak memory"):
            table.add_column(heading, justify="left" if heading == "question" else "right")
        context = multiprocessing.get_context("spawn")
        for name in QUESTIONS:
            with context.Pool(1) as pool:
                seconds, used, megabytes = pool.apply(ask, (folder, name))
            table.add_row(name, f"{seconds:.2f}", f"{used:.2f}", f"{megabytes:.0f} MB")
        console.print(table)
    return 0
