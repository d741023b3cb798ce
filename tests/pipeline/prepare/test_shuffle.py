import pytest

from pipeline.prepare import shuffle as module
from pipeline.prepare.shuffle import Shuffle
from pipeline.prepare.writer import Sample

SAMPLES = [Sample(bytes([i % 251]) * 6, b"{}" * (i % 4), i) for i in range(3000)]


def _shuffled(folder, seed):
    shuffle = Shuffle(folder, seed)
    for sample in SAMPLES:
        shuffle.add(sample)
    assert shuffle.samples == len(SAMPLES)
    samples = list(shuffle.drain())
    assert not folder.exists()
    return samples


@pytest.mark.parametrize("buffer", [64, 1 << 18])
def test_every_sample_comes_out_once_in_an_order_of_the_seed(tmp_path, monkeypatch, buffer):
    monkeypatch.setattr(module, "_DRAWN", 512)
    expected = _shuffled(tmp_path / "a", 1)
    assert sorted(expected, key=lambda sample: sample.targets) == SAMPLES
    monkeypatch.setattr(module, "_BUFFER", buffer)
    assert _shuffled(tmp_path / "b", 1) == expected
    assert _shuffled(tmp_path / "c", 2) != expected


def test_what_was_together_is_spread(tmp_path):
    """Of the samples that came in as the first tenth, every tenth of the output has its share."""
    numbers = [sample.targets for sample in _shuffled(tmp_path / "a", 0)]
    for tenth in range(10):
        early = sum(number < 300 for number in numbers[tenth * 300 : (tenth + 1) * 300])
        assert 12 <= early <= 50  # 30 expected; more than three standard deviations either way


def test_nothing_in_nothing_out(tmp_path):
    assert list(Shuffle(tmp_path / "a", 0).drain()) == []
