import hashlib
import json
import os

import numpy as np
import pytest
import torch

from pipeline.dataset.manifest import FORMAT, Manifest
from pipeline.dataset.reader import SplitReader
from pipeline.dataset.shards import Span
from pipeline.dataset.tar import member
from pipeline.prepare.verify import drop_shards, verify


@pytest.fixture
def dataset(make_dataset, tmp_path):
    make_dataset(tmp_path, samples=25, per_shard=10)
    return tmp_path


def test_the_manifest_counts_what_was_written(dataset):
    manifest = Manifest.load(dataset)
    train = manifest.shards["train"]
    names = [(shard.name, shard.samples, shard.tokens, shard.first_sample) for shard in train]
    assert names == [
        ("train-000000.tar", 10, 30, 0),
        ("train-000001.tar", 10, 30, 10),
        ("train-000002.tar", 5, 15, 20),
    ]
    assert [os.path.getsize(dataset / shard.name) for shard in train] == [shard.bytes for shard in train]
    assert {split: manifest.samples(split) for split in manifest.shards} == {
        "train": 25,
        "target": 5,
        "val": 5,
        "test": 5,
    }


@pytest.mark.parametrize("open_shards", [1, 4])
def test_any_samples_in_any_order(dataset, tokens_of, open_shards):
    reader = SplitReader(dataset, "train", open_shards=open_shards)
    assert reader.samples == 25
    ids = [24, 3, 3, 11, 0, 19, 20, 9, 10]
    tokens = reader.tokens(ids)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [tokens_of(sample) for sample in ids]
    assert (reader.tokens(torch.tensor(ids)) == tokens).all()
    assert reader.tokens([]).shape == (0, 4)
    assert [reader.spans(sample) for sample in (12, 24)] == [
        [Span("doc-12", "made", 0, 12)],
        [Span("doc-24", "made", 0, 24)],
    ]
    assert SplitReader(dataset, "val").tokens([4]).tolist() == [tokens_of(4)]


def test_wrong_numbers_and_splits_get_a_sentence(dataset):
    for wrong in (25, -1):
        with pytest.raises(ValueError, match=f"there is no sample {wrong} in split train .* samples 0 to 24"):
            SplitReader(dataset).tokens([0, wrong])
        with pytest.raises(ValueError, match=f"there is no sample {wrong}"):
            SplitReader(dataset).spans(wrong)
    with pytest.raises(ValueError, match="there is no split 'valid': the splits are train, target, val, test"):
        SplitReader(dataset, "valid")


def _cut_at_a_member(path):
    os.truncate(path, 2 * 512)


def _cut_and_padded(path):
    """A cut archive that has its right length again."""
    size = path.stat().st_size
    os.truncate(path, 2 * 512)
    os.truncate(path, size)


def _other_shard(path):
    path.write_bytes((path.parent / "train-000000.tar").read_bytes())


def _other_header(path):
    data = bytearray(path.read_bytes())
    data[2 * 512 + 3] ^= 1  # in the name of a json
    path.write_bytes(data)


def _other_array(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b"'<u2'", b"'<i2'"))


def _escaping(path):
    """A sound archive, but a member of it would land outside the folder it is unpacked in."""
    data = path.read_bytes()
    path.write_bytes(member("../../outside.npy", b"x" * 208) + data[1024:])


def _other_dataset(path):
    """The shard of the same name of another dataset: sound, of the same samples, sizes and types, other tokens."""
    data = bytearray(path.read_bytes())
    data[512 + 128 : 512 + 136] = b"\1\0\2\0\3\0\4\0"
    path.write_bytes(data)


def _flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[512 + 128 + 2] ^= 4
    path.write_bytes(data)


def _no_array(path):
    path.write_bytes(path.read_bytes().replace(b"\x93NUMPY", b"\x93nothi"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "is missing"),
        (_cut_at_a_member, "has 1024 bytes where the manifest says 8704"),
        (_cut_and_padded, "does not end as a whole archive does"),
        (_other_shard, "holds other samples than the manifest says"),
        (_other_header, "has a damaged header at byte 1024"),
        (_other_array, "holds something else than 10 samples of 4 uint16 tokens in 000000010.tokens.npy"),
        (_no_array, "holds something else than 10 samples of 4 uint16 tokens"),
        (_escaping, "holds other samples than the manifest says"),
        (_other_dataset, r"has other bytes than it was written with \(its sha256 differs\)"),
        (_flipped_bit, r"has other bytes than it was written with \(its sha256 differs\)"),
    ],
)
def test_a_broken_shard_is_found_out_before_it_is_used(dataset, damage, sentence):
    path = dataset / "train-000001.tar"
    damage(path)
    with pytest.raises(ValueError, match=f"^shard {path} {sentence}.*restore it or prepare the dataset again"):
        SplitReader(dataset).tokens([12])
    problems = {shard.name: problem for shard, problem in verify(Manifest.load(dataset)) if problem}
    assert list(problems) == ["train-000001.tar"]
    assert f"shard {path} " in problems["train-000001.tar"]
    assert SplitReader(dataset).tokens([3]).shape == (1, 4)  # the other shards are as good as ever


