"""What one use of a parameter contributes to every sample's gradient, kept as factors and never multiplied out.

Four forms cover the layers of a transformer. Each gives the sum of chosen samples' gradients, every sample's
inner product with a direction, and a block of rows of every sample's own gradient (for grams and for sums of
several uses of one parameter).

N samples, T tokens a sample, o and i the two dimensions of a weight, V vocabulary, D width.
Products are made in the precision of the factors; sums are taken in float32, or float64 for float64 factors.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..direction.low_rank import LowRank
from .probe import Probe
from .products import add_product, few_columns, picked, product, wide_dtype

ONE_BY_ONE = (
    "cpu",
)  # devices where a product for each pick costs less than a copy of all, and the host may read picks


@dataclass
class OuterProduct:
    """A weight of a linear map: g_i = sum_t left_it (outer) right_it, shape [o, i].

    For y = x W^T, left is the gradient at the output and right the input (the order changes for x W).
    """

    left_NTo: Tensor
    right_NTi: Tensor

    @property
    def samples(self) -> int:
        return self.right_NTi.shape[0]

    @property
    def rows(self) -> int:
        return self.left_NTo.shape[2]

    @property
    def row_size(self) -> int:
        return self.right_NTi.shape[2]

    def blocks(self, picks: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(samples among `picks`, left [n, t, o], right [n, t, i]) over all tokens of the picked samples."""
        if picks is None:
            yield slice(None), self.left_NTo, self.right_NTi
        elif picks.device.type in ONE_BY_ONE:
            for place, pick in enumerate(picks.tolist()):
                if pick >= 0:
                    yield slice(place, place + 1), self.left_NTo[pick][None], self.right_NTi[pick][None]
        else:
            yield slice(None), picked(self.left_NTo, picks), picked(self.right_NTi, picks)

    def gradient(self, picks: Tensor | None) -> Tensor:
        """sum over the picked samples (all: None) of g_i, [o, i]."""
        total_oi = None
        for _, left_nto, right_nti in self.blocks(picks):
            total_oi = add_product(total_oi, left_nto.flatten(0, 1).T, right_nti.flatten(0, 1))
        if total_oi is None:
            return self.right_NTi.new_zeros(self.rows, self.row_size, dtype=wide_dtype(self.right_NTi.dtype))
        return total_oi

    def first_order(self, direction_oi: Tensor | LowRank) -> Tensor:
        """<g_i, R> = sum_t left_it^T R right_it, [N]."""
        dtype = self.right_NTi.dtype
        scores_N = self.right_NTi.new_zeros(self.samples, dtype=wide_dtype(dtype))
        for samples, left_nto, right_nti in self.blocks(None):
            if isinstance(direction_oi, LowRank):
                terms = few_columns(left_nto, direction_oi.left_or.to(dtype))
                terms = terms.mul_(few_columns(right_nti, direction_oi.right_ir.to(dtype)))
            elif left_nto.shape[2] >= right_nti.shape[2]:  # the longer side meets R first, so that less is kept
                terms = product(left_nto, direction_oi.to(dtype)).mul_(right_nti)
            else:
                terms = product(right_nti, direction_oi.to(dtype).T).mul_(left_nto)
            scores_N[samples] += terms.sum(dim=(1, 2))
        return scores_N

    def rows_of_samples(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of every sample's gradient, [N, stop - start, i]."""
        return product(self.left_NTo[:, :, start:stop].transpose(1, 2), self.right_NTi)

    def add_rows_of_samples(self, out_Nri: Tensor, start: int, stop: int) -> Tensor:
        """rows_of_samples added in place to those of another use of the parameter."""
        return out_Nri.add_(self.rows_of_samples(start, stop))

    def sketch(self, left_os: Tensor, right_is: Tensor) -> Tensor:
        """left_os^T g_i right_is, [N, s, s]."""
        sketch_Nss = self.right_NTi.new_zeros(
            self.samples, left_os.shape[1], right_is.shape[1], dtype=wide_dtype(self.right_NTi.dtype)
        )
        for samples, left_nto, right_nti in self.blocks(None):
            left_nts, right_nts = product(left_nto, left_os), product(right_nti, right_is)
            sketch_Nss[samples] += left_nts.transpose(1, 2) @ right_nts
        return sketch_Nss

    @property
    def factor(self) -> Tensor:
        return self.right_NTi

    def gram(self) -> Tensor:
        """<g_i, g_j> by token pairs, [N, N]: sum_tt' (left_it . left_jt') (right_it . right_jt')."""
        left_No, right_Ni = self.left_NTo.flatten(0, 1), self.right_NTi.flatten(0, 1)
        N, T = self.right_NTi.shape[:2]
        gram_NN = right_Ni.new_zeros(N, N, dtype=wide_dtype(right_Ni.dtype))
        for sample in range(N):
            own = slice(sample * T, (sample + 1) * T)
            pairs = product(left_No, left_No[own].T).mul_(product(right_Ni, right_Ni[own].T))
            gram_NN[sample] = pairs.view(N, -1).sum(dim=1)
        return gram_NN

    def pairs_cost_less(self) -> bool:
        """Whether the token-pair form of the gram takes fewer multiplications than the materialised one."""
        N, T, i = self.right_NTi.shape
        o = self.rows
        return N * N * T * T * (o + i) < 2 * N * T * o * i + N * N * o * i


@dataclass
class FusedHead:
    """The weight of an output head fused with its loss; `left`, the gradient at the logits, is made when needed.

    An OuterProduct with left_NTV recomputed from hidden states, targets and the tokens' log-sum-exp; `factor_N` is
    the gradient that reached each sample's loss. Never is more than a chunk of [N, T, V] alive.
    """

    weight: Callable[[], Tensor]  # the whole weight [V, D] in the precision of the passes
    logit_gradient: Callable[..., Tensor]
    chunks: Callable[[int, int, torch.device], list[slice]]  # of how many tokens it may be alive at once
    hidden_NTD: Tensor
    targets_NT: Tensor
    scale_NT: Tensor  # weight of each token in its sample's mean, times factor_N
    normaliser_NT: Tensor
    rows: int
    probe: Probe | None = None  # what the pass itself measured along a low-rank direction

    @property
    def samples(self) -> int:
        return self.hidden_NTD.shape[0]

    def _left(self, weight_vD: Tensor, hidden_ntD: Tensor, further_nt: Iterable[Tensor], start: int = 0) -> Tensor:
        """left[..., start : start + len(weight_vD)] of these tokens, [n, t, v], in the precision of the passes.

        further_nt: their targets, scales and normalisers."""
        flat = (part.flatten() for part in further_nt)
        left_Mv = self.logit_gradient(weight_vD, hidden_ntD.flatten(0, 1), *flat, start=start)
        return left_Mv.to(hidden_ntD.dtype).unflatten(0, hidden_ntD.shape[:2])

    def blocks(self, picks: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        weight_VD = self.weight()
        hidden, *further = self.hidden_NTD, self.targets_NT, self.scale_NT, self.normaliser_NT
        if picks is not None:
            hidden, *further = (picked(part, picks) for part in (hidden, *further))
        n, T = hidden.shape[:2]
        most = next((part.stop for part in self.chunks(n * T, self.rows, hidden.device)), 1)
        samples_at_once, tokens_at_once = max(1, most // T), min(most, T)
        for first in range(0, n, samples_at_once):
            samples = slice(first, min(first + samples_at_once, n))
            for start in range(0, T, tokens_at_once):
                tokens = slice(start, start + tokens_at_once)
                hidden_ntD = hidden[samples, tokens]
                yield samples, self._left(weight_VD, hidden_ntD, (x[samples, tokens] for x in further)), hidden_ntD

    def gradient(self, picks: Tensor | None) -> Tensor:
        self.weight()  # gathered from all ranks, who must all be there: also for no pick, where it is not needed
        return OuterProduct.gradient(self, picks)

    @property
    def right_NTi(self) -> Tensor:
        return self.hidden_NTD

    @property
    def row_size(self) -> int:
        return self.hidden_NTD.shape[2]

    def first_order(self, direction_oi: Tensor | LowRank) -> Tensor:
        if self.probe is None or self.probe.block is not direction_oi:
            return OuterProduct.first_order(self, direction_oi)
        wide = wide_dtype(self.hidden_NTD.dtype)
        right_NTr = few_columns(self.hidden_NTD, direction_oi.right_ir.to(self.hidden_NTD.dtype))
        return (self.probe.left_NTr.to(wide) * right_NTr).sum(dim=(1, 2))

    sketch = OuterProduct.sketch
    factor = OuterProduct.factor

    def rows_of_samples(self, start: int, stop: int) -> Tensor:
        further = self.targets_NT, self.scale_NT, self.normaliser_NT
        left_NTv = self._left(self.weight()[start:stop], self.hidden_NTD, further, start)
        return product(left_NTv.transpose(1, 2), self.hidden_NTD)

    add_rows_of_samples = OuterProduct.add_rows_of_samples


@dataclass
class RowScatter:
    """An embedding table: g_i[index_it] += values_it over t, shape [rows, D]."""

    index_NT: Tensor
    values_NTD: Tensor
    rows: int

    @property
    def samples(self) -> int:
        return self.index_NT.shape[0]

    @property
    def row_size(self) -> int:
        return self.values_NTD.shape[2]

    def gradient(self, picks: Tensor | None) -> Tensor:
        index_NT, values_NTD = self.index_NT, self.values_NTD
        if picks is not None:
            index_NT, values_NTD = index_NT[picks], picked(values_NTD, picks)
        wide = wide_dtype(values_NTD.dtype)
        total_VD = values_NTD.new_zeros(self.rows, values_NTD.shape[2], dtype=wide)
        return total_VD.index_add_(0, index_NT.flatten(), values_NTD.flatten(0, 1).to(wide))

    def first_order(self, direction_VD: Tensor | LowRank) -> Tensor:
        wide = wide_dtype(self.values_NTD.dtype)
        if isinstance(direction_VD, LowRank):
            values_NTr = few_columns(self.values_NTD, direction_VD.right_ir.to(self.values_NTD.dtype))
            return (direction_VD.left_or[self.index_NT].to(wide) * values_NTr).sum(dim=(1, 2))
        return (direction_VD[self.index_NT].to(wide) * self.values_NTD).sum(dim=(1, 2))

    def rows_of_samples(self, start: int, stop: int) -> Tensor:
        N, _, D = self.values_NTD.shape
        out_NrD = self.values_NTD.new_zeros(N, stop - start, D, dtype=wide_dtype(self.values_NTD.dtype))
        return self.add_rows_of_samples(out_NrD, start, stop)

    def add_rows_of_samples(self, out_NrD: Tensor, start: int, stop: int) -> Tensor:
        """rows_of_samples added in place to those of another use: only the rows of tokens are touched."""
        rows, row_NT = stop - start, self.index_NT - start
        outside_NT = (row_NT < 0) | (
            row_NT >= rows
        )  # their zeros go to any row: how many there are, the host need not know
        values_NTD = self.values_NTD.to(out_NrD.dtype).masked_fill(outside_NT[..., None], 0)
        row_NT = row_NT.clamp(0, rows - 1) + rows * torch.arange(len(row_NT), device=row_NT.device)[:, None]
        out_NrD.view(-1, out_NrD.shape[2]).index_add_(0, row_NT.flatten(), values_NTD.flatten(0, 1))
        return out_NrD

    def sketch(self, left_os: Tensor, right_is: Tensor) -> Tensor:
        right_NTs = product(self.values_NTD, right_is)
        return left_os[self.index_NT].to(right_NTs.dtype).transpose(1, 2) @ right_NTs

    @property
    def factor(self) -> Tensor:
        return self.values_NTD

    def fewest_rows(self) -> "RowScatter":
        """The same inner products from a table of at most N T rows, one for every token that comes."""
        if self.rows <= self.index_NT.numel():
            return self
        sorted_M, order_M = self.index_NT.flatten().sort()
        new_M = torch.cat([sorted_M.new_zeros(1), sorted_M.diff().ne(0).long()]).cumsum(0)
        index_M = torch.empty_like(order_M).scatter_(0, order_M, new_M)
        return RowScatter(index_M.view_as(self.index_NT), self.values_NTD, len(index_M))


@dataclass
class PerSample:
    """A bias or a norm's weight: g_i itself, small enough to be kept, shape [N, *parameter]."""

    values: Tensor

    @property
    def samples(self) -> int:
        return self.values.shape[0]

    @property
    def rows(self) -> int:
        return self.values.shape[1]

    @property
    def row_size(self) -> int:
        return self.values[0, 0].numel()

    @property
    def factor(self) -> Tensor:
        return self.values

    def gradient(self, picks: Tensor | None) -> Tensor:
        return (self.values if picks is None else picked(self.values, picks)).sum(dim=0)

    def first_order(self, direction: Tensor) -> Tensor:
        return self.values.flatten(1) @ direction.flatten().to(self.values.dtype)

    def rows_of_samples(self, start: int, stop: int) -> Tensor:
        return self.values[:, start:stop]

    def add_rows_of_samples(self, out: Tensor, start: int, stop: int) -> Tensor:
        return out + self.values[:, start:stop]  # not in place: the block may be a view of another use's values


Use = OuterProduct | FusedHead | RowScatter | PerSample
