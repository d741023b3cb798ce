"""How others do what a Selector does, for `scripts.bench step`: each with a step of its own.

N candidates, k picks, m target samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scripts.bench.steps.modes import Bench, Mode, batch
from selection.ghost import GhostRecorder


def peers(bench: Bench) -> list[Mode]:
    k, N = bench.k, bench.N
    return [
        Mode("two passes, m = k", two_passes(bench, k), 3 * k + 4 * N + 3 * k, N),
        Mode("direct, sample by sample", direct(bench, k), 3 * k + 3 * N + 3 * k, N),
        Mode("torch.func, vmap of grad", vmapped(bench, k), 3 * k + 3 * N + 3 * k, N),
        Mode("GradNorm, direct", direct(bench, 0), 3 * N + 3 * k, N),
    ]


def two_passes(bench: Bench, m: int) -> Callable[[], None]:
    """As public code does it: the scoring pass multiplies weight gradients out and throws them away."""
    model, recorder = bench.model, GhostRecorder(bench.model)

    def step() -> None:
        with recorder:
            model(*batch(bench.target_nT1[:m])).sum().backward()
        direction = recorder.direction()
        with recorder:
            model(*batch(bench.pool_nT1[: bench.N])).sum().backward()
        recorder.add_gradient(range(bench.N), 1.0)
        scores_N = recorder.first_order(direction)
        recorder.release()
        _train_on_best(bench, scores_N)

    return step


def direct(bench: Bench, m: int) -> Callable[[], None]:
    """A backward pass for every candidate alone, then one over the picks; m = 0: scores are gradient norms."""
    model, parameters = bench.model, list(bench.model.parameters())

    def step() -> None:
        direction = None
        if m:
            model(*batch(bench.target_nT1[:m])).mean().backward()
            direction = [p.grad for p in parameters]
        scores = []
        for sample in range(bench.N):
            bench.clear()
            model(*batch(bench.pool_nT1[sample : sample + 1])).sum().backward()
            against = direction or [p.grad for p in parameters]
            scores.append(sum((p.grad * v).sum() for p, v in zip(parameters, against, strict=True)))
        _train_on_best(bench, torch.stack(scores))

    return step


def vmapped(bench: Bench, m: int) -> Callable[[], None]:
    """All per-sample gradients at once by torch.func (through whole logits: the fused head is no function of single
    samples), their products with the target's, then a pass over the picks."""
    model = bench.model

    def loss(parameters: dict[str, Tensor], tokens_T: Tensor, targets_T: Tensor) -> Tensor:
        logits_1TV = torch.func.functional_call(model, parameters, (tokens_T[None],))
        return torch.nn.functional.cross_entropy(logits_1TV[0], targets_T)

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def step() -> None:
        model(*batch(bench.target_nT1[:m])).mean().backward()
        direction = {name: p.grad for name, p in model.named_parameters()}
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        gradients = per_sample(parameters, *batch(bench.pool_nT1[: bench.N]))
        scores_N = sum(gradients[name].flatten(1) @ v.flatten() for name, v in direction.items())
        del gradients
        _train_on_best(bench, scores_N)

    return step


def _train_on_best(bench: Bench, scores_N: Tensor) -> None:
    """An ordinary pass over the k of the highest scores."""
    bench.clear()
    bench.model(*batch(bench.pool_nT1[scores_N.topk(bench.k).indices])).mean().backward()
