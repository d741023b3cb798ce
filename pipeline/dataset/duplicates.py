"""Which documents of a dataset are duplicates of each other, as `prepare` found them."""

import hashlib
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from .manifest import Manifest

FILE = "duplicates.parquet"  # there where the manifest has its sha256
# A row for every document that has duplicates; `group` is the same number for all that are so of each other.
SCHEMA = pa.schema([("group", pa.int64()), ("document", pa.string()), ("source", pa.string()), ("split", pa.string())])


def duplicates_of(manifest: Manifest, documents: Collection[str]) -> pa.Table:
    """The rows of all groups that these documents are in, by group. ValueError where the file is not as it was."""
    if "sha256" not in manifest.duplicates:
        return SCHEMA.empty_table()
    if problem := problem_of(manifest):
        raise ValueError(problem)
    path = manifest.folder / FILE
    groups = pq.read_table(path, columns=["group"], filters=[("document", "in", list(documents))])["group"].unique()
    if not len(groups):
        return SCHEMA.empty_table()
    return pq.read_table(path, filters=[("group", "in", groups.to_pylist())]).sort_by("group")


def problem_of(manifest: Manifest) -> str | None:
    """What is wrong with the file, one sentence, or None when it is whole, or there is none."""
    expected = manifest.duplicates.get("sha256")
    path = manifest.folder / FILE
    if expected is None:
        return None
    if not path.is_file():
        return f"{path} is missing: restore it or prepare the dataset again"
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            return f"{path} has other bytes than it was written with: restore it or prepare the dataset again"
    return None
