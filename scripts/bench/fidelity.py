"""How faithful each cheaper way of scoring is, on the checkpoints of a real run.

From every checkpoint training goes on for a few steps, so that running averages are what they would be in that run;
on the last steps every mode scores the same candidates, and its scores are compared twice: with exact scores of the
same direction (what the approximation loses), and with exact scores of a direction made from 64 other target
samples (what a small m loses as well).
N candidates, k picks, m target samples.
"""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from model import checkpoint
from model.build import build_gpt2
from model.gpt2 import GPT2Config
from model.optimizer import build_adamw
from model.world import World
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import inputs_and_targets
from pipeline.dataset.sampling import target_samples
from pipeline.stream.candidates import Candidates, CandidateStream
from scripts.train.config import Config
from scripts.train.held_out import HeldOut
from scripts.train.options import read
from scripts.train.run import SCORED
from selection.direction.exact import Direction
from selection.direction.running import RunningDirection
from selection.ghost.recorder import GhostRecorder

WARM_STEPS, MEASURED_STEPS, REFERENCE_SAMPLES, RANK, DECAY = 16, 4, 64, 8, 0.9


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


class Stage:
    """One checkpoint, and the run's data from its step on."""

    def __init__(self, config: Config, path: Path, world: World):
        self.config, self.manifest = config, Manifest.load(config.data.dataset())
        shape = GPT2Config(
            self.manifest.vocab_size,
            config.model.n_layer,
            config.model.n_head,
            config.model.n_embd,
            self.manifest.sequence_length,
        )
        self.model = build_gpt2(shape, world.mesh, config.train.dtype, config.train.seed)
        self.optimizer = build_adamw(self.model, config.train.learning_rate, config.train.weight_decay)
        self.step = checkpoint.load(path, self.model, self.optimizer, {})["step"]
        self.target = HeldOut("target", self.manifest, world)
        self.recorder = GhostRecorder(self.model)
        self.blocks_only = GhostRecorder(self.model, SCORED["blocks"])
        self.running = {share: RunningDirection(DECAY) for share in (4, 8)}  # of k / share samples a step
        self.k = config.selection.picks

    def fresh(self, step: int) -> np.ndarray:
        """The k target samples of a step."""
        return target_samples(self.manifest, self.config.train.seed, step, self.k)

    def direction(self, samples: np.ndarray) -> Direction:
        self._record(self.recorder, *self.target.share(samples))
        return self.recorder.direction()

    def advance(self, candidates: Candidates) -> dict[int, Direction]:
        """Updates the running directions with fresh samples, and the model with the first k of every group."""
        averages = {}
        for share, running in self.running.items():
            self._record(self.recorder, *self.target.share(self.fresh(candidates.step)[: max(1, self.k // share)]))
            averages[share] = running.update(self.recorder)
        self.recorder.release()
        for tokens_NT1 in candidates.tokens_GnT1:
            batch = inputs_and_targets(tokens_NT1[: self.k], self.manifest)
            (self.model(*batch).sum() / (self.k * len(candidates.tokens_GnT1))).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return averages

    def compare(self, candidates: Candidates, averages: dict[int, Direction], found: dict[str, Agreement]) -> None:
        """Scores every group in every mode, at the present weights."""
        fresh = self.fresh(candidates.step)
        others = np.setdiff1d(np.arange(self.manifest.samples("target")), fresh)
        many = self.direction(np.random.default_rng(candidates.step).choice(others, REFERENCE_SAMPLES, replace=False))
        of_k = self.direction(fresh)
        low = of_k.low_rank(RANK)
        low_averages = {share: average.low_rank(RANK) for share, average in averages.items()}
        for tokens_NT1 in candidates.tokens_GnT1:
            batch = inputs_and_targets(tokens_NT1, self.manifest)
            self._record(self.recorder, *batch)
            score = self.recorder.first_order
            reference, exact, of_low = score(many), score(of_k), score(low)
            exact_averages = {share: score(average) for share, average in averages.items()}
            of_low_average = score(low_averages[4])
            self._record(self.blocks_only, *batch)
            of_blocks = self.blocks_only.first_order(low_averages[4])
            of_prefix = {}
            for share in averages:
                self._record(self.recorder, *(part[:, : part.shape[1] // share] for part in batch))
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
                agreement = found.setdefault(mode, Agreement())
                agreement.same.append((spearman(scores, same), overlap(scores, same, self.k)))
                agreement.many.append((spearman(scores, reference), overlap(scores, reference, self.k)))

    def _record(self, recorder: GhostRecorder, inputs_NT: Tensor, targets_NT: Tensor) -> None:
        with recorder:
            self.model(inputs_NT, targets_NT).sum().backward()


def measure_fidelity(run: str, console: Console) -> dict[int, dict[str, dict[str, float]]]:
    """{step of the checkpoint: {mode: {spearman and overlap with both references}}}; prints a table as well.

    ValueError where `run` has no checkpoints.
    """
    config = read(Path(run) / "config.toml")
    paths = sorted((Path(run) / "checkpoints").glob("step-*"))
    if not paths:
        raise ValueError(f"{run} has no checkpoints: train with train.keep_checkpoints large enough to keep some")
    world, stages = World.join(), {}
    for path in track(paths, description="fidelity", console=console, transient=True):
        stage, found = Stage(config, path, world), {}
        stream = CandidateStream(
            stage.manifest,
            groups=config.train.groups,
            drawn=config.selection.candidates,
            seed=config.train.seed,
            lanes=range(config.train.groups),
            step=stage.step,
        )
        for number, candidates in enumerate(islice(stream, WARM_STEPS)):
            averages = stage.advance(candidates)
            if number >= WARM_STEPS - MEASURED_STEPS:
                stage.compare(candidates, averages, found)
        stages[stage.step] = {mode: agreement.summary() for mode, agreement in found.items()}
    world.leave()
    for of, title in (
        ("same_direction", "against exact scores of the same direction"),
        ("of_64_samples", "against exact scores of a direction of 64 other samples"),
    ):
        console.print(fidelity_table(stages, config, of, title))
    return stages


def fidelity_table(stages: dict[int, dict[str, dict[str, float]]], config: Config, of: str, title: str) -> Table:
    groups = config.train.groups * MEASURED_STEPS
    shown = Table(
        title=f"{title}: Spearman / overlap of picks, means of {groups} groups",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    shown.add_column("mode", no_wrap=True)
    for step in stages:
        shown.add_column(f"step {step}", justify="right", no_wrap=True)
    for mode in next(iter(stages.values())):
        cells = (found[mode] for found in stages.values())
        shown.add_row(mode, *(f"{cell[f'spearman_{of}']:.3f} / {cell[f'overlap_{of}']:.2f}" for cell in cells))
    return shown
