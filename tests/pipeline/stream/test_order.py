import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.permutation import pass_order, permutation
from pipeline.stream.order import EpochOrder


@given(st.integers(0, 200), st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_a_permutation_is_one_and_depends_on_its_key(n, key):
    order = permutation(n, *key)
    assert sorted(order) == list(range(n))
    assert (order == permutation(n, *key)).all()
    if n > 20:
        assert (order != permutation(n, *key[:-1], key[-1] + 1)).any()


def test_the_order_is_the_same_in_every_version():
    """A dataset's order outlives this program: these values may never change."""
    assert permutation(8, 5, 1, 2).tolist() == [4, 3, 2, 0, 5, 7, 6, 1]
    order = EpochOrder([5, 3, 4], groups=2, drawn=2, seed=1, window=6)
    ids, permuted = order.window(1, 1, 0)
    assert (ids.tolist(), permuted.tolist()) == ([3, 4, 8, 9, 10, 11], [0, 4, 3, 1, 5, 2])


@given(
    shards=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    groups=st.integers(1, 4),
    drawn=st.integers(1, 5),
    window=st.integers(1, 9),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_lanes_and_windows_are_those_of_the_design(shards, groups, drawn, window, seed, epoch):
    """Against the definition, written out with lists."""
    order = EpochOrder(shards, groups=groups, drawn=drawn, seed=seed, window=window)
    firsts = np.cumsum([0, *shards])
    line = [int(firsts[shard]) + i for shard in permutation(len(shards), seed, 0, epoch) for i in range(shards[shard])]
    assert sorted(line) == list(range(sum(shards)))
    assert order.steps_per_epoch == sum(shards) // (groups * drawn)
    length = order.lane_length
    assert length == order.steps_per_epoch * drawn
    for lane in range(groups):
        stretch = line[lane * length : (lane + 1) * length]
        for number, begin in enumerate(range(0, length, window)):
            ids, permuted = order.window(epoch, lane, number)
            assert ids.tolist() == stretch[begin : begin + window]
            assert sorted(permuted) == list(range(len(ids)))


def test_windows_epochs_and_lanes_are_permuted_differently():
    order = EpochOrder([400], groups=2, drawn=10, seed=0, window=100)
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    orders = {tuple(order.window(*key)[1].tolist()) for key in keys}
    assert len(orders) == len(keys)


def test_another_leftover_sits_out_every_epoch():
    order = EpochOrder([4] * 10, groups=1, drawn=36, seed=0, window=36)
    leftovers = [set(range(40)) - set(order.window(epoch, 0, 0)[0].tolist()) for epoch in range(6)]
    assert all(len(left) == 4 for left in leftovers)
    assert len({frozenset(left) for left in leftovers}) > 1


def test_passes_differ_and_are_kept():
    assert sorted(pass_order(50, 3, 0)) == list(range(50))
    assert (pass_order(50, 3, 0) != pass_order(50, 3, 1)).any()
