import os
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.sampling import evaluation_samples, target_samples
from pipeline.prepare.verify import drop_shards
from pipeline.stream.candidates import CandidateStream


def _take(stream, steps):
    return list(islice(stream, steps))


def _same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.step == other.step
        assert torch.equal(one.sample_ids_Gn, other.sample_ids_Gn)
        assert torch.equal(one.tokens_GnT1, other.tokens_GnT1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_stream_properties(make_dataset, tokens_of, data):
    """Any samples, shards, G, drawn, window: what the design promises of the order of candidates."""
    groups, drawn = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    samples = data.draw(st.integers(groups * drawn, 40))
    window, seed = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 5))
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), samples, per_shard=data.draw(st.integers(1, 20)), held_out=1)

        def stream(lanes, step=0):
            told = {"groups": groups, "drawn": drawn, "seed": seed, "window": window}
            return CandidateStream(folder, lanes=lanes, step=step, **told)

        whole = stream(range(groups))
        per_epoch = whole.steps_per_epoch
        assert per_epoch == samples // (groups * drawn)
        steps = _take(whole, 2 * per_epoch + 1)

        assert [candidates.step for candidates in steps] == list(range(len(steps)))
        for candidates in steps:
            assert candidates.sample_ids_Gn.shape == (groups, drawn)
            assert candidates.sample_ids_Gn.dtype == candidates.tokens_GnT1.dtype == torch.int64
            expected = [[tokens_of(sample) for sample in group] for group in candidates.sample_ids_Gn.tolist()]
            assert candidates.tokens_GnT1.tolist() == expected
        for epoch in (steps[:per_epoch], steps[per_epoch : 2 * per_epoch]):
            seen = Counter(id for candidates in epoch for id in candidates.sample_ids_Gn.flatten().tolist())
            assert max(seen.values()) == 1
            assert samples - len(seen) < groups * drawn

        # Dealt to any number of ranks, in any order, the same candidates are in the same groups.
        order = data.draw(st.permutations(range(groups)))
        cut = data.draw(st.integers(1, groups))
        for lanes in filter(len, (order[:cut], order[cut:])):
            part = [
                (c.step, c.sample_ids_Gn.tolist(), c.tokens_GnT1.tolist()) for c in _take(stream(lanes), len(steps))
            ]
            assert part == [(c.step, c.sample_ids_Gn[lanes].tolist(), c.tokens_GnT1[lanes].tolist()) for c in steps]

        # From any step on, by argument and by state, the stream goes on as if it had never stopped.
        at = data.draw(st.integers(0, len(steps)))
        _same(_take(stream(range(groups), step=at), len(steps) - at), steps[at:])
        stopped, resumed = stream(range(groups)), stream(range(groups))
        _take(stopped, at)
        resumed.load_state_dict(stopped.state_dict())
        assert resumed.step == at
        _same(_take(resumed, len(steps) - at), steps[at:])


