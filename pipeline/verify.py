"""Compare a dataset folder's shards with its manifest, byte by byte."""

import hashlib
from collections.abc import Iterator

from pipeline.shards import Manifest, OpenShard, Shard
from pipeline.splits import SPLITS


def verify(manifest: Manifest) -> Iterator[tuple[Shard, str | None]]:
    """Every shard of every split with what is wrong with it, one sentence, or None when it is whole."""
    for split in SPLITS:
        for shard in manifest.shards[split]:
            yield shard, _problem(manifest, shard)


def _problem(manifest: Manifest, shard: Shard) -> str | None:
    try:
        OpenShard(manifest, shard)
    except ValueError as error:
        return str(error)
    path = manifest.folder / shard.name
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return f"shard {path} has other bytes than it was written with (its sha256 differs)"
    return None
