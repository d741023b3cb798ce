"""Steps from a checkpoint on the batches of a criterion, and what the criterion says there of the candidates.

A criterion begins at a checkpoint as a run begins: what it remembers of the steps before is not taken up.

Shapes: G groups, n candidates drawn a group, k picks, T1 = T + 1 tokens.
"""

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch

from pipeline.dataset.reader import SplitReader
from pipeline.dataset.sampling import evaluation_samples, target_samples
from pipeline.stream import Candidates, CandidateStream
from scripts.bench.checkpoints.stage import Stage
from scripts.train.held_out import HeldOut
from scripts.train.prior import known_features
from selection.choice import Choice
from selection.prefilters.build import build_prefilter
from selection.prefilters.judge import area, group_correlation
from selection.prefilters.ngrams import ngram_features
from selection.selector import Selector
from selection.settings import AmortiseSettings, Selection, without_unread

DRAWN, SAID_GROUPS = 64, 8


class Sources:
    """The source that most of a train sample's text is of."""

    def __init__(self, stage: Stage):
        self._reader = SplitReader(stage.manifest, "train")
        self.wanted = set(stage.manifest.sources["target"])
        self.all = sorted(stage.manifest.sources["train"])

    def __call__(self, sample_ids: np.ndarray) -> np.ndarray:
        found = []
        for sample_id in sample_ids.tolist():
            lengths: Counter = Counter()
            for span in self._reader.spans(sample_id):
                lengths[span.source] += span.last - span.first
            found.append(lengths.most_common(1)[0][0])
        return np.array(found)


def selector_of(stage: Stage, settings: Selection, targets: np.ndarray) -> Selector:
    """A Selector at a checkpoint, as a run begins it: what it remembers of steps before is not taken up."""
    held_out, seed, groups = stage.target, stage.config.train.seed, stage.config.train.groups
    prefilter = None
    if settings.prefilter:
        prefilter = build_prefilter(settings, *known_features(stage.manifest, targets), groups=groups)
    return Selector(
        settings,
        stage.model,
        stage.optimizer,
        groups=groups,
        batch=stage.batch,
        target=lambda step: held_out.share(
            target_samples(stage.manifest, seed, step, settings.direction.samples, targets)
        ),
        watch=lambda places: held_out.losses(stage.model, targets[places]),
        prefilter=prefilter,
        seed=seed,
    )


def targets_of(stage: Stage, settings: Selection) -> np.ndarray:
    return evaluation_samples(stage.manifest, "target", settings.direction.targets or sys.maxsize)


def stream_of(stage: Stage, seed: int) -> Iterator[Candidates]:
    groups = stage.config.train.groups
    return iter(
        CandidateStream(
            stage.manifest,
            groups=groups,
            drawn=DRAWN,
            seed=seed,
            lanes=range(groups),
            step=stage.step,
            features=ngram_features,
        )
    )


def of_source(stream: Iterator[Candidates], sources: Sources, source: str, picks: int) -> Iterator[Candidates]:
    """Steps whose candidates are the next of one source, `picks` a group; ends where a thousand draws do not do."""
    found: list[torch.Tensor] = []
    for candidates in islice(stream, 1000):
        groups = len(candidates.tokens_GnT1)
        ids, tokens = candidates.sample_ids_Gn.flatten().numpy(), candidates.tokens_GnT1.flatten(0, 1)
        found.extend(tokens[np.flatnonzero(sources(ids) == source)])
        while len(found) >= groups * picks:
            batch, found = found[: groups * picks], found[groups * picks :]
            yield candidates._replace(tokens_GnT1=torch.stack(batch).unflatten(0, (groups, picks)), features_GnF=None)


def measure_on(stage: Stage, split: str, samples: int) -> Callable[[], float]:
    """What measures the mean loss of `samples` samples of `split` at the weights of the moment."""
    held_out, measured = HeldOut(split, stage.manifest, stage.world), evaluation_samples(stage.manifest, split, samples)
    return lambda: held_out.loss(stage.model, measured, DRAWN)


def rollout(
    stage: Stage,
    settings: Selection,
    stream: Iterator[Candidates],
    steps: tuple[int, ...],
    measure: Callable[[], float],
) -> list[float]:
    """What `measure` finds after each of `steps` steps; fewer where the stream ends before."""
    selector = selector_of(stage, settings, targets_of(stage, settings))
    rate, found = stage.optimizer.param_groups[0]["lr"], []
    for number in range(1, max(steps) + 1):
        candidates = next(stream, None)
        if candidates is None:
            break
        # Numbered from 0: what is done every S-th step is done at the first.
        features_GnF = None if candidates.features_GnF is None else candidates.features_GnF[:, : settings.drawn]
        selector.choose(number - 1, candidates.tokens_GnT1[:, : settings.drawn], features_GnF, rate)
        selector.look_ahead(None)
        stage.update()
        selector.send_scores()
        if number in steps:
            found.append(measure())
    return found


def says(stage: Stage, settings: Selection, sources: Sources) -> dict:
    """What a criterion says of SAID_GROUPS groups of candidates at the checkpoint's weights: `auc`, the probability
    that it is more for a candidate of a wanted source than for another one of its group, `auc_of` the same for every
    source, and `repeats`, the correlation within groups of what it says when it knows the first half of the target
    samples, and the second."""
    settings = without_unread(dataclasses.replace(settings, candidates=DRAWN, amortise=AmortiseSettings()))
    targets = targets_of(stage, settings)
    halves = targets[: len(targets) // 2], targets[len(targets) // 2 :]
    selectors = [selector_of(stage, settings, known) for known in (targets, *halves)]
    said, areas, areas_of = [], [], {source: [] for source in sources.all}
    for candidates in islice(stream_of(stage, stage.config.train.seed), -(-SAID_GROUPS // stage.config.train.groups)):
        of_each = []
        for selector in selectors:
            choices = selector.choose(candidates.step, candidates.tokens_GnT1, candidates.features_GnF, 0.0)
            selector.look_ahead(None)
            stage.optimizer.zero_grad()
            of_each.append([_said(choice) for choice in choices])
        said.append(of_each)
        for said_n, sample_ids_n in zip(of_each[0], candidates.sample_ids_Gn.numpy(), strict=True):
            sources_n = sources(sample_ids_n)
            wanted_n = np.isin(sources_n, list(sources.wanted))
            areas.append(area(said_n[wanted_n], said_n[~wanted_n]))
            for source, found in areas_of.items():
                found.append(area(said_n[sources_n == source], said_n[sources_n != source]))
    _, one_Gn, other_Gn = (np.concatenate(parts) for parts in zip(*said, strict=True))
    auc_of = {source: _mean(found) for source, found in areas_of.items()}
    return {"auc": _mean(areas), "auc_of": auc_of, "repeats": group_correlation(one_Gn, other_Gn)}


def _mean(values: list[float]) -> float:
    """Of those that are numbers; NaN where none is."""
    found = [value for value in values if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan


def _said(choice: Choice) -> np.ndarray:
    said_n = choice.predicted if choice.score is None else choice.score.cpu().numpy()
    return said_n.astype(np.float64)
