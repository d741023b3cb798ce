import hashlib

import pytest

from pipeline.corpora.document import Document
from pipeline.mixture.splits import SplitRule, fraction


def test_fraction_is_the_stated_hash():
    digest = hashlib.sha256(b"3 split doc").digest()
    assert fraction(3, "split", "doc") == int.from_bytes(digest[:8], "big") / 2**64


def test_splits_have_their_shares_and_depend_on_seed_and_text_alone():
    rule = SplitRule(seed=0, target=0.1, val=0.2, test=0.3)
    splits = [rule.split_of(Document("d", f"text {i}", "any")) for i in range(10_000)]
    for split, share in {"target": 0.1, "val": 0.2, "test": 0.3, "train": 0.4}.items():
        assert abs(splits.count(split) / 10_000 - share) < 0.015  # three standard deviations
    assert splits == [rule.split_of(Document(f"d{i}", f"te\nxt\t{i} ", "else")) for i in range(10_000)]
    reseeded = SplitRule(seed=1, target=0.1, val=0.2, test=0.3)
    assert splits != [reseeded.split_of(Document("d", f"text {i}", "any")) for i in range(10_000)]


def test_other_sources_only_train():
    rule = SplitRule(seed=0, target=0.3, val=0.3, test=0.3, target_sources=("prose",))
    assert {rule.split_of(Document("d", f"text {i}", "code")) for i in range(100)} == {"train"}
    prose = {rule.split_of(Document("d", f"text {i}", "prose")) for i in range(200)}
    assert prose == {"train", "target", "val", "test"}


def test_target_corpora_are_dealt_among_the_held_out_splits_alone():
    rule = SplitRule(seed=0, target=0.5, val=0.3, test=0.2, target_corpora=("mine", "yours"))
    splits = [rule.split_of(Document("d", f"text {i}", "any", "yours")) for i in range(10_000)]
    for split, share in {"target": 0.5, "val": 0.3, "test": 0.2, "train": 0}.items():
        assert abs(splits.count(split) / 10_000 - share) < 0.015
    assert {rule.split_of(Document("d", f"text {i}", "any", "web")) for i in range(1_000)} == {"train"}
    short = SplitRule(seed=0, target=1 / 3, val=1 / 3, test=1 / 3 - 1e-3, target_corpora=("mine",))
    assert "train" not in {short.split_of(Document("d", f"text {i}", "any", "mine")) for i in range(10_000)}
    assert short.record()["target_corpora"] == ["mine"]


def test_beside_measured_corpora_the_target_corpora_are_split_target_alone():
    rule = SplitRule(seed=0, target=0, val=0.3, test=0.7, target_corpora=("dev",), measured_corpora=("far", "near"))
    splits = [rule.split_of(Document("d", f"text {i}", "any", "near")) for i in range(10_000)]
    for split, share in {"val": 0.3, "test": 0.7, "target": 0, "train": 0}.items():
        assert abs(splits.count(split) / 10_000 - share) < 0.015
    assert {rule.split_of(Document("d", f"text {i}", "any", "dev")) for i in range(1_000)} == {"target"}
    assert {rule.split_of(Document("d", f"text {i}", "any", "web")) for i in range(1_000)} == {"train"}
    assert rule.record()["measured_corpora"] == ["far", "near"]


@pytest.mark.parametrize(
    ("fractions", "sentence"),
    [
        ((0.0, 0.1, 0.1), "the target fraction is 0.0"),
        ((0.1, 1.0, 0.1), "the val fraction is 1.0"),
        ((0.1, 0.1, -0.1), "the test fraction is -0.1"),
        ((0.5, 0.3, 0.2), "nothing is left to train on"),
    ],
)
def test_senseless_fractions_are_refused(fractions, sentence):
    with pytest.raises(ValueError, match=sentence):
        SplitRule(0, *fractions)