def test_a_shard_with_fewer_samples_than_the_manifest_says(dataset):
    told = json.loads((dataset / "manifest.json").read_text())
    told["splits"]["train"]["shards"][2]["samples"] = 6
    (dataset / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"train-000002.tar holds something else than 6 samples of 4 uint16"):
        SplitReader(dataset).tokens([21])


def test_verify_finds_a_flipped_bit_in_the_tokens(dataset):
    assert all(problem is None for _, problem in verify(Manifest.load(dataset)))
    path = dataset / "val-000000.tar"
    _flipped_bit(path)
    (problem,) = [problem for _, problem in verify(Manifest.load(dataset)) if problem]
    assert problem.startswith(f"shard {path} has other bytes than it was written with (its sha256 differs)")


def test_a_shard_opened_again_is_compared_again_only_if_its_file_changed(dataset, monkeypatch):
    digests = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(
        "pipeline.dataset.shards.hashlib.sha256", lambda data: (digests.append(len(data)), sha256(data))[1]
    )
    reader = SplitReader(Manifest.load(dataset), open_shards=1)
    digests.clear()
    for sample in (1, 11, 2, 12):
        reader.tokens([sample])
    assert digests == [8704, 8704]
    _flipped_bit(dataset / "train-000000.tar")
    with pytest.raises(ValueError, match=r"train-000000.tar has other bytes"):
        reader.tokens([1])


def test_a_dataset_goes_on_without_a_dropped_shard(dataset, tokens_of):
    """Samples keep their numbers; the dropped ones are gone for every reader; the old manifest can be put back."""
    before = Manifest.load(dataset)
    _flipped_bit(dataset / "train-000001.tar")
    after, kept = drop_shards(before, ["train-000001.tar"])
    assert after.sha256 != before.sha256
    assert all(problem is None for _, problem in verify(after))
    assert (after.samples("train"), after.samples("val")) == (15, 5)
    ids = [*range(10), *range(20, 25)]
    assert after.sample_ids("train", np.arange(15)).tolist() == ids
    assert SplitReader(after).tokens(ids).tolist() == [tokens_of(sample) for sample in ids]
    for gone in (10, 19, 25):
        with pytest.raises(ValueError, match=rf"no sample {gone} .* 0 to 24, less those of shards that were dropped"):
            SplitReader(after).tokens([3, gone])
    again, _ = drop_shards(after, ["train-000002.tar"])
    assert json.loads((dataset / "manifest.json").read_text())["dropped_shards"] == [
        "train-000001.tar",
        "train-000002.tar",
    ]
    assert again.samples("train") == 10
    os.replace(kept, dataset / "manifest.json")
    assert Manifest.load(dataset).sha256 == before.sha256


def test_a_split_is_never_dropped_whole(dataset):
    before = (dataset / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"every shard of split val of .* is broken"):
        drop_shards(Manifest.load(dataset), ["val-000000.tar"])
    assert (dataset / "manifest.json").read_bytes() == before
    assert list(dataset.glob("manifest-*")) == []


def test_a_folder_without_manifest_gets_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"holds no manifest.json.*python -m scripts.prepare"):
        Manifest.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda told: told.update(format=1), "its format is 1"),
        (lambda told: told.update(packing="tight"), "its packing is tight"),
        (lambda told: told.update(dtype="object"), "its tokens are of type object"),
        (lambda told: told.pop("tokenizer"), "'tokenizer'"),
        (lambda told: told["splits"].pop("val"), "'val'"),
        (lambda told: told["splits"]["val"]["shards"][0].update(name="../val-000000.tar"), "shard name"),
        (lambda told: told["splits"]["val"]["shards"][0].update(name="train-000000.tar"), "shard name"),
        (lambda told: told["splits"]["train"]["shards"].pop(0), "the sample numbers of shard train-000001.tar"),
        (lambda told: told["splits"]["train"]["shards"][0].pop("sha256"), "sha256"),
        (lambda told: told["splits"]["train"]["shards"][0].update(sha256="../../x"), "the sha256 of shard"),
    ],
)
def test_a_manifest_of_something_else_gets_a_sentence(dataset, change, sentence):
    told = json.loads((dataset / "manifest.json").read_text())
    change(told)
    (dataset / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"cannot be read as a manifest of format {FORMAT} .*{sentence}.*: prepare"):
        Manifest.load(dataset)


def test_a_manifest_that_is_no_json_gets_a_sentence(dataset):
    (dataset / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as a manifest"):
        Manifest.load(dataset)


def test_another_tokenizer_gets_a_sentence(dataset):
    (dataset / "tokenizer.json").write_text("{ }")
    with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer that the shards were made with"):
        Manifest.load(dataset)
    (dataset / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer"):
        Manifest.load(dataset)
