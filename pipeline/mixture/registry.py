"""Every corpus that `prepare` knows, by name. A new one is a file of pipeline/corpora, and a line here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..corpora.conversations.instructions import INSTRUCTIONS
from ..corpora.conversations.mmlu import MMLU
from ..corpora.conversations.samsum import SAMSUM
from ..corpora.conversations.tydiqa import TYDIQA
from ..corpora.corpus import Asked, Corpus
from ..corpora.document import Document
from ..corpora.files import JSON, PARQUET, TEXT, expand
from ..corpora.hub import HUB, OPENWEBTEXT
from ..corpora.installed_docs import INSTALLED_DOCS
from ..corpora.webdataset import WEBDATASET

CORPORA: dict[str, Corpus] = {
    "openwebtext": OPENWEBTEXT,
    "hub": HUB,
    "json": JSON,
    "parquet": PARQUET,
    "text": TEXT,
    "instructions": INSTRUCTIONS,
    "mmlu": MMLU,
    "tydiqa": TYDIQA,
    "samsum": SAMSUM,
    "webdataset": WEBDATASET,
    "installed-docs": INSTALLED_DOCS,
}


def read_corpus(name: str, data_files: Sequence[str] = (), **asked) -> Iterator[Document]:
    """The documents of a corpus, always in the same order, in constant memory.

    `data_files`: paths and globs, for corpora of files; `asked`: the other fields of Asked. An id that no field gives
    is '<file>:<running number>', a source that no field gives is the file's name without suffixes, or the corpus.
    Raises ValueError at once for an unknown corpus, for what it does not read and for missing files, and for bad
    records when they are reached.
    """
    corpus, chosen = _chosen(name, data_files, asked)
    return corpus.read(chosen)


def estimated_characters(name: str, data_files: Sequence[str] = (), **asked) -> int:
    """Roughly how many characters of text a corpus holds, without reading it."""
    corpus, chosen = _chosen(name, data_files, asked)
    return corpus.characters(chosen)


def _chosen(name: str, data_files: Sequence[str], asked: dict) -> tuple[Corpus, Asked]:
    if name not in CORPORA:
        raise ValueError(f"unknown corpus '{name}': choose one of {', '.join(CORPORA)}")
    corpus, chosen = CORPORA[name], Asked(tuple(data_files), **asked)
    reads = ("data_files", *corpus.reads) if corpus.of_files else corpus.reads
    if data_files and "data_files" not in reads:
        raise ValueError(f"corpus {name} reads no --data-files; for your own files take --corpus json")
    for option in chosen.given():
        if option not in reads:
            raise ValueError(f"corpus {name} reads no --{option.replace('_', '-')}: leave it out")
    if corpus.of_files:
        chosen = replace(chosen, data_files=tuple(expand(name, data_files)))
    return corpus, chosen
