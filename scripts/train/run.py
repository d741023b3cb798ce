"""What one rank of a run holds: built from its configuration, resumed, saved, evaluated."""

import sys

import numpy as np
import torch.distributed as dist

from model import checkpoint
from model.build import build_gpt2
from model.gpt2 import GPT2Config
from model.optimizer import build_adamw
from model.world import World
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.sampling import evaluation_samples, target_samples
from pipeline.stream.candidates import Candidates, CandidateStream
from scripts.train.config import Config
from scripts.train.ending import StopSignal
from scripts.train.held_out import HeldOut
from scripts.train.prior import build_prefilter
from scripts.train.run_folder import RunFolder
from selection.direction.running import RunningDirection
from selection.ghost.recorder import GhostRecorder
from selection.log.writer import SelectionLog
from selection.methods.registry import METHODS
from selection.prefilters.cascade import Ranking
from selection.prefilters.ngrams import ngram_features

SCORED = {
    "all": lambda name: True,
    "blocks": lambda name: name.startswith("blocks."),
}

# While the prefilter is not trusted, one in so many of the steps that are due is scored: enough to notice when it would
# earn, on a pool where nothing is to be gained at little cost. (S = 1 stays 1: there the scores choose, at every step.)
RESTING = 4


class Run:
    """What one rank of a run holds, built or resumed from its configuration."""

    def __init__(self, config: Config, world: World):
        self.config, self.world = config, world
        self.manifest = Manifest.load(config.data.dataset())
        self.folder = RunFolder(config.out)
        self.method = METHODS[config.selection.method]
        self.lanes = range(world.rank, config.train.groups, world.size)
        # Before the model is built: meanwhile what its workers need is imported.
        self.stream = CandidateStream(
            self.manifest,
            groups=config.train.groups,
            drawn=config.drawn,
            seed=config.train.seed,
            lanes=self.lanes,
            workers=config.data.workers,
            features=ngram_features if config.selection.prefilter != "none" else None,
        )
        shape = GPT2Config(
            vocab_size=self.manifest.vocab_size,
            n_layer=config.model.n_layer,
            n_head=config.model.n_head,
            n_embd=config.model.n_embd,
            sequence_length=self.manifest.sequence_length,
        )
        self.model = build_gpt2(shape, world.mesh, config.train.dtype, config.train.seed)
        self.optimizer = build_adamw(self.model, config.train.learning_rate, config.train.weight_decay)
        self.recorder = GhostRecorder(self.model, SCORED[config.selection.scored])
        # A preconditioned direction is reduced in rank after the preconditioning, the plain one where it is made.
        plain = config.selection.preconditioner == "none"
        self.running = RunningDirection(config.selection.decay, config.selection.rank if plain else 0)
        self.targets = evaluation_samples(self.manifest, "target", config.selection.targets or sys.maxsize)
        chosen = config.selection.prefilter
        self.prefilter = None if chosen == "none" else build_prefilter(chosen, self.manifest, self.targets)
        self.ranking: Ranking | None = None  # of the step to come, once the one before it has begun
        self.step, self.seconds, self.skipped_in_a_row = 0, 0.0, 0
        self.stop, self.stops = StopSignal(), False  # this rank's signal, and whether any rank got one
        if config.train.resume:
            self._resume()
        self.stream.step = self.step
        self.held_out = {split: HeldOut(split, self.manifest, world) for split in ("target", "val", "test")}
        if self.method.scores:
            self.target_samples(step=0)  # a split too small is said before anything is written
        if config.selection.prefix > self.manifest.sequence_length:
            raise ValueError(
                f"selection.prefix ({config.selection.prefix}) is longer than the dataset's samples "
                f"({self.manifest.sequence_length} tokens)"
            )
        if world.leads:
            self.folder.start(config, {"manifest_sha256": self.manifest.sha256, "world_size": world.size})
            self.folder.drop_metrics_from(self.step)
            checkpoint.tidy(self.folder.checkpoints, config.train.keep_checkpoints)
            SelectionLog.drop_from(self.folder.selection, self.step)
        dist.barrier()
        self.log = SelectionLog(self.folder.selection, world.rank)

    def _resume(self) -> None:
        newest = checkpoint.latest(self.folder.checkpoints)
        if newest is None:
            return  # killed before its first checkpoint: the run begins again
        saved = checkpoint.read_state(newest)
        if saved["manifest_sha256"] != self.manifest.sha256:
            raise ValueError(
                f"{newest} was trained on another dataset (manifest {saved['manifest_sha256'][:12]}, that of "
                f"{self.config.data.path} is {self.manifest.sha256[:12]}): resume with the dataset it began with"
            )
        differing = self.config.differences(saved["config"])
        if differing:
            raise ValueError(f"{newest} was saved by a run with other settings: {'; '.join(differing)}")
        extra = self._extra_tensors(self.running.empty_state(self.recorder.scored_parameters()))
        checkpoint.load(newest, self.model, self.optimizer, extra)
        if "direction" in extra:
            self.running.load_state_dict(extra["direction"])
        if self.prefilter:
            self.prefilter.load_state_dict(extra["prefilter"])
        self.step, self.seconds, self.skipped_in_a_row = saved["step"], saved["seconds"], saved["skipped_in_a_row"]

    def _extra_tensors(self, running_state: dict) -> dict:
        """What a checkpoint holds besides model and optimizer: what else outlives a step."""
        extra = {}
        if self.method.scores and self.config.selection.decay:
            extra["direction"] = running_state
        if self.prefilter:
            extra["prefilter"] = self.prefilter.state_dict()
        return extra

    def scored(self, ranking: Ranking | None) -> bool:
        """Whether the step at hand is one that scores its candidates; fewer are while the prefilter does not earn."""
        every = self.config.selection.every
        if every > 1 and ranking and not ranking.trusted:
            every *= RESTING
        return self.method.scores and self.step % every == 0

    def rank(self, candidates: Candidates) -> Ranking | None:
        """What the prefilter thinks of them."""
        return self.prefilter.rank(candidates.features_GnF) if self.prefilter else None

    def shortlist(self, group: int, ranking: Ranking | None, scored: bool) -> np.ndarray:
        """Positions among a group's candidates: the N to be scored, or on a step that is not scored the k picks."""
        settings = self.config.selection
        size, explore = (settings.candidates, settings.explore) if scored else (settings.picks, 0.0)
        return ranking.shortlist(group, size, explore) if ranking else np.arange(size)

    def look_ahead(self, upcoming: Candidates | None) -> None:
        """Learns what the last scored step brought, and ranks the candidates of the next step."""
        if self.prefilter:
            self.prefilter.catch_up()
            self.ranking = self.rank(upcoming) if upcoming else None

    def target_samples(self, step: int) -> np.ndarray:
        """The m samples of split `target` that steer `step`."""
        settings = self.config
        return target_samples(self.manifest, settings.train.seed, step, settings.selection.validation, self.targets)

    def save(self) -> None:
        """A checkpoint of the steps done so far; the log is on disk before it."""
        self.log.flush()
        if self.prefilter:
            self.prefilter.settle()
        state = {
            "seconds": self.seconds,
            "skipped_in_a_row": self.skipped_in_a_row,
            "manifest_sha256": self.manifest.sha256,
            "config": self.config.as_dict(),
        }
        checkpoint.save(
            self.folder.checkpoints,
            self.step,
            self.model,
            self.optimizer,
            self._extra_tensors(self.running.state_dict()),
            state,
            self.config.train.keep_checkpoints,
        )

    def evaluate(self) -> dict[str, float]:
        """Mean loss on the fixed samples of `val` and `test`."""
        measured = {}
        for split in ("val", "test"):
            samples = evaluation_samples(self.manifest, split, self.config.train.eval_samples)
            measured[f"{split}_loss"] = self.held_out[split].loss(
                self.model, samples, batch=self.config.selection.candidates
            )
        if self.world.leads:
            self.folder.measure(step=self.step, **measured, seconds=self.seconds)
        return measured
