"""Every corpus that `prepare` knows, by name."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, get_args

from pipeline.corpora.document import Document, Fields
from pipeline.corpora.files import (
    _COMPRESSED_TO_TEXT,
    _COMPRESSIONS,
    _expand,
    _read_files,
    _read_json,
    _read_parquet,
    _read_text,
)
from pipeline.corpora.hub import OPENWEBTEXT, OPENWEBTEXT_CHARACTERS, hub_documents

Corpus = Literal["openwebtext", "json", "parquet", "text", "installed-docs"]
CORPORA = get_args(Corpus)
FILE_CORPORA = ("json", "parquet", "text")


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
    from pipeline.corpora.installed_docs import installed_documents

    return iter(installed_documents())


def estimated_characters(corpus: str, data_files: Sequence[str] = ()) -> int:
    """Roughly how many characters of text a corpus holds, without reading it."""
    if corpus == "openwebtext":
        return OPENWEBTEXT_CHARACTERS
    if corpus == "installed-docs":
        from pipeline.corpora.installed_docs import installed_documents

        return sum(len(document.text) for document in installed_documents())
    total = 0
    for path in _expand(corpus, data_files):
        packed = corpus == "parquet" or path.endswith(_COMPRESSIONS)
        total += os.path.getsize(path) * (_COMPRESSED_TO_TEXT if packed else 1)
    return total
