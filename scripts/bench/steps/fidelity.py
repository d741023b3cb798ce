"""How faithful each cheaper way of scoring is, on the checkpoints of a real run.

From every checkpoint training goes on for a few steps, so that running averages are what they would be in that run;
on the last steps every mode scores the same candidates, and its scores are compared twice: with exact scores of the
same direction (what the approximation loses), and with exact scores of a direction made from 64 other target
samples (what a small m loses as well).
N candidates, k picks, m target samples.
"""

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.dataset.sampling import target_samples
from pipeline.stream import Candidates, CandidateStream
from scripts.bench.checkpoints.stage import Stage, stages
from scripts.bench.steps.modes import DECAY, RANK
from scripts.train.config import Config
from scripts.train.record import read_run
from selection.direction import Direction, RunningDirection
from selection.ghost import GhostRecorder

WARM_STEPS, MEASURED_STEPS, REFERENCE_SAMPLES = 16, 4, 64


@dataclass
class Agreement:
    """Of one mode with two references, one entry a group: Spearman's rho and the share of picks in common."""

    same: list[tuple[float, float]] = field(default_factory=list)
    many: list[tuple[float, float]] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        return {
            f"{what}_{of}": mean(pair[position] for pair in pairs)
            for of, pairs in (("same_direction", self.same), ("of_64_samples", self.many))
            for position, what in enumerate(("spearman", "overlap"))
        }


def spearman(one_N: Tensor, other_N: Tensor) -> float:
    """Pearson's correlation of the ranks; scores are real numbers, so ties do not matter."""
    ranks = torch.stack([scores.argsort().argsort().double() for scores in (one_N, other_N)])
    return torch.corrcoef(ranks)[0, 1].item()


def overlap(one_N: Tensor, other_N: Tensor, k: int) -> float:
    """The share of one's k highest that are among the other's."""
    one, other = (set(scores.topk(k).indices.tolist()) for scores in (one_N, other_N))
    return len(one & other) / k


class Comparison:
    """All modes' scores on one stage."""

    def __init__(self, stage: Stage):
        self.stage, self.k, self.found = stage, stage.config.selection.picks, {}
        self._blocks_only = GhostRecorder(stage.model, stage.model.is_block)
        self._running = {share: RunningDirection(DECAY) for share in (4, 8)}  # of k / share samples a step

    def _fresh(self, step: int) -> np.ndarray:
        """The k target samples of a step."""
        return target_samples(self.stage.manifest, self.stage.config.train.seed, step, self.k)

    def _record(self, recorder: GhostRecorder, inputs_NT: Tensor, targets_NT: Tensor) -> None:
        with recorder:
            self.stage.model(inputs_NT, targets_NT).sum().backward()

    def _direction(self, samples: np.ndarray) -> Direction:
        self._record(self.stage.recorder, *self.stage.target.share(samples))
        return self.stage.recorder.direction()

    def averages(self, step: int) -> dict[int, Direction]:
        """The running directions, with this step's fresh samples taken in."""
        found, recorder = {}, self.stage.recorder
        for share, running in self._running.items():
            self._record(recorder, *self.stage.target.share(self._fresh(step)[: max(1, self.k // share)]))
            found[share] = running.update(recorder)
        recorder.release()
        return found

    def compare(self, candidates: Candidates, averages: dict[int, Direction]) -> None:
        """Scores every group in every mode, at the present weights."""
        stage, recorder, fresh = self.stage, self.stage.recorder, self._fresh(candidates.step)
        others = np.setdiff1d(np.arange(stage.manifest.samples("target")), fresh)
        many = self._direction(np.random.default_rng(candidates.step).choice(others, REFERENCE_SAMPLES, replace=False))
        of_k = self._direction(fresh)
        low = of_k.low_rank(RANK)
        low_averages = {share: average.low_rank(RANK) for share, average in averages.items()}
        for tokens_NT1 in candidates.tokens_GnT1:
            batch, score = stage.batch(tokens_NT1), recorder.first_order
            self._record(recorder, *batch)
            reference, exact, of_low = score(many), score(of_k), score(low)
            exact_averages = {share: score(average) for share, average in averages.items()}
            of_low_average = score(low_averages[4])
            self._record(self._blocks_only, *batch)
            of_blocks = self._blocks_only.first_order(low_averages[4])
            of_prefix = {}
            for share in averages:
                self._record(recorder, *(part[:, : part.shape[1] // share] for part in batch))
                of_prefix[share] = score(low_averages[share])
            for mode, scores, same in (
                ("exact, m = k", exact, exact),
                ("rank 8, m = k", of_low, exact),
                ("exact running, m = k/4", exact_averages[4], exact_averages[4]),
                ("rank 8 running, m = k/4", of_low_average, exact_averages[4]),
                ("  the same, blocks only", of_blocks, exact_averages[4]),
                ("  the same, prefix T/4", of_prefix[4], exact_averages[4]),
                ("  prefix T/8, m = k/8", of_prefix[8], exact_averages[8]),
            ):
                agreement = self.found.setdefault(mode, Agreement())
                agreement.same.append((spearman(scores, same), overlap(scores, same, self.k)))
                agreement.many.append((spearman(scores, reference), overlap(scores, reference, self.k)))


def measure_fidelity(run: str, console: Console) -> dict[int, dict[str, dict[str, float]]]:
    """{step of the checkpoint: {mode: {spearman and overlap with both references}}}; prints a table as well.

    ValueError where `run` has no checkpoints.
    """
    config, found = replace(read_run(Path(run)).settings, out=run), {}
    for stage in stages(config, console, "fidelity"):
        comparison = Comparison(stage)
        stream = CandidateStream(
            stage.manifest,
            groups=config.train.groups,
            drawn=config.selection.candidates,
            seed=config.train.seed,
            lanes=range(config.train.groups),
            step=stage.step,
        )
        for number, candidates in enumerate(islice(stream, WARM_STEPS)):
            averages = comparison.averages(candidates.step)
            stage.advance(candidates)
            if number >= WARM_STEPS - MEASURED_STEPS:
                comparison.compare(candidates, averages)
        found[stage.step] = {mode: agreement.summary() for mode, agreement in comparison.found.items()}
    for of, title in (
        ("same_direction", "against exact scores of the same direction"),
        ("of_64_samples", "against exact scores of a direction of 64 other samples"),
    ):
        console.print(fidelity_table(found, config, of, title))
    return found


def fidelity_table(found: dict[int, dict[str, dict[str, float]]], config: Config, of: str, title: str) -> Table:
    groups = config.train.groups * MEASURED_STEPS
    shown = Table(
        title=f"{title}: Spearman / overlap of picks, means of {groups} groups",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    shown.add_column("mode", no_wrap=True)
    for step in found:
        shown.add_column(f"step {step}", justify="right", no_wrap=True)
    for mode in next(iter(found.values())):
        cells = (summaries[mode] for summaries in found.values())
        shown.add_row(mode, *(f"{cell[f'spearman_{of}']:.3f} / {cell[f'overlap_{of}']:.2f}" for cell in cells))
    return shown
