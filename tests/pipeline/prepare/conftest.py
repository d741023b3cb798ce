"""A small corpus of two sources, and the dataset that is made of it."""

import json
import random

import pytest

from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe

WORDS = [
    "a",
    "model",
    "reads",
    "text",
    "and",
    "predicts",
    "what",
    "comes",
    "next",
    "über",
    "漢字",
    "🎉",
    "<|endoftext|>",
]
DOCUMENTS = 300


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Two files, each a source; the larger one comes first and holds what is not wanted."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for name, count in (("code", DOCUMENTS * 2 // 3), ("prose", DOCUMENTS // 3)):
        with open(folder / f"{name}.jsonl", "w") as file:
            for i in range(count):
                text = " ".join(draw.choices(WORDS, k=draw.randint(5, 120)))
                file.write(json.dumps({"text": text, "key": f"{name}-{i}"}) + "\n")
        with open(folder / f"{name}.jsonl", "a") as file:
            file.write(json.dumps({"text": "", "key": f"{name}-empty"}) + "\n")
    return folder


@pytest.fixture(scope="session")
def recipe(corpus, tmp_path_factory):
    return Recipe(
        corpus="json",
        out=tmp_path_factory.mktemp("out") / "data",
        data_files=(str(corpus / "*.jsonl"),),
        id_field="key",
        target_sources=("prose",),
        target_fraction=0.2,
        val_fraction=0.2,
        test_fraction=0.2,
        vocab_size=300,
        seq_len=16,
        shard_size=0.05,
    )


@pytest.fixture(scope="session")
def dataset(recipe):
    return prepare(recipe)
