"""Products in the precision of the passes with sums in a wider one, and rows taken at picks."""

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of sums over products made in `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right with the sum in the wide precision: half-precision operands, float32 result."""
    if left.dtype == wide_dtype(left.dtype):
        return left @ right
    if left.is_cuda:
        multiply = torch.bmm if left.dim() == 3 and right.dim() == 3 else torch.mm
        if multiply is torch.mm and left.dim() == 3:
            return torch.mm(left.flatten(0, 1), right, out_dtype=torch.float32).unflatten(0, left.shape[:2])
        return multiply(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()  # the CPU has no half-precision product with a wide result


def few_columns(values_NTx: Tensor, columns_xr: Tensor) -> Tensor:
    """product(values_NTx, columns_xr), [N, T, r], where r is small."""
    if not values_NTx.is_cpu:
        return product(values_NTx, columns_xr)
    flat_Mx = values_NTx.flatten(0, 1)  # the CPU is more than twice as fast with the short side first
    return product(columns_xr.T, flat_Mx.T).T.unflatten(0, values_NTx.shape[:2])


def add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right in the wide precision, in place where there is a total."""
    if total is None:
        return product(left, right)
    return total.addmm_(left, right) if left.dtype == total.dtype else total.add_(product(left, right))


def picked(values: Tensor, picks: Tensor) -> Tensor:
    """values[picks], [k, ...]; zeros for a pick of -1, which is none: whether there is one only the device knows."""
    return values[picks].masked_fill_((picks < 0).view(-1, *[1] * (values.dim() - 1)), 0)
