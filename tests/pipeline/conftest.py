"""Small datasets made directly with the shard writer: the tokens of a sample tell its number."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset import block
from pipeline.dataset.manifest import FORMAT, SPLITS, Manifest
from pipeline.dataset.tar import END
from pipeline.prepare.writer import Sample, ShardWriter

_LENGTH = 3  # T: tiny, so that a hypothesis test can make hundreds of datasets
_SPANS = 600  # bytes of a sample's spans, filled up with spaces: every sample makes its shard larger


def _tokens(sample: int) -> list[int]:
    return [sample % 1000, sample // 1000, 7, 9]


def _shard_bytes(samples: int) -> int:
    """The size of a shard of so many samples."""
    sizes = [min(block.SAMPLES, samples - first) for first in range(0, samples, block.SAMPLES)]
    return sum(block.bytes_of(size, size * 2 * (_LENGTH + 1), size * _SPANS) for size in sizes) + len(END)


def _make(
    folder: Path, samples: int, per_shard: int, held_out: int = 5, packing: str = "concat", salt: str = ""
) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = b"{}" + salt.encode()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    splits = {}
    for split in SPLITS:
        writer = ShardWriter(folder, split, np.dtype("<u2"), _shard_bytes(per_shard))
        for sample in range(samples if split == "train" else held_out):
            spans = [{"document": f"doc-{sample}", "source": "made", "first": 0, "last": sample}]
            tokens = np.array(_tokens(sample), dtype="<u2").tobytes()
            writer.add(Sample(tokens, json.dumps(spans).encode().ljust(_SPANS), _LENGTH))
        shards = [asdict(shard) for shard in writer.close()]
        splits[split] = {"sources": {}, "dropped_tokens": 0, "shards": shards}
    told = {
        "format": FORMAT,
        "corpora": [{"corpus": "made"}],
        "sequence_length": _LENGTH,
        "packing": packing,
        "dtype": "uint16",
        "tokenizer": {"sha256": hashlib.sha256(tokenizer).hexdigest(), "vocab_size": 1000, "end_of_text": 0},
        "split_rule": {},
        "duplicates": {},
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


@pytest.fixture(scope="session")
def shard_bytes():
    """shard_bytes(samples) -> the size of a shard of so many samples of these datasets."""
    return _shard_bytes
