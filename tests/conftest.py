"""A small prepared dataset of two sources, shared by the tests that train."""

import json
import random

import pytest
import torch

from scripts.prepare.__main__ import main as prepare

torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it brings

TEXT = "the model reads text and predicts what word comes next in every line of it"
WORDS = TEXT.split()


def _documents(draw: random.Random):
    """Sentences of few words in fixed order, which can be learnt, and letters drawn at random, which cannot."""
    for number in range(160):
        start = draw.randrange(len(WORDS))
        text = " ".join((WORDS * 6)[start : start + 50 + number % 20])  # few are copies: these share a split
        yield {"id": f"words-{number}", "source": "words", "text": text}
        noise = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=180))
        yield {"id": f"noise-{number}", "source": "noise", "text": noise}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Path of a dataset with T = 16, a vocabulary of 280, and `words` as its target source."""
    folder = tmp_path_factory.mktemp("dataset")
    lines = [json.dumps(document) + "\n" for document in _documents(random.Random(0))]
    (folder / "corpus.jsonl").write_text("".join(lines))
    options = ["--corpus", "json", "--data-files", str(folder / "corpus.jsonl"), "--target-sources", "words"]
    options += ["--source-field", "source", "--id-field", "id", "--vocab-size", "280", "--seq-len", "16"]
    options += ["--target-fraction", "0.2", "--val-fraction", "0.2", "--test-fraction", "0.2"]
    assert prepare([*options, "--out", str(folder / "data")]) == 0
    return folder / "data"
