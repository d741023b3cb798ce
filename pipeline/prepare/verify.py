"""Compare a dataset folder's shards with its manifest, byte by byte, and do without the broken ones."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from ..atomic import write_whole
from ..dataset.manifest import SPLITS, Manifest, Shard
from ..dataset.shards import OpenShard


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
    return None


def drop_shards(manifest: Manifest, names: Collection[str]) -> tuple[Manifest, Path]:
    """Writes the manifest anew without these shards; returns the new one, and where the old one is kept.

    The samples that stay keep their numbers. The manifest lists what was dropped under `dropped_shards`; the counts
    of its sources stay those of the whole dataset. Raises ValueError, and changes nothing, if a split would be empty.
    """
    path = manifest.folder / "manifest.json"
    content = path.read_bytes()
    told = json.loads(content)
    for split, part in told["splits"].items():
        kept = [shard for shard in part["shards"] if shard["name"] not in names]
        if not kept:
            raise ValueError(
                f"every shard of split {split} of {manifest.folder} is broken, so none can be dropped: restore one or "
                "prepare the dataset again"
            )
        part["shards"] = kept
    told["dropped_shards"] = sorted({*told.get("dropped_shards", []), *names})
    before = path.with_name(f"manifest-{manifest.sha256[:12]}.json")
    write_whole(before, content)
    write_whole(path, json.dumps(told, indent=1, ensure_ascii=False).encode())
    return Manifest.load(manifest.folder), before
