"""Documents from files on this machine: JSON Lines, Parquet and plain text, compressed or not.

JSON Lines have one object a line; a text longer than PART characters is cut at line ends; `.gz`, `.bz2`, `.xz` and
`.zst` are decompressed.
"""

import bz2
import glob
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .corpus import RECORD, Asked, Corpus
from .document import Document, Fields

# Long plain text is cut into documents of about this many characters, so that it can be dealt to splits.
PART = 16_384
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_COMPRESSED_TO_TEXT = 3  # a rough ratio of characters to compressed bytes


def expand(corpus: str, data_files: Sequence[str]) -> list[str]:
    """The files that paths and globs name, each once, sorted."""
    if not data_files:
        raise ValueError(f"corpus {corpus} needs --data-files: the paths or globs of the files to read")
    files = set()
    for pattern in data_files:
        found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
        if not found and os.path.isfile(pattern):
            found = [pattern]  # a file whose name holds a glob's characters
        if not found:
            raise ValueError(f"--data-files: no file matches '{pattern}'")
        files.update(found)
    return sorted(files)


def characters_of_files(asked: Asked, packed: bool) -> int:
    return sum(
        os.path.getsize(path) * (_COMPRESSED_TO_TEXT if packed or path.endswith(_COMPRESSIONS) else 1)
        for path in asked.data_files
    )


def read_files(asked: Asked, reader) -> Iterator[Document]:
    """The documents that reader(path, name, source, fields) finds in every file: `name` stands before ids, `source` is
    the file's stem. ValueError naming a file that cannot be read."""
    # Ids name a file from the folder that all files share, so two files of one name keep different ids.
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in asked.data_files])
    for path in asked.data_files:
        name = os.path.relpath(os.path.abspath(path), shared)
        try:
            yield from reader(path, name, stem(path), asked.fields)
        except (
            OSError,
            EOFError,
            zlib.error,
            lzma.LZMAError,
            pa.ArrowException,
            UnicodeDecodeError,
        ) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def stem(path: str) -> str:
    """The file's name without its compression's suffix and its format's: news.jsonl.gz -> news."""
    name = Path(path)
    return Path(name.stem).stem if name.suffix in _COMPRESSIONS else name.stem


def open_text(path: str) -> io.TextIOBase:
    """The file's text, decompressed, without a byte order mark and with its line ends as they are."""
    suffix = Path(path).suffix
    if suffix == ".zst":
        return io.TextIOWrapper(pa.input_stream(path, compression="zstd"), encoding="utf-8-sig", newline="")
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(suffix, open)
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def json_records(path: str) -> Iterator[tuple[str, dict]]:
    """The objects of a JSON Lines file, each with its place for an error to name. ValueError for anything else."""
    with open_text(path) as lines:
        for at, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {at} is no JSON ({error}); one object a line is expected") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {at} is no JSON object; one object a line is expected")
            yield f"{path}, line {at}", record


def _read_json(path: str, name: str, source: str, fields: Fields) -> Iterator[Document]:
    for number, (where, record) in enumerate(json_records(path)):
        yield fields.document(record, where, f"{name}:{number}", source)


def _read_parquet(path: str, name: str, source: str, fields: Fields) -> Iterator[Document]:
    with pq.ParquetFile(path) as file:
        present = file.schema_arrow.names
        wanted = [field for field in (fields.text, fields.id, fields.source) if field]
        # A missing column is left out here and then missed in the first row, with the same sentence as
        # elsewhere.
        columns = [field for field in wanted if field in present] if set(wanted) <= set(present) else None
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for record in batch.to_pylist():
                yield fields.document(record, f"{path}, row {number}", f"{name}:{number}", source)
                number += 1


def _read_text(path: str, name: str, source: str, fields: Fields) -> Iterator[Document]:
    with open_text(path) as file:
        number = 0
        # Up to the first line end after PART characters; a file without line ends is cut all the same.
        while text := file.read(PART):
            yield Document(f"{name}:{number}", text + file.readline(PART), source)
            number += 1


def _corpus(reader, reads: tuple[str, ...] = RECORD, packed: bool = False) -> Corpus:
    characters = partial(characters_of_files, packed=packed)
    return Corpus(partial(read_files, reader=reader), characters, of_files=True, reads=reads)


JSON, PARQUET, TEXT = _corpus(_read_json), _corpus(_read_parquet, packed=True), _corpus(_read_text, reads=())
