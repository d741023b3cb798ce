"""Every corpus that `prepare` knows, by name. A new one is a file of this folder, and a line here."""

from collections.abc import Iterator, Sequence

from .corpus import Corpus
from .document import Document, Fields
from .files import JSON, PARQUET, TEXT, expand
from .hub import OPENWEBTEXT
from .installed_docs import INSTALLED_DOCS

CORPORA: dict[str, Corpus] = {
    "openwebtext": OPENWEBTEXT,
    "json": JSON,
    "parquet": PARQUET,
    "text": TEXT,
    "installed-docs": INSTALLED_DOCS,
}


def read_corpus(
    name: str,
    data_files: Sequence[str] = (),
    text_field: str = "text",
    id_field: str | None = None,
    source_field: str | None = None,
) -> Iterator[Document]:
    """The documents of a corpus, always in the same order, in constant memory.

    `data_files`: paths and globs, for corpora of files. An id that no field gives is '<file>:<running number>', a
    source that no field gives is the file's name without suffixes, or the corpus. Raises ValueError for an unknown
    corpus or missing files at once, and for bad records when they are reached.
    """
    corpus, files = _chosen(name, data_files)
    return corpus.read(files, Fields(text_field, id_field, source_field))


def estimated_characters(name: str, data_files: Sequence[str] = ()) -> int:
    """Roughly how many characters of text a corpus holds, without reading it."""
    corpus, files = _chosen(name, data_files)
    return corpus.characters(files)


def _chosen(name: str, data_files: Sequence[str]) -> tuple[Corpus, list[str]]:
    if name not in CORPORA:
        raise ValueError(f"unknown corpus '{name}': choose one of {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    if corpus.of_files:
        return corpus, expand(name, data_files)
    if data_files:
        raise ValueError(f"corpus {name} reads no --data-files; for your own files take --corpus json")
    return corpus, []
