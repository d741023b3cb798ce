"""Documents from anything that `datasets` loads, streaming; OpenWebText among it."""

from collections.abc import Iterator

from .corpus import Corpus
from .document import Document, Fields

_NAME = "Skylion007/openwebtext"


def hub_documents(dataset: str, source: str, fields: Fields, **load) -> Iterator[Document]:
    """The `train` split of anything that `datasets` loads, streaming; `load` goes to load_dataset."""
    from datasets import load_dataset  # takes a second or two to import, and only this corpus needs it

    for number, row in enumerate(load_dataset(dataset, split="train", streaming=True, **load)):
        yield fields.document(row, f"{dataset}, row {number}", f"{source}:{number}", source)


OPENWEBTEXT = Corpus(
    lambda files, fields: hub_documents(_NAME, "openwebtext", fields),
    lambda files: 39_769_000_000,
    documents=8_013_769,  # by its dataset card
    mixed=True,
)
