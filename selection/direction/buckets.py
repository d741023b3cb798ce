"""How what is laid out like sharded parameters travels: many blocks in one flat buffer, few collectives for a model.

A buffer has a row for every rank among which blocks are sharded, and in it that rank's part of every block, cut as
FSDP2 cuts it: equally many slices a rank, the last parts padded, nothing but padding where ranks outnumber slices.
Where parts are repeated over replicas (hybrid sharding), sums are taken among the ranks of a replica first, and only
the parts that these give are summed over the replicas.

W ranks, c numbers of a part, C of all parts in a buffer, S summands, n slices of a block along its sharded dimension.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

BUCKET_BYTES = 128 << 20  # of whole blocks that travel together: of 1.5 B parameters, about a transformer block


def sum_over_ranks(
    like: Mapping[str, Tensor], make: Callable[[str], Tensor], precision: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(name, the sum over all ranks of make(name)), laid out like `like[name]`, in order.

    make gives this rank's summand, whole and in the wide precision. While one bucket travels the next is made: at any
    time there are two buffers and one block beside them. All ranks call it with the same names. precision: what the
    summands are rounded to for the way, once, however many ranks there are; sums are wide. By default it is the wide
    one.
    """
    travelling = None
    for cuts in _buckets(like):
        first = next(iter(cuts.values()))
        if first is None or (first.ranks == 1 and not first.replicas):
            yield from ((name, _as_laid_out(make(name), cut)) for name, cut in cuts.items())
            continue
        sent = _Sum(cuts, make, precision)
        if travelling is not None:
            yield from travelling.arrived()
        travelling = sent
    if travelling is not None:
        yield from travelling.arrived()


def gathered(blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every block whole, on every rank; those that are whole already as they are."""
    found: dict[str, Tensor] = {}
    for cuts in _buckets(blocks):
        first = next(iter(cuts.values()))
        if first is None or first.ranks == 1:
            found |= {name: _local(blocks[name]) for name in cuts}
            continue
        mine_C = torch.cat([cut.padded(_local(blocks[name])) for name, cut in cuts.items()])
        parts_WC = mine_C.new_empty(first.ranks, len(mine_C))
        dist.all_gather_single(parts_WC.view(-1), mine_C, group=first.group)
        parts = parts_WC.split([cut.c for cut in cuts.values()], dim=1)
        found |= {name: cut.whole(parts_Wc) for (name, cut), parts_Wc in zip(cuts.items(), parts, strict=True)}
    return found


class _Cut:
    """How a block laid out like `like` is cut: W parts along one dimension, each repeated in `replicas`."""

    def __init__(self, like: DTensor):
        mesh, others = like.device_mesh, list(like.shape)
        self.like, self.ranks, self.rank, self.dimension, self.group = like, 1, 0, 0, None
        self.replicas = []
        for place, placement in enumerate(like.placements):
            if placement.is_shard():
                self.ranks, self.rank, self.group = mesh.size(place), mesh.get_local_rank(place), mesh.get_group(place)
                self.dimension = placement.dim
            elif mesh.size(place) > 1:
                self.replicas.append(mesh.get_group(place))
        self.n = others.pop(self.dimension)
        self._each, self._slice = -(-self.n // self.ranks), torch.Size(others)
        self.c = self._each * self._slice.numel()
        self.dtype = torch.promote_types(like.dtype, torch.float32)  # that of sums

    def fill(self, parts_Wc: Tensor, block: Tensor) -> None:
        """Copies a whole block to the parts of all ranks."""
        flat = block.movedim(self.dimension, 0).reshape(-1)
        full = flat.numel() // self.c
        parts_Wc[:full] = flat[: full * self.c].view(full, self.c)
        if rest := flat.numel() - full * self.c:
            parts_Wc[full, :rest] = flat[-rest:]

    def mine(self, part_c: Tensor) -> Tensor:
        """This rank's own part, without its padding, laid out like the block."""
        count = min(max(self.n - self.rank * self._each, 0), self._each)
        part = part_c[: count * self._slice.numel()].view(count, *self._slice).movedim(0, self.dimension)
        return _as_laid_out(part, self)

    def padded(self, part: Tensor) -> Tensor:
        """This rank's own part as [c]; what the padding holds does not matter."""
        flat = part.movedim(self.dimension, 0).reshape(-1)
        return flat if len(flat) == self.c else torch.cat([flat, flat.new_zeros(self.c - len(flat))])

    def whole(self, parts_Wc: Tensor) -> Tensor:
        """The block of all parts."""
        block = parts_Wc.reshape(self.ranks * self._each, *self._slice)[: self.n]
        return block.movedim(0, self.dimension)


class _Sum:
    """One bucket on its way to be summed."""

    def __init__(self, cuts: dict[str, _Cut], make: Callable[[str], Tensor], precision: torch.dtype | None):
        self._cuts, self._work = cuts, None
        first, sizes = next(iter(cuts.values())), [cut.c for cut in cuts.values()]
        precision = first.dtype if precision is None or first.ranks == 1 else precision
        parts_WC = torch.empty(first.ranks, sum(sizes), dtype=precision, device=first.like.device)
        for (name, cut), parts_Wc in zip(cuts.items(), parts_WC.split(sizes, dim=1), strict=True):
            cut.fill(parts_Wc, make(name))
        if first.ranks == 1:
            self._summands_SC = parts_WC
        elif precision == first.dtype:
            self._summands_SC = torch.empty_like(parts_WC[:1])
            mine_C, all_WC = self._summands_SC.view(-1), parts_WC.view(-1)
            self._work = dist.reduce_scatter_single(mine_C, all_WC, group=first.group, async_op=True)
        else:  # a reduction on the way would round at every rank
            self._summands_SC = torch.empty_like(parts_WC)
            self._work = dist.all_to_all_single(self._summands_SC, parts_WC, group=first.group, async_op=True)
        self._sent = parts_WC  # until it is through

    def arrived(self) -> Iterator[tuple[str, Tensor]]:
        if self._work is not None:
            self._work.wait()
        first = next(iter(self._cuts.values()))
        mine_C = self._summands_SC.sum(0, dtype=first.dtype) if len(self._summands_SC) > 1 else self._summands_SC[0]
        for group in first.replicas:
            dist.all_reduce(mine_C, group=group)
        parts = mine_C.split([cut.c for cut in self._cuts.values()])
        for (name, cut), part_c in zip(self._cuts.items(), parts, strict=True):
            yield name, cut.mine(part_c)


def _buckets(blocks: Mapping[str, Tensor]) -> Iterator[dict[str, _Cut | None]]:
    """Successive blocks that fit into a buffer together, by name, with how each is cut (None: it is not)."""
    cuts = {name: _Cut(block) if isinstance(block, DTensor) else None for name, block in blocks.items()}
    for _, names in groupby(cuts, lambda name: cuts[name] and (cuts[name].like.device_mesh, cuts[name].dtype)):
        bucket, size = {}, 0
        for name in names:
            bytes_ = blocks[name].numel() * blocks[name].element_size()
            if bucket and size + bytes_ > BUCKET_BYTES:
                yield bucket
                bucket, size = {}, 0
            bucket[name], size = cuts[name], size + bytes_
        yield bucket


def _as_laid_out(part: Tensor, cut: _Cut | None) -> Tensor:
    if cut is None:
        return part
    like = cut.like
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def _local(block: Tensor) -> Tensor:
    return block.to_local() if isinstance(block, DTensor) else block
