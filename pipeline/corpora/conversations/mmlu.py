"""MMLU (arXiv 2009.03300): CSV files of its dev, val and test folders, one for each subject, without a header.

A row is a question, its choices A to D, and the letter of the right one. The prompt is that of its authors, without
examples. The source is the subject.
"""

import csv
import re
from collections.abc import Iterator

from ..document import encodable
from ..files import open_text
from .task import Item, task

LETTERS = ("A", "B", "C", "D")


def items(path: str, name: str, source: str) -> Iterator[Item]:
    """ValueError naming the file and row of one that is no question."""
    subject = re.sub(r"_(dev|val|test)$", "", source)
    about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
    with open_text(path) as file:
        for number, row in enumerate(csv.reader(file)):
            where = f"{path}, row {number + 1}"
            if len(row) != 6:
                raise ValueError(f"{where} has {len(row)} columns: a question, four choices and a letter are expected")
            question, *choices, answer = (encodable(cell).strip() for cell in row)
            if answer not in LETTERS:
                raise ValueError(f"{where}: the answer is '{answer}'; it must be one of {', '.join(LETTERS)}")
            listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
            prompt = "\n".join([about, "", question, *listed, "Answer:"])
            yield Item(where, f"{name}:{number}", subject, prompt, (answer,), LETTERS)


MMLU = task(items)
