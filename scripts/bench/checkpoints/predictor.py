"""Which predictor foresees scores best, replayed from the log of a run that scored every candidate; see scripts.bench.

Every `every`-th step a random part of each group is learnt from, as if no other candidate had been scored; at every
step, and before that, predictions are compared with all scores of the step. What is learnt counts from the next step
on (in a run from the one after that). Over several draws of what is learnt from.

    python -m scripts.train ... --selection.method topk --selection.candidates 64 --train.keep-checkpoints 9
    python -m scripts.bench predictor --run runs/scored

Shapes: S steps, G groups, n candidates drawn a group, T1 = T + 1 tokens.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from rich import box
from rich.console import Console, Group
from rich.progress import track
from rich.table import Table
from rich.text import Text

from model.world import World
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader
from pipeline.dataset.sampling import evaluation_samples
from scripts.bench.checkpoints import ceiling as bench_ceiling
from scripts.bench.checkpoints.ceiling import Look, ceilings, look
from scripts.bench.checkpoints.stage import stages
from scripts.bench.checkpoints.variants import Samples, Variant, standardised, variants
from scripts.train.config import Config
from scripts.train.prior import MOST
from scripts.train.record import read_run
from scripts.train.run import build_model
from selection.log.reader import read_log
from selection.prefilters.judge import group_correlation
from selection.prefilters.ngrams import ngram_features

BLOCKS = 20  # of successive steps, whose means count as independent


@dataclass(frozen=True)
class PredictorOptions:
    """python -m scripts.bench predictor"""

    run: str
    """A run folder where every drawn candidate was scored at every step (selection.amortise.drawn 0)."""
    data: str = ""
    """Its dataset, where that is not at the run's data.path."""
    every: int = 8
    """Steps from one that is learnt from to the next."""
    learnt: int = 16
    """Candidates of a group that are learnt from."""
    draws: int = 4
    """Random choices of these that are averaged over."""
    json: bool = False
    """Print one JSON object instead of tables."""


class Recorded(NamedTuple):
    """A run: its samples, the candidates' rows among them, and their scores."""

    samples: Samples
    rows_SGn: np.ndarray
    scores_SGn: np.ndarray


class Log(NamedTuple):
    """Of every candidate of a run, in the order of the log."""

    steps_SGn: np.ndarray
    sample_ids_SGn: np.ndarray
    scores_SGn: np.ndarray


def read_scores(config: Config) -> Log:
    """The log of run `config.out`; ValueError unless it has a finite score for every candidate."""
    table = read_log(Path(config.out) / "selection", columns=["step", "sample_id", "first_order"])
    steps, ids, scores = (table[name].to_numpy() for name in table.column_names)
    shape = (len(np.unique(steps)), config.train.groups, config.selection.drawn)
    if not len(steps) or len(steps) != math.prod(shape) or not np.isfinite(scores).all():
        raise ValueError(
            f"{config.out} has not scored every candidate of every step: take a run with selection.method topk "
            "and selection.amortise.drawn 0"
        )
    return Log(steps.reshape(shape), ids.reshape(shape), scores.astype(np.float64).reshape(shape))


