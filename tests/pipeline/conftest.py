"""Small datasets made directly with the shard writer: the tokens of a sample tell its number."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.manifest import SPLITS, Manifest
from pipeline.prepare.writer import Sample, ShardWriter

_LENGTH = 3  # T: tiny, so that a hypothesis test can make hundreds of datasets
_SHARD_OF_ONE = 4 * 512 + 1024  # two members of two blocks each, and the end


def _tokens(sample: int) -> list[int]:
    return [sample % 1000, sample // 1000, 7, 9]


def _make(
    folder: Path, samples: int, per_shard: int, held_out: int = 5, packing: str = "concat", salt: str = ""
) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = b"{}" + salt.encode()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    splits = {}
    for split in SPLITS:
        limit = _SHARD_OF_ONE + (per_shard - 1) * 4 * 512
        writer = ShardWriter(folder, split, _LENGTH + 1, np.dtype("<u2"), limit)
        for sample in range(samples if split == "train" else held_out):
            spans = [{"document": f"doc-{sample}", "source": "made", "first": 0, "last": sample}]
            tokens = np.array(_tokens(sample), dtype="<u2").tobytes()
            writer.add(Sample(tokens, json.dumps({"spans": spans}).encode(), _LENGTH))
        shards = [asdict(shard) for shard in writer.close()]
        splits[split] = {"sources": {}, "dropped_tokens": 0, "shards": shards}
    told = {
        "format": 1,
        "corpus": "made",
        "sequence_length": _LENGTH,
        "packing": packing,
        "dtype": "uint16",
        "tokenizer": {"sha256": hashlib.sha256(tokenizer).hexdigest(), "vocab_size": 1000, "end_of_text": 0},
        "split_rule": {},
        "splits": splits,
    }
    (folder / "manifest.json").write_text(json.dumps(told))
    return Manifest.load(folder)


@pytest.fixture(scope="session")
def make_dataset():
    """make_dataset(folder, samples, per_shard, ...) -> Manifest."""
    return _make


@pytest.fixture(scope="session")
def tokens_of():
    """tokens_of(sample) -> its T + 1 tokens."""
    return _tokens
