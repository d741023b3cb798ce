"""Samples by the block, as they lie in a shard."""

import io
import json
import os

import numpy as np
import pytest
import webdataset

from pipeline.dataset import block
from pipeline.dataset.reader import SplitReader
from pipeline.dataset.tar import BLOCK, room


def test_plain_webdataset_reads_the_shards(make_dataset, tokens_of, tmp_path):
    """An item is a block: of 150 samples, 100 a shard, there are blocks of 64, 36 and 50."""
    manifest = make_dataset(tmp_path, samples=150, per_shard=100)
    urls = [str(tmp_path / shard.name) for shard in manifest.shards["train"]]
    blocks = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [block["__key__"] for block in blocks] == ["000000000", "000000064", "000000100"]
    assert [block["tokens.npy"].shape for block in blocks] == [(64, 4), (36, 4), (50, 4)]
    assert [sample.tolist() for block in blocks for sample in block["tokens.npy"]] == [tokens_of(i) for i in range(150)]
    assert [spans for block in blocks for spans in block["json"]["spans"]] == [
        [{"document": f"doc-{i}", "source": "made", "first": 0, "last": i}] for i in range(150)
    ]


def test_samples_of_several_blocks(make_dataset, tokens_of, tmp_path):
    make_dataset(tmp_path, samples=300, per_shard=140)
    reader = SplitReader(tmp_path)
    ids = [299, 0, 63, 64, 65, 127, 128, 139, 140, 64, 203, 204, 280, 279]
    for some in (ids, range(300), range(60, 290), [150]):
        assert reader.tokens(some).tolist() == [tokens_of(sample) for sample in some]
    assert [reader.spans(sample)[0].last for sample in ids] == ids


def test_lines_of_other_alphabets_and_controls_come_back(tmp_path):
    """What a document's name holds never looks like the end of a line to a reader."""
    names = ["a\nb", "\u2028", "\x85", "\r", '"],[', "漢字 \udc80".encode("utf-8", "replace").decode()]
    spans = [json.dumps([{"document": name}], ensure_ascii=False, separators=(",", ":")).encode() for name in names]
    text = block.files(0, [b"\0\0"] * len(names), spans, np.dtype("<u2"))[room(block.ARRAY_HEADER + 12) + BLOCK :]
    assert [block.spans_of(text.rstrip(b"\0"), i) for i in range(6)] == [[{"document": name}] for name in names]
    assert json.loads(text.rstrip(b"\0"))["spans"][5] == [{"document": names[5]}]


def test_the_header_is_one_that_numpy_reads():
    for dtype, samples, width in (("<u2", 64, 1025), ("<u4", 1, 2), ("<u2", 64, 10**9)):
        header = block.array_header(np.dtype(dtype), samples, width)
        assert len(header) == block.ARRAY_HEADER
        file = io.BytesIO(header)
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((samples, width), False, np.dtype(dtype))


def test_one_array_of_another_type_or_length_among_others(make_dataset, tmp_path):
    manifest = make_dataset(tmp_path, samples=200, per_shard=200)
    path = tmp_path / manifest.shards["train"][0].name
    whole = path.read_bytes()
    at = whole.index(b"'<u2'", whole.index(b"000000128.tokens.npy"))
    for wrong in (b"'<i2'", b"'<u4'"):
        path.write_bytes(whole[:at] + wrong + whole[at + 5 :])
        with pytest.raises(ValueError, match=r"something else than 64 samples of 4 uint16 .* 000000128.tokens.npy"):
            SplitReader(tmp_path).tokens([0])
    assert os.path.getsize(path) == len(whole)
