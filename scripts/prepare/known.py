"""The commands that find out, once, what methods read of every sample of `train`: see pipeline/dataset/known.py.

What is known so far is saved every minute, as `.<out>.partial`; the same command goes on from there.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from pipeline.dataset.known import Kind, no_values, read_known, write_known
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader

BATCH = 64  # samples at once
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Losses:
    """The loss of every train sample by the model of a run, for method rho_loss."""

    dataset: tyro.conf.Positional[Path]
    """The dataset folder."""
    run: Path
    """The run folder, whose newest checkpoint is the reference: same tokenizer, same length of samples."""
    out: Path
    """The file to make."""


@dataclass(frozen=True)
class Likeness:
    """The likeness of every train sample to the target samples, by a sentence embedding, for method sbert."""

    dataset: tyro.conf.Positional[Path]
    """The dataset folder."""
    out: Path
    """The file to make."""
    targets: int = 0
    """Samples of split `target` that are compared with; 0 takes every one."""


def losses(asked: Losses, console: Console) -> None:
    """Writes `asked.out`. ValueError where the run does not fit the dataset."""
    from model import checkpoint
    from model.world import World
    from scripts.prepare.reference import loss_by
    from scripts.train.record import read_run

    manifest, record = Manifest.load(asked.dataset), read_run(asked.run)
    if record.facts.get("tokenizer_sha256") != manifest.tokenizer_sha256:
        raise ValueError(
            f"{asked.run} was trained on a dataset of another tokenizer: prepare its text with --tokenizer "
            f"{asked.dataset / 'tokenizer.json'}"
        )
    newest = checkpoint.latest(asked.run / "checkpoints")
    if newest is None:
        raise ValueError(f"{asked.run} has no checkpoint")
    config = dataclasses.replace(record.settings, out=str(asked.run))
    world = World.join(config.train.device)
    try:
        of_tokens = loss_by(config, newest, manifest, world)
        by = f"{newest.resolve()}"
        _measure(manifest, asked.out, "loss", by, lambda reader, ids: of_tokens(reader.marked(ids)), console)
    finally:
        world.leave()


def likeness(asked: Likeness, console: Console) -> None:
    """Writes `asked.out`: the mean cosine of a sample's embedding with those of the target samples."""
    from pipeline.dataset.sampling import evaluation_samples
    from scripts.prepare.embedding import Embedding

    if asked.targets < 0:
        raise ValueError(f"--targets is {asked.targets}; it must be at least 0")
    manifest = Manifest.load(asked.dataset)
    embed = Embedding(manifest)
    chosen = evaluation_samples(manifest, "target", asked.targets or manifest.samples("target"))
    targets = SplitReader(manifest, "target")
    mean_D = np.mean(np.concatenate([embed(targets.tokens(part)) for part in _batches(chosen)]), axis=0)
    by = f"all-MiniLM-L6-v2 and {len(chosen)} target samples"
    _measure(manifest, asked.out, "likeness", by, lambda reader, ids: embed(reader.tokens(ids)) @ mean_D, console)


_OfSamples = Callable[[SplitReader, np.ndarray], np.ndarray]


def _measure(manifest: Manifest, out: Path, kind: Kind, by: str, of_samples: _OfSamples, console: Console) -> None:
    if not out.parent.is_dir():
        raise ValueError(f"cannot make {out}: {out.parent} is no folder")
    partial = out.with_name(f".{out.name}.partial")
    values = read_known(partial, kind, manifest, by) if partial.exists() else no_values(manifest)
    sample_ids = manifest.sample_ids("train", np.arange(manifest.samples("train")))
    reader, left, saved = SplitReader(manifest, "train"), sample_ids[np.isnan(values[sample_ids])], monotonic()
    for part in track(_batches(left), description=f"{kind} of {len(left):,} samples", console=console):
        values[part] = of_samples(reader, part)
        if monotonic() - saved > SAVE_SECONDS:
            write_known(partial, kind, by, values, manifest)
            saved = monotonic()
    write_known(out, kind, by, values, manifest)
    partial.unlink(missing_ok=True)
    mean = values[sample_ids].mean(dtype=np.float64)
    console.print(f"{out}: the {kind} of {len(sample_ids):,} samples, mean {mean:.4f}")


def _batches(sample_ids: np.ndarray) -> list[np.ndarray]:
    return np.split(sample_ids, range(BATCH, len(sample_ids), BATCH))
