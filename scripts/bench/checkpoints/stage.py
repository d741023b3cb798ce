"""A checkpoint of a run, from which training can go on."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from torch import Tensor

from model import checkpoint
from model.optimizer import build_adamw, clip_gradient
from model.world import World
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import inputs_and_targets, trimmed
from pipeline.stream import Candidates
from scripts.train.config import Config
from scripts.train.held_out import HeldOut
from scripts.train.run import build_model
from selection.ghost import GhostRecorder
from selection.selector import Selector
from selection.settings import Selection


class Stage:
    """One checkpoint, and the run's data from its step on."""

    def __init__(self, config: Config, path: Path, world: World):
        self.config, self.world, self.manifest = config, world, Manifest.load(config.data.dataset())
        self.model = build_model(config, self.manifest, world)
        self.optimizer = build_adamw(self.model, config.train.learning_rate, config.train.weight_decay)
        self.step = checkpoint.load(path, self.model, self.optimizer, {})["step"]
        self.target = HeldOut("target", self.manifest, world)
        self.recorder = GhostRecorder(self.model)
        plain = Selection("regular", config.selection.picks)
        groups = config.train.groups
        self._selector = Selector(plain, self.model, self.optimizer, groups=groups, batch=self.batch)

    def batch(self, tokens_NT1: Tensor) -> tuple[Tensor, Tensor]:
        return inputs_and_targets(trimmed(tokens_NT1, self.manifest).to(self.world.device), self.manifest)

    def advance(self, candidates: Candidates) -> None:
        """A step of plain training on the first k of every group, at the checkpoint's learning rate."""
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._selector.choose(candidates.step, candidates.tokens_GnT1, None, learning_rate)
        self.update()

    def update(self) -> None:
        """A step of the optimizer on the gradient that is there, clipped as in the run."""
        clip_gradient(self.model, self.config.train.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def stages(config: Config, console: Console, description: str) -> Iterator[Stage]:
    """A stage for every checkpoint of run `config.out`, in order. ValueError where there is none."""
    paths = sorted((Path(config.out) / "checkpoints").glob("step-*"))
    if not paths:
        raise ValueError(
            f"{config.out} has no checkpoints: train with train.keep_checkpoints large enough to keep some"
        )
    world = World.join()
    try:
        for path in track(paths, description=description, console=console, transient=True):
            yield Stage(config, path, world)
    finally:
        world.leave()
