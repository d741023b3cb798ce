"""What one rank of a run holds: built from its configuration, resumed, saved, evaluated."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor, nn

from model import build, checkpoint
from model.gpt2 import GPT2
from model.loss import chunks
from model.optimizer import build_adamw
from model.sharding import DTYPES, fits_whole
from model.world import World
from pipeline.dataset.known import read_known
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import inputs_and_targets, trimmed
from pipeline.dataset.sampling import evaluation_samples, target_samples
from pipeline.stream import CandidateStream
from scripts.train.config import Config, flat
from scripts.train.ending import StopSignal
from scripts.train.held_out import HeldOut
from scripts.train.prior import known_features
from scripts.train.record import read_run
from scripts.train.run_folder import RunFolder
from selection.ghost.footprint import Footprint
from selection.log import SelectionLog
from selection.methods import METHODS
from selection.prefilters.auto import Auto
from selection.prefilters.build import build_prefilter
from selection.prefilters.cascade import Prefilter
from selection.prefilters.need import SharedFilters
from selection.prefilters.ngrams import ngram_features
from selection.selector import Selector
from selection.settings import Selection, replaced

SHARE = 0.9  # of a device's memory, that a step may be expected to take


def build_model(config: Config, manifest: Manifest, world: World) -> nn.Module:
    """The sharded model that a run of this configuration begins with, on the dataset of this manifest."""
    train = config.train
    return build.build_model(
        config.model, *tokens_of(manifest), world.mesh, train.dtype, train.seed, compiled=train.compile
    )


def tokens_of(manifest: Manifest) -> tuple[dict[str, int], int]:
    """(the dataset's vocabulary, T)."""
    tokenizer = Tokenizer.from_file(str(manifest.folder / "tokenizer.json"))
    return tokenizer.get_vocab(), manifest.sequence_length


def facts(manifest: Manifest, world: World) -> dict[str, str | int]:
    """What config.toml says of a run beside its settings."""
    return {
        "manifest_sha256": manifest.sha256,
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "world_size": world.size,
    }


def load_weights_of(folder: Path, config: Config, manifest: Manifest, model: nn.Module) -> None:
    """The weights of a folder of `transformers`, or of another run's newest checkpoint, of which nothing else is taken
    up; all ranks call it.

    ValueError where there are none, or another shape of model, or other tokens.
    """
    if (folder / "config.json").is_file():
        build.begin_from_folder(model, str(folder), *tokens_of(manifest), where="train.init_from")
        return
    other = read_run(folder)
    differing = [
        f"{key} is {value}, its is {theirs}"
        for key, value in flat({"model": dataclasses.asdict(config.model)}).items()
        if (theirs := flat(other.settings.as_dict())[key]) != value
    ]
    if differing:
        raise ValueError(f"train.init_from {folder} has another shape of model: {'; '.join(differing)}")
    if other.facts.get("tokenizer_sha256") != manifest.tokenizer_sha256:
        raise ValueError(
            f"train.init_from {folder} was trained on a dataset of another tokenizer: prepare {config.data.path} with "
            "--tokenizer and the tokenizer.json of its dataset"
        )
    newest = checkpoint.latest_for_all(folder / "checkpoints")
    if newest is None:
        raise ValueError(f"train.init_from {folder} has no checkpoint")
    checkpoint.load_weights(newest, model)


def expected_bytes(config: Config, model: nn.Module, T: int, world: World) -> int:
    """What a scored step takes on a rank where the recorded pass is kept: see selection.ghost.footprint."""
    chosen, dtype = config.selection, DTYPES[config.train.dtype]
    tokens, V = chosen.candidates * T, max(p.shape[0] for p in model.parameters() if p.dim() == 2)
    if isinstance(model, GPT2) or model.fused:
        tokens = chunks(tokens, V, world.device)[0].stop
    shape = {"tokens": T, "number": dtype.itemsize, "logits": tokens * V, "recomputed": config.model.recompute}
    footprint = Footprint(model, ranks=world.mesh["shard"].size(), **shape)
    given = chosen.candidates, chosen.picks, chosen.scoring.prefix, chosen.direction.rank == 0
    return footprint.kept(*given, gram=chosen.method in ("greats", "opus"))


def with_memory_decided(config: Config, model: nn.Module, T: int, world: World) -> Selection:
    """The settings of selection, with `auto` of scoring.memory decided; all ranks call it."""
    chosen = config.selection
    if chosen.scoring.memory != "auto" or METHODS[chosen.method].passes != "recorded":
        return chosen
    expected, memory = expected_bytes(config, model, T, world), world.memory
    if expected <= SHARE * memory:
        return replaced(chosen, "scoring.memory", "kept")
    if world.leads:
        why = f"to keep what a pass records takes about {expected / 2**30:.1f} GiB of {memory / 2**30:.1f} a rank"
        print(f"scores are streamed: {why}", file=sys.stderr, flush=True)
    return replaced(chosen, "scoring.memory", "streamed")


class Run:
    """What one rank of a run holds, built or resumed from its configuration."""

    def __init__(self, config: Config, world: World):
        self.config, self.world = config, world
        self.manifest = Manifest.load(config.data.dataset())
        self.folder = RunFolder(config.out)
        self.lanes = range(world.rank, config.train.groups, world.size)
        chosen = config.selection
        # Before the model is built: meanwhile what its workers need is imported.
        self.stream = CandidateStream(
            self.manifest,
            groups=config.train.groups,
            drawn=chosen.drawn,
            seed=config.train.seed,
            lanes=self.lanes,
            workers=config.data.workers,
            features=ngram_features if chosen.prefilter else None,
        )
        kind = METHODS[chosen.method].knows
        self._known = read_known(Path(chosen.reference.file), kind, self.manifest) if kind else None
        self.model = build_model(config, self.manifest, world)
        self.optimizer = build_adamw(self.model, config.train.learning_rate, config.train.weight_decay)
        self.targets = evaluation_samples(self.manifest, "target", chosen.direction.targets or sys.maxsize)
        self.selector = Selector(
            with_memory_decided(config, self.model, self.manifest.sequence_length, world),
            self.model,
            self.optimizer,
            groups=config.train.groups,
            batch=self._batch,
            target=self._target,
            lanes=self.lanes,
            watch=lambda places: self.held_out["target"].losses(self.model, self.targets[places]),
            prefilter=self._prefilter() if chosen.prefilter else None,
            seed=config.train.seed,
            held=fits_whole(self.model, DTYPES[config.train.dtype], world.memory),
        )
        self.step, self.seconds, self.skipped_in_a_row = 0, 0.0, 0
        self.stop, self.stops = StopSignal(), False  # this rank's signal, and whether any rank got one
        if not (config.train.resume != "no" and self._resume()) and config.train.init_from:
            load_weights_of(Path(config.train.init_from), config, self.manifest, self.model)
        self.stream.step = self.step
        self.held_out = {split: HeldOut(split, self.manifest, world) for split in ("target", "val", "test")}
        self._check_against_dataset()
        if world.leads:
            self.folder.start(config, facts(self.manifest, world))
            self.folder.drop_metrics_from(self.step)
            checkpoint.tidy(self.folder.checkpoints, config.train.keep_checkpoints)
        dist.barrier()
        SelectionLog.drop_from(self.folder.selection, self.step, world.rank, world.size)
        dist.barrier()
        self.log = SelectionLog(self.folder.selection, world.rank)
        self.checkpoints = checkpoint.CheckpointWriter(self.folder.checkpoints, config.train.keep_checkpoints)

    def _check_against_dataset(self) -> None:
        """ValueError for settings that this dataset does not bear, before anything is written."""
        if self.config.selection.aims:
            self._target(step=0)
        prefix = self.config.selection.scoring.prefix
        if prefix > self.manifest.sequence_length:
            raise ValueError(
                f"selection.scoring.prefix ({prefix}) is longer than the dataset's samples "
                f"({self.manifest.sequence_length} tokens)"
            )

    def _prefilter(self) -> Prefilter | SharedFilters | Auto:
        known = known_features(self.manifest, self.targets)
        return build_prefilter(self.config.selection, *known, groups=self.config.train.groups)

    def _batch(self, tokens_NT1: Tensor) -> tuple[Tensor, Tensor]:
        return inputs_and_targets(self.world.sent(trimmed(tokens_NT1, self.manifest)), self.manifest)

    def known_of(self, sample_ids_Gn: Tensor) -> np.ndarray | None:
        """What the method is told of these candidates beforehand, float32 [G, n]."""
        return None if self._known is None else self._known[sample_ids_Gn.numpy()]

    def _target(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's share of the m samples of split `target` that steer `step`."""
        m, seed = self.config.selection.direction.samples, self.config.train.seed
        return self.held_out["target"].share(target_samples(self.manifest, seed, step, m, self.targets))

    def _resume(self) -> bool:
        """Whether there was a checkpoint to go on from; without one a run begins, new or killed before its first."""
        newest = checkpoint.latest_for_all(self.folder.checkpoints)
        if newest is None:
            return False
        saved = checkpoint.read_state(newest)
        if saved["manifest_sha256"] != self.manifest.sha256:
            raise ValueError(
                f"{newest} was trained on another dataset (manifest {saved['manifest_sha256'][:12]}, that of "
                f"{self.config.data.path} is {self.manifest.sha256[:12]}): resume with the dataset it began with"
            )
        differing = self.config.differences(saved["config"])
        if differing:
            raise ValueError(f"{newest} was saved by a run with other settings: {'; '.join(differing)}")
        state = self.selector.empty_state()
        checkpoint.load(newest, self.model, self.optimizer, state)
        self.selector.load_state_dict(state)
        self.step, self.seconds, self.skipped_in_a_row = saved["step"], saved["seconds"], saved["skipped_in_a_row"]
        return True

    def save(self) -> None:
        """Begins a checkpoint of the steps done so far, which goes to the disk meanwhile; the log is there before."""
        self.log.flush()
        state = {
            "seconds": self.seconds,
            "skipped_in_a_row": self.skipped_in_a_row,
            "manifest_sha256": self.manifest.sha256,
            "config": self.config.as_dict(),
        }
        self.checkpoints.save(self.step, self.model, self.optimizer, self.selector.state_dict(), state)

    def evaluate(self) -> dict[str, float]:
        """Mean loss on the fixed samples of `val` and `test`."""
        measured = {}
        for split in ("val", "test"):
            samples = evaluation_samples(self.manifest, split, self.config.train.eval_samples)
            batch = 2 * self.config.selection.picks
            measured[f"{split}_loss"] = self.held_out[split].loss(self.model, samples, batch)
        if self.world.leads:
            self.folder.measure(step=self.step, **measured, seconds=self.seconds)
        return measured
