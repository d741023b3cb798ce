import json

import numpy as np
import webdataset

from pipeline.prepare.writer import Sample, ShardWriter


def test_shards_are_bounded_and_wide_tokens_kept(tmp_path):
    limit = 20_000
    writer = ShardWriter(tmp_path, "train", np.dtype("<u4"), limit)
    for i in range(300):
        spans = json.dumps(["x" * (i * 13 % 700)]).encode()
        writer.add(Sample(np.full(9, 100_000 + i, dtype="<u4").tobytes(), spans, 8))
    shards = writer.close()
    assert sum(shard.samples for shard in shards) == 300
    assert len(shards) > 4
    assert all(shard.bytes <= limit for shard in shards)
    assert all(shard.bytes > limit - 3000 for shard in shards[:-1])  # as full as the next sample allowed
    blocks = webdataset.WebDataset([str(tmp_path / shard.name) for shard in shards], shardshuffle=False).decode()
    arrays = [block["tokens.npy"] for block in blocks]
    assert [int(row[0]) for array in arrays for row in array] == [100_000 + i for i in range(300)]
    assert {array.dtype for array in arrays} == {np.dtype("uint32")}


def test_one_sample_larger_than_the_limit_still_fits(tmp_path):
    writer = ShardWriter(tmp_path, "val", np.dtype("<u2"), 10)
    for _ in range(2):
        writer.add(Sample(b"\1\0\2\0", b"[]", 1))
    assert [shard.samples for shard in writer.close()] == [1, 1]
