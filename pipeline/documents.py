"""Documents, the unit that text comes in, from every corpus that `prepare` knows, one at a time.

Corpora: `openwebtext` (through `datasets`, streaming), `json` (JSON Lines), `parquet`, `text`, and
`installed-docs` (pipeline/installed_docs.py).
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

OPENWEBTEXT = "Skylion007/openwebtext"
OPENWEBTEXT_DOCUMENTS = 8_013_769  # by its dataset card
OPENWEBTEXT_CHARACTERS = 39_769_000_000
Corpus = Literal["openwebtext", "json", "parquet", "text", "installed-docs"]
CORPORA = get_args(Corpus)
FILE_CORPORA = ("json", "parquet", "text")

# Long plain text is cut into documents of about this many characters, so that it can be dealt to splits.
PART = 16_384
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_COMPRESSED_TO_TEXT = 3  # a rough ratio of characters to compressed bytes


@dataclass(frozen=True)
class Document:
    """A text, where it comes from (`source`), and a name for it that stays the same from run to run (`id`)."""

    id: str
    text: str
    source: str


def encodable(text: str) -> str:
    """The text with '?' for halves of surrogate pairs, which JSON and Python can hold but no encoding can."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Fields:
    """The names of the fields of a record that hold a document's parts; None: make up a default."""

    text: str = "text"
    id: str | None = None
    source: str | None = None

    def document(self, record: dict, where: str, fallback_id: str, fallback_source: str) -> Document:
        """The document in `record`; `where` names the record in a ValueError when a field is missing or wrong."""
        text = self._value(record, self.text, "--text-field", where)
        if not isinstance(text, str):
            raise ValueError(f"{where}: field '{self.text}' is no text but {type(text).__name__}")
        name = self._value(record, self.id, "--id-field", where) if self.id else fallback_id
        source = self._value(record, self.source, "--source-field", where) if self.source else fallback_source
        if not isinstance(name, str | int) or not isinstance(source, str | int):
            raise ValueError(f"{where}: the fields for id and source must be texts or whole numbers")
        return Document(encodable(str(name)), encodable(text), encodable(str(source)))

    @staticmethod
    def _value(record: dict, field: str, option: str, where: str):
        if field not in record:
            raise ValueError(f"{where} has no field '{field}' (it has {', '.join(record)}): see {option}")
        return record[field]


def read_corpus(
    corpus: str,
    data_files: Sequence[str] = (),
    text_field: str = "text",
    id_field: str | None = None,
    source_field: str | None = None,
) -> Iterator[Document]:
    """The documents of a corpus, always in the same order, in constant memory.

    `data_files`: paths and globs, for `json` (one object a line), `parquet` and `text` (a file longer than
    PART characters is cut at line ends); `.gz`, `.bz2`, `.xz` and `.zst` are decompressed. An id that no
    field gives is '<file>:<running number>', a source that no field gives is the file's name without
    suffixes, or the corpus. Raises ValueError for an unknown corpus or missing files at once, and for bad
    records when they are reached.
    """
    if corpus not in CORPORA:
        raise ValueError(f"unknown corpus '{corpus}': choose one of {', '.join(CORPORA)}")
    fields = Fields(text_field, id_field, source_field)
    if corpus in FILE_CORPORA:
        reader = {"json": _read_json, "parquet": _read_parquet, "text": _read_text}[corpus]
        return _read_files(_expand(corpus, data_files), partial(reader, fields=fields))
    if data_files:
        raise ValueError(f"corpus {corpus} reads no --data-files; for your own files take --corpus json")
    if corpus == "openwebtext":
        return hub_documents(OPENWEBTEXT, corpus, fields)
    from pipeline.installed_docs import installed_documents

    return iter(installed_documents())


def estimated_characters(corpus: str, data_files: Sequence[str] = ()) -> int:
    """Roughly how many characters of text a corpus holds, without reading it."""
    if corpus == "openwebtext":
        return OPENWEBTEXT_CHARACTERS
    if corpus == "installed-docs":
        from pipeline.installed_docs import installed_documents

        return sum(len(document.text) for document in installed_documents())
    total = 0
    for path in _expand(corpus, data_files):
        packed = corpus == "parquet" or path.endswith(_COMPRESSIONS)
        total += os.path.getsize(path) * (_COMPRESSED_TO_TEXT if packed else 1)
    return total


def hub_documents(dataset: str, source: str, fields: Fields, **load) -> Iterator[Document]:
    """The `train` split of anything that `datasets` loads, streaming; `load` goes to load_dataset."""
    from datasets import load_dataset  # takes a second or two to import, and only this corpus needs it

    for number, row in enumerate(load_dataset(dataset, split="train", streaming=True, **load)):
        yield fields.document(row, f"{dataset}, row {number}", f"{source}:{number}", source)


def _expand(corpus: str, data_files: Sequence[str]) -> list[str]:
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


def _read_files(files: list[str], reader) -> Iterator[Document]:
    # Ids name a file from the folder that all files share, so two files of one name keep different ids.
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in files])
    for path in files:
        name = os.path.relpath(os.path.abspath(path), shared)
        try:
            yield from reader(path, name, _stem(path))
        except (
            OSError,
            EOFError,
            zlib.error,
            lzma.LZMAError,
            pa.ArrowException,
            UnicodeDecodeError,
        ) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def _stem(path: str) -> str:
    """The file's name without its compression's suffix and its format's: news.jsonl.gz -> news."""
    name = Path(path)
    return Path(name.stem).stem if name.suffix in _COMPRESSIONS else name.stem


def _open(path: str) -> io.TextIOBase:
    """The file's text, decompressed, without a byte order mark and with its line ends as they are."""
    suffix = Path(path).suffix
    if suffix == ".zst":
        return io.TextIOWrapper(pa.input_stream(path, compression="zstd"), encoding="utf-8-sig", newline="")
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(suffix, open)
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _read_json(path: str, name: str, source: str, fields: Fields) -> Iterator[Document]:
    with _open(path) as lines:
        number = 0
        for at, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {at} is no JSON ({error}); one object a line is expected") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {at} is no JSON object; one object a line is expected")
            yield fields.document(record, f"{path}, line {at}", f"{name}:{number}", source)
            number += 1


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
    with _open(path) as file:
        number = 0
        # Up to the first line end after PART characters; a file without line ends is cut all the same.
        while text := file.read(PART):
            yield Document(f"{name}:{number}", text + file.readline(PART), source)
            number += 1