@pytest.fixture(scope="module")
def dataset(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    make_dataset(folder, samples=600, per_shard=70)
    return folder


def _stream(folder, **changed):
    told = {"groups": 5, "drawn": 6, "seed": 3, "lanes": [0, 2, 4], "window": 16} | changed
    return CandidateStream(folder, **told)


def test_worker_processes_change_nothing(dataset):
    """Two workers over three lanes, from the middle of an epoch on, in a process that has torch.distributed and
    threads; the training run's random numbers are left alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        before = torch.random.get_rng_state()
        ahead = iter(_stream(dataset, workers=2, step=7))
        read = [next(ahead) for _ in range(30)]
        ahead.close()
        assert torch.equal(before, torch.random.get_rng_state())
    finally:
        torch.distributed.destroy_process_group()
    _same(read, _take(_stream(dataset, step=7), 30))


_READS_AHEAD = """
import sys, time
from pipeline.stream import CandidateStream

if __name__ == "__main__":
    stream = iter(CandidateStream(sys.argv[1], groups=2, drawn=100, seed=0, lanes=[0, 1], workers=2))
    next(stream)
    print("reading", flush=True)
    time.sleep(600)
"""


def test_workers_end_with_a_killed_process(dataset, tmp_path):
    """They share its standard output, which comes to its end when the last of them is gone."""
    (tmp_path / "reads.py").write_text(_READS_AHEAD)
    command = [sys.executable, str(tmp_path / "reads.py"), str(dataset)]
    checkout = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=checkout) as process:
        assert process.stdout.readline() == b"reading\n"
        process.kill()
        assert process.communicate(timeout=60) == (b"", None)


def test_a_broken_shard_met_by_a_worker_is_the_caller_s_error(make_dataset, tmp_path):
    manifest = make_dataset(tmp_path, samples=40, per_shard=10)
    shard = tmp_path / manifest.shards["train"][2].name
    shard.write_bytes(shard.read_bytes()[:-2048])
    with pytest.raises(ValueError, match=rf"^shard {shard} has .* bytes where the manifest says") as raised:
        _take(CandidateStream(tmp_path, groups=2, drawn=2, seed=0, lanes=[0, 1], workers=1), 10)
    assert "Traceback" not in str(raised.value)


def test_a_stream_over_a_dataset_with_a_dropped_shard(tmp_path, make_dataset, tokens_of):
    """The gap in the sample numbers reaches neither the stream nor the held-out samples."""
    make_dataset(tmp_path, samples=40, per_shard=5, held_out=12)
    manifest, _ = drop_shards(Manifest.load(tmp_path), ["train-000002.tar", "val-000000.tar", "target-000001.tar"])
    steps = _take(CandidateStream(manifest, groups=2, drawn=3, seed=0, lanes=[0, 1], window=4), 5)
    seen = [sample for candidates in steps for sample in candidates.sample_ids_Gn.flatten().tolist()]
    assert len(set(seen)) == len(seen) == 30
    assert not set(seen) & set(range(10, 15))
    assert all(
        candidates.tokens_GnT1.tolist()
        == [[tokens_of(i) for i in group] for group in candidates.sample_ids_Gn.tolist()]
        for candidates in steps
    )
    assert evaluation_samples(manifest, "val", 100).tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert sorted(target_samples(manifest, 0, 0, 7)) == [0, 1, 2, 3, 4, 10, 11]


def test_resuming_reads_no_more_than_a_window_per_lane(dataset, monkeypatch):
    from pipeline.dataset import shards

    read = []
    tokens = shards.OpenShard.tokens
    monkeypatch.setattr(
        shards.OpenShard, "tokens", lambda self, rows, out: (read.append(len(rows)), tokens(self, rows, out))
    )
    next(iter(_stream(dataset, step=11)))  # its 6 candidates lie within one window of 16
    assert sum(read) <= 3 * 16 * 2  # a group may straddle two windows


def test_the_state_says_where_the_stream_stands(dataset):
    stream = _stream(dataset)
    assert stream.state_dict() == {"manifest": Manifest.load(dataset).sha256, "seed": 3, "step": 0}
    _take(stream, 4)
    assert stream.state_dict()["step"] == 4
    assert next(iter(stream)).step == 4


def test_a_state_of_something_else_is_refused(dataset):
    state = _stream(dataset).state_dict()
    with pytest.raises(ValueError, match="another dataset"):
        _stream(dataset).load_state_dict(state | {"manifest": "0" * 64})
    with pytest.raises(ValueError, match="seed 3, but this stream has seed 4"):
        _stream(dataset, seed=4).load_state_dict(state)


def test_seeds_differ(dataset):
    ids = [next(iter(_stream(dataset, seed=seed))).sample_ids_Gn for seed in (0, 1)]
    assert not torch.equal(*ids)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"groups": 101}, "fewer samples than one step needs: 600 in split train.* take 606"),
        ({"drawn": 0}, "drawn is 0; it must be at least 1"),
        ({"groups": 0}, "groups is 0"),
        ({"window": 0}, "window is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"step": -1}, "step is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"lanes": [0, 5]}, "lanes are .0, 5.; they must be different numbers from 0 to 4"),
        ({"lanes": [1, 1]}, "different numbers"),
        ({"lanes": []}, "different numbers"),
    ],
)
def test_bad_arguments_get_a_sentence(dataset, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        _stream(dataset, **changed)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 30), m=st.integers(1, 30), seed=st.integers(0, 3))
def test_target_samples_walk_through_passes(make_dataset, samples, m, seed):
    m = min(m, samples)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_dataset(Path(folder), 4, per_shard=4, held_out=samples)
        steps = [target_samples(manifest, seed, step, m) for step in range(3 * samples)]
        assert all(step.shape == (m,) and step.dtype == "int64" for step in steps)
        line = [int(sample) for step in steps for sample in step]
        passes = [line[begin : begin + samples] for begin in range(0, len(line) - samples + 1, samples)]
        assert all(sorted(one) == list(range(samples)) for one in passes)
        if samples > 8:
            assert passes[0] != passes[1]
        assert (target_samples(manifest, seed, 2, m) == steps[2]).all()


def test_more_target_samples_than_there_are(dataset):
    with pytest.raises(ValueError, match=r"6 target samples a step are asked for; split target of .* has 5"):
        target_samples(Manifest.load(dataset), 0, 0, 6)


def test_evaluation_samples_are_evenly_spread(dataset):
    manifest = Manifest.load(dataset)
    assert evaluation_samples(manifest, "train", 4).tolist() == [0, 150, 300, 450]
    assert evaluation_samples(manifest, "val", 100).tolist() == [0, 1, 2, 3, 4]
    assert evaluation_samples(manifest, "val", 2).tolist() == [0, 2]


def _sums(tokens):
    """Features of any kind: here each sample's sum and last token."""
    return tokens[:, [0, -1]].astype("int32") + tokens.sum(1, keepdims=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_features_travel_with_their_tokens(make_dataset, tmp_path, workers):
    make_dataset(tmp_path, 40, per_shard=7)
    stream = CandidateStream(
        tmp_path, groups=4, drawn=3, seed=1, lanes=[2, 0, 3], workers=workers, features=_sums, window=4
    )
    for candidates in _take(stream, 4):
        assert candidates.features_GnF.shape == (3, 3, 2)
        for features, tokens in zip(candidates.features_GnF, candidates.tokens_GnT1, strict=True):
            assert (features == _sums(tokens.numpy())).all()
    plain = CandidateStream(tmp_path, groups=4, drawn=3, seed=1, lanes=[2, 0, 3], workers=workers, window=4)
    assert [candidates.features_GnF for candidates in _take(plain, 2)] == [None, None]
