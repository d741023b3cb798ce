"""What all uses of one parameter give together: it has one gradient, the sum of its uses, with all cross terms.

N samples; r rows of a parameter times what a row holds.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..direction.low_rank import seeded_normal
from .factors import OuterProduct, PerSample, RowScatter, Use

# Elements of per-sample gradient rows made at once: 16 MiB in float32, which suit a CPU's caches; 1 GiB on a GPU, which
# wants few and large products.
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 22, 1 << 28


def gradient_of(uses: list[Use], picks: Tensor | None) -> Tensor:
    """sum over the picked samples (all: None) of g_i, in the parameter's shape."""
    total = uses[0].gradient(picks)
    for use in uses[1:]:
        total = total.add_(use.gradient(picks))
    return total


def precision_of(uses: dict[str, list[Use]]) -> torch.dtype:
    """The precision of the pass that they were recorded in: the narrowest of the factors'."""
    factors = (use.factor for of_parameter in uses.values() for use in of_parameter)
    return min((factor.dtype for factor in factors), key=lambda dtype: dtype.itemsize)


def gram_has_short_cut(uses: list[Use]) -> bool:
    """Whether the gram needs no block of rows that the scores could share."""
    use = uses[0]
    return len(uses) == 1 and (isinstance(use, RowScatter) or (isinstance(use, OuterProduct) and use.pairs_cost_less()))


def gram_of(uses: list[Use]) -> Tensor:
    """[N, N] of one parameter: the sum of its uses is formed before any product, so cross terms are in."""
    if gram_has_short_cut(uses):
        use = uses[0]
        if isinstance(use, OuterProduct):
            return use.gram()
        uses = [use.fewest_rows()]
    return sum(rows_Nr @ rows_Nr.T for _, _, rows_Nr in rows_of_samples(uses))


def sketched_gram(name: str, uses: list[Use], size: int) -> Tensor:
    """The gram of one parameter from sketches, summed over its uses before any product as in gram_of."""
    if isinstance(uses[0], PerSample):
        return gram_of(uses)
    factor = uses[0].factor
    left_os = seeded_normal(f"{name} rows", uses[0].rows, size, factor.device).to(factor) / size**0.5
    right_is = seeded_normal(f"{name} columns", uses[0].row_size, size, factor.device).to(factor) / size**0.5
    sketches_NS = sum(use.sketch(left_os, right_is).flatten(1) for use in uses)
    return sketches_NS @ sketches_NS.T


def rows_of_samples(uses: list[Use]) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, per-sample gradients [N, (stop - start) * ...]) over blocks of the parameter's rows."""
    uses = sorted(uses, key=lambda use: isinstance(use, RowScatter))  # a scatter adds into a block already there
    rows = uses[0].rows
    most = CPU_ELEMENTS if uses[0].factor.device.type == "cpu" else GPU_ELEMENTS
    step = max(1, most // (uses[0].samples * uses[0].row_size))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = uses[0].rows_of_samples(start, stop)
        for use in uses[1:]:
            block = use.add_rows_of_samples(block, start, stop)
        yield start, stop, block.flatten(1)
