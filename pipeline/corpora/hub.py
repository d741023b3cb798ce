"""Documents from anything that `datasets` loads, streaming: from the hub or a folder; OpenWebText among it.

Code that a dataset brings is never run: `datasets` refuses it, and nothing here asks for it. A connection that is lost
in the middle is tried again from the row where it was lost.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .corpus import RECORD, Asked, Corpus
from .document import Document
from .taken_up import one_line, taken_up

_OPENWEBTEXT = "Skylion007/openwebtext"
_PLAIN = (".json", ".jsonl", ".txt", ".csv", ".tsv")
_PACKED_TO_TEXT = 3  # a rough ratio of characters to bytes of files that are compressed


def _read(asked: Asked) -> Iterator[Document]:
    if not asked.dataset:
        raise ValueError("corpus hub needs --dataset: a name on the hub as 'owner/name', or a folder of data files")
    return _documents(asked, Path(asked.dataset).name)


def _documents(asked: Asked, source: str) -> Iterator[Document]:
    for number, row in enumerate(_rows(asked)):
        yield asked.fields.document(row, f"{asked.dataset}, row {number}", f"{source}:{number}", source)


def _rows(asked: Asked) -> Iterator[dict]:
    """The rows in their order. ValueError where they cannot be had."""
    from huggingface_hub.errors import HTTPError  # of a connection; with `datasets` it takes a second to import

    state = None  # the stream's own, after the last row

    def rows_from(_: int) -> Iterator[dict]:
        nonlocal state
        stream = _load(asked)
        if state:
            stream.load_state_dict(state)
        for row in stream:
            state = stream.state_dict()
            yield row

    def lost(error: Exception) -> bool:
        return isinstance(error, OSError | HTTPError) and not Path(asked.dataset).exists()

    return taken_up(asked.dataset, rows_from, lost)


def _load(asked: Asked):
    from datasets import load_dataset  # takes a second or two to import, and only this corpus needs it

    try:
        return load_dataset(
            asked.dataset, name=asked.subset, split=asked.split, revision=asked.revision, streaming=True
        )
    except StopIteration:  # so `datasets` tells it
        raise ValueError("its first file is empty") from None


def _characters(asked: Asked) -> int:
    """What the dataset's card says, or else a guess by the size of its files."""
    import fsspec
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(asked.dataset, name=asked.subset, revision=asked.revision)
        told = (builder.info.splits or {}).get(asked.split)
        if told and told.num_bytes:
            return told.num_bytes
        files = (builder.config.data_files or {}).get(asked.split, [])
        sizes = ((path, fsspec.core.url_to_fs(path)) for path in map(str, files))
        return sum(fs.size(at) * (1 if path.endswith(_PLAIN) else _PACKED_TO_TEXT) for path, (fs, at) in sizes)
    except Exception as error:
        raise ValueError(f"{asked.dataset} cannot be loaded: {one_line(error)}") from error


# Its beginning is taken for a fair sample: reading all of it twice would fetch it twice.
HUB = Corpus(_read, _characters, reads=("dataset", "subset", "split", "revision", *RECORD), mixed=True)
OPENWEBTEXT = Corpus(
    lambda asked: _documents(replace(asked, dataset=_OPENWEBTEXT), "openwebtext"),
    lambda asked: 39_769_000_000,
    reads=("revision",),
    documents=8_013_769,  # by its dataset card
    mixed=True,
)
