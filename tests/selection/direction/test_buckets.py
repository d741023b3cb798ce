"""Blocks in buckets against DTensor's own collectives, one block at a time, on four ranks and on two times two."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from selection.direction import buckets
from tests.helpers.ranks import Travels, on_ranks

# Along their sharded dimension: a multiple of the ranks, uneven parts, an empty last part, fewer slices than ranks.
SHAPES = [((8, 3), 0), ((10,), 0), ((9, 5), 0), ((3, 2), 0), ((1,), 0), ((2, 3, 7), 2), ((5, 4), 1)]


def laid_out(mesh) -> dict[str, DTensor]:
    torch.manual_seed(0)
    replicas = [Replicate()] * (mesh.ndim - 1)
    return {
        str(place): distribute_tensor(torch.randn(shape, dtype=torch.float64), mesh, [*replicas, Shard(dimension)])
        for place, (shape, dimension) in enumerate(SHAPES)
    }


def travelled(world, shape, limit):
    """Whether sums and blocks are DTensor's, how far sums by way of bfloat16 are off, and the collectives of each."""
    buckets.BUCKET_BYTES = limit
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    blocks = laid_out(mesh)
    torch.manual_seed(1 + world.rank)
    summands = {name: torch.randn(block.shape, dtype=torch.float64) for name, block in blocks.items()}
    with Travels() as summing:
        summed = dict(buckets.sum_over_ranks(blocks, summands.get))
    with Travels() as gathering:
        whole = buckets.gathered(blocks)
    rounded = dict(buckets.sum_over_ranks(blocks, summands.get, torch.bfloat16))
    errors = []
    for name, block in blocks.items():
        partial = DTensor.from_local(summands[name], mesh, [Partial("sum")] * mesh.ndim)
        expected = partial.redistribute(placements=block.placements)
        assert summed[name].placements == block.placements
        assert summed[name].shape == block.shape
        assert torch.allclose(summed[name].to_local(), expected.to_local(), rtol=1e-14, atol=1e-14)
        assert torch.equal(whole[name], block.full_tensor())
        close = (rounded[name].to_local() - expected.to_local()).abs()
        dist.all_reduce(summands[name].abs_())
        errors.append(float((close / summands[name].max()).max()) if close.numel() else 0.0)
    return errors, [name for name, _ in summing.made], [name for name, _ in gathering.made]


@pytest.mark.parametrize(("limit", "count"), [(1 << 20, 1), (400, 4), (1, len(SHAPES))])
def test_four_ranks(limit, count):
    for errors, summing, gathering in on_ranks(4, travelled, (4,), limit):
        assert 0 < max(errors) < 2**-8  # each summand was rounded, once
        assert summing == ["_reduce_scatter_base_"] * count
        assert gathering == ["_allgather_base_"] * count


def test_two_replicas_of_two():
    """Sums are taken inside, then of the parts across; a replica gathers its own parts."""
    for errors, summing, gathering in on_ranks(4, travelled, (2, 2), 1 << 20):
        assert 0 < max(errors) < 2**-8
        assert summing == ["_reduce_scatter_base_", "allreduce_"]
        assert gathering == ["_allgather_base_"]


def test_four_replicas_of_one():
    for _, summing, gathering in on_ranks(4, travelled, (4, 1), 1 << 20):
        assert summing == ["allreduce_"]
        assert gathering == []


def test_what_is_not_sharded_stays():
    blocks = {"a": torch.arange(6.0).view(2, 3)}
    assert dict(buckets.sum_over_ranks(blocks, lambda name: blocks[name] + 1))["a"].sum() == 21
    assert buckets.gathered(blocks)["a"] is blocks["a"]
