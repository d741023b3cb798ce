"""From a checkpoint of a run to a Stage: plain weights, AdamW as it stood, samples of the pool and target samples."""

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from model.gpt2 import GPT2
from pipeline.dataset.reader import SplitReader
from pipeline.dataset.sampling import evaluation_samples
from scripts.bench.checkpoints.stage import Stage as Checkpoint
from scripts.bench.checkpoints.stage import stages
from scripts.taylor.landscape import Batch, Landscape
from scripts.taylor.stage import Sizes, Stage
from scripts.taylor.walks import AdamW, Sgd
from scripts.train.config import Config
from selection.direction.exact import whole


def open_stages(
    config: Config, steps: tuple[int, ...], pool: int, target: int, sgd_rate: float, sizes: Sizes
) -> Iterator[Stage]:
    """The checkpoints after these steps (all: none given) of the run `config.out`. ValueError for one it has not."""
    there = {int(path.name.removeprefix("step-")) for path in (Path(config.out) / "checkpoints").glob("step-*")}
    if missing := sorted(set(steps) - there):
        raise ValueError(f"{config.out} has no checkpoint of step {missing[0]}: it has {sorted(there)}")
    for checkpoint in stages(config, Console(quiet=True), "checkpoints"):
        if not steps or checkpoint.step in steps:
            yield _stage(checkpoint, pool, target, sgd_rate, sizes)


def _stage(checkpoint: Checkpoint, pool: int, target: int, sgd_rate: float, sizes: Sizes) -> Stage:
    if not isinstance(checkpoint.model, GPT2):
        raise ValueError(f"{checkpoint.config.out} is a model of another kind than ours: second derivatives need GPT2")
    parameters = dict(checkpoint.model.named_parameters())
    example = next(iter(parameters.values()))
    landscape = Landscape(GPT2(checkpoint.model.config).to(example.device, example.dtype))
    batches = [_samples(checkpoint, split, count) for split, count in (("train", pool), ("target", target))]
    weights = landscape.flat({name: whole(parameter) for name, parameter in parameters.items()})
    optimizers = {"sgd": Sgd(sgd_rate), "adamw": _adamw(checkpoint, landscape, parameters)}
    return Stage(checkpoint.step, landscape, weights, optimizers, *batches, sizes)


def _samples(checkpoint: Checkpoint, split: str, count: int) -> Batch:
    there = checkpoint.manifest.samples(split)
    if there < count:
        raise ValueError(f"{count} samples of split {split} are asked for; {checkpoint.manifest.folder} has {there}")
    tokens = SplitReader(checkpoint.manifest, split).marked(evaluation_samples(checkpoint.manifest, split, count))
    return checkpoint.batch(torch.as_tensor(tokens))


def _adamw(checkpoint: Checkpoint, landscape: Landscape, parameters: dict) -> AdamW:
    optimizer, moments = checkpoint.optimizer, {}
    for key in ("exp_avg", "exp_avg_sq"):
        moments[key] = landscape.flat({name: whole(optimizer.state[p][key]) for name, p in parameters.items()})
    decays = {
        name: torch.full(p.shape, group["weight_decay"], dtype=p.dtype, device=p.device)
        for name, p in parameters.items()
        for group in optimizer.param_groups
        if any(p is other for other in group["params"])
    }
    group = optimizer.param_groups[0]
    return AdamW(
        rate=group["lr"],
        steps=int(optimizer.state[next(iter(parameters.values()))]["step"]),
        mean_P=moments["exp_avg"],
        square_P=moments["exp_avg_sq"],
        decay_P=landscape.flat(decays),
        clip=checkpoint.config.train.grad_clip,
        betas=group["betas"],
        eps=group["eps"],
    )