def load(config: Config, log: Log, looks: list[Look]) -> Recorded:
    """The samples of the log, with what the predictors may know of them."""
    manifest = Manifest.load(config.data.dataset())
    train, target = SplitReader(manifest, "train"), SplitReader(manifest, "target")
    targets = evaluation_samples(manifest, "target", min(MOST, manifest.samples("train") // 2))
    tokens = [
        train.tokens(log.sample_ids_SGn.ravel()),
        target.tokens(targets),
        train.tokens(manifest.sample_ids("train", np.arange(len(targets)))),
    ]
    ends = np.cumsum([len(part) for part in tokens])
    tables = [initial_embedding(config, manifest), *(seen.embedding_VD for seen in looks)]
    samples = Samples(
        np.concatenate([ngram_features(part) for part in tokens]),
        np.arange(*ends[:2]),
        np.arange(*ends[1:]),
        np.stack([[table[sample].mean(0) for sample in tokens[0]] for table in tables]),
        np.searchsorted([seen.step for seen in looks], log.steps_SGn.ravel(), side="right"),
    )
    return Recorded(samples, np.arange(log.scores_SGn.size).reshape(log.scores_SGn.shape), log.scores_SGn)


def initial_embedding(config: Config, manifest: Manifest) -> np.ndarray:
    """The token embeddings that the run began with."""
    shallow = dataclasses.replace(config, model=dataclasses.replace(config.model, n_layer=1))
    world = World.join()
    weights = bench_ceiling.embedding(build_model(shallow, manifest, world))
    world.leave()
    return weights


def gain(predicted_n: np.ndarray, scores_n: np.ndarray, k: int) -> float:
    """The mean standardised score of the k with the highest predictions; 0, as of random ones, where all are equal."""
    if np.ptp(predicted_n) == 0:
        return 0.0
    return float(standardised(scores_n)[np.argsort(-predicted_n, kind="stable")[:k]].mean())


def replay(
    variant: Variant, recorded: Recorded, options: PredictorOptions, draw: int, k: int, steps: int | None = None
):
    """Correlation and gain [2, S] of each of the first `steps` steps; 0 where nothing is predicted."""
    random, found = np.random.default_rng(draw), []
    for step, (rows_Gn, scores_Gn) in enumerate(
        zip(recorded.rows_SGn[:steps], recorded.scores_SGn[:steps], strict=True)
    ):
        predicted_Gn = np.stack([variant.predict(rows_n) for rows_n in rows_Gn])
        gains = [gain(*pair, k) for pair in zip(predicted_Gn, scores_Gn, strict=True)]
        found.append((np.nan_to_num(group_correlation(predicted_Gn, scores_Gn)), np.mean(gains)))
        if step % options.every == 0:
            chosen_GN = np.stack([random.permutation(len(rows_n))[: options.learnt] for rows_n in rows_Gn])
            variant.learn(np.take_along_axis(rows_Gn, chosen_GN, 1), np.take_along_axis(scores_Gn, chosen_GN, 1))
    return np.array(found).T


def compare(recorded: Recorded, options: PredictorOptions, k: int, console: Console) -> list[dict]:
    """One row a variant, and one for what all scores would teach: correlation and gain by thirds of the run, means over
    draws; spreads over draws of the mean over the run; how far its gain is ahead of the first variant under the same
    heading, with a standard error over blocks of steps."""
    groups, rows = variants(recorded.samples), []
    work = [(knows, name, make, options) for knows, named in groups.items() for name, make in named.items()]
    # What is lost by scoring few; nothing is drawn here, so one draw is as good as any.
    taught = dataclasses.replace(options, every=1, learnt=recorded.scores_SGn.shape[2], draws=1)
    alone, blocks = work[-1][0], min(BLOCKS, len(recorded.scores_SGn))
    work.append((alone, "shipped, taught every score", groups[alone]["shipped"], taught))
    for knows, name, make, how in track(work, description="replaying", console=console, transient=True):
        found_d2S = np.stack([replay(make(), recorded, how, draw, k) for draw in range(how.draws)])
        if name == next(iter(groups[knows])):
            first_S = found_d2S[:, 1].mean(0)
        ahead = [block.mean() for block in np.array_split(found_d2S[:, 1].mean(0) - first_S, blocks)]
        row = {"knows": knows, "variant": name, "ahead": float(np.mean(ahead))}
        row["ahead_error"] = float(np.std(ahead, ddof=1) / math.sqrt(blocks))
        for what, found_dS in zip(("correlation", "gain"), np.moveaxis(found_d2S, 1, 0), strict=True):
            row[what] = [float(third.mean()) for third in np.array_split(found_dS, 3, axis=1)]
            row[f"{what}_spread"] = float(found_dS.mean(1).std(ddof=1)) if how.draws > 1 else None
        rows.append(row)
    return rows


def table(rows: list[dict], options: PredictorOptions, recorded: Recorded, k: int) -> Group:
    steps, groups, drawn = recorded.scores_SGn.shape
    scores = recorded.scores_SGn.reshape(-1, drawn)
    most = np.mean([gain(scores_n, scores_n, k) for scores_n in scores])
    note = (
        f"{steps} steps of {groups} x {drawn} candidates, {options.learnt} random ones of a group learnt from at every "
        f"{options.every}th step; means of {options.draws} draws, ±: spread over draws of the mean over the run. r: "
        f"correlation within the group, by thirds of the run. gain: mean standardised score of the {k} with the best "
        f"predictions (with the best scores {most:.2f}, at random 0). ahead: in gain, of the first under the same "
        f"heading, ± standard error over {BLOCKS} blocks of steps."
    )
    shown = Table(
        title="Predictors of scores", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for name in ("knows", "r 1st", "2nd", "3rd", "±", "gain", "2nd", "3rd", "±", "ahead", "±"):
        shown.add_column(name, justify="left" if name == "knows" else "right", no_wrap=True)
    for number, row in enumerate(rows):
        if not number or row["knows"] != rows[number - 1]["knows"]:
            shown.add_row(f"[bold]{row['knows']}[/bold]")
        cells = []
        for what in ("correlation", "gain"):
            spread = row[f"{what}_spread"]
            cells += [*(f"{value:.2f}" for value in row[what]), "" if spread is None else f"{spread:.3f}"]
        shown.add_row(f"  {row['variant']}", *cells, f"{row['ahead']:+.3f}", f"{row['ahead_error']:.3f}")
    return Group(shown, Text(note))


def main(arguments: list[str]) -> int:
    """Replays, and prints two tables or one JSON object."""
    options = tyro.cli(PredictorOptions, args=arguments, prog="scripts.bench predictor", description=__doc__)
    torch.set_num_threads(1)
    console = Console(width=100, highlight=False, stderr=options.json)
    config = read_run(Path(options.run)).settings
    data = dataclasses.replace(config.data, path=options.data or config.data.path)
    config = dataclasses.replace(config, out=options.run, data=data)
    k, m = config.selection.picks, config.selection.direction.samples
    log = read_scores(config)
    looks = [look(stage) for stage in stages(config, console, "ceiling")]
    recorded = load(config, log, looks)
    rows = compare(recorded, options, k, console)
    shipped = next(iter(next(iter(variants(recorded.samples).values())).values()))
    tops = []
    for seen in looks:
        predictions = []
        for draw in range(options.draws):
            variant = shipped()
            replay(variant, recorded, options, draw, k, seen.step)
            predictions.append([variant.predictor.predict(features_NF) for features_NF in seen.features_gNF])
        tops += ceilings(seen, np.array(predictions), m)
    if options.json:
        print(json.dumps({"options": dataclasses.asdict(options), "variants": rows, "ceiling": tops}))
        return 0
    console.print(table(rows, options, recorded, k))
    console.print(bench_ceiling.table(tops))
    return 0
