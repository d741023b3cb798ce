"""Datasets of several corpora: where the splits come from, and what the manifest says."""

import json
import random

import pytest

from pipeline.dataset.manifest import HELD_OUT, SPLITS
from pipeline.dataset.reader import SplitReader
from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe

WORDS = "a model reads text and predicts what comes next in every line of it".split()


@pytest.fixture
def files(tmp_path):
    """files(name, documents) -> the path of a JSON Lines file of that name."""

    def write(name, documents, words=60):
        draw = random.Random(name)
        rows = [json.dumps({"text": " ".join(draw.choices(WORDS, k=words))}) + "\n" for _ in range(documents)]
        (tmp_path / name).write_text("".join(rows))
        return str(tmp_path / name)

    return write


def _documents(manifest, split):
    reader = SplitReader(manifest.folder, split)
    return {span.document for sample in range(reader.samples) for span in reader.spans(sample)}


def test_target_files_are_all_of_the_held_out_splits_and_none_of_the_pool(files, tmp_path):
    pool, target = files("pool.jsonl", 100), files("mine.jsonl", 60)
    small = {"vocab_size": 280, "seq_len": 16}
    dataset = prepare(Recipe("json", tmp_path / "data", (pool,), target_files=(target,), **small))
    documents = {split: _documents(dataset, split) for split in SPLITS}
    assert documents["train"] == {f"pool.jsonl:{i}" for i in range(100)}
    held_out = [documents[split] for split in HELD_OUT]
    assert set.union(*held_out) == {f"target:mine.jsonl:{i}" for i in range(60)}
    assert sum(map(len, held_out)) == 60
    assert min(map(len, held_out)) > 10  # a third each
    assert dataset.split_rule["target"] == dataset.split_rule["test"] == pytest.approx(1 / 3)
    assert dataset.split_rule["target_corpora"] == ["target"]
    assert {split: set(dataset.sources[split]) for split in SPLITS} == {
        "train": {"pool"},
        **{split: {"target"} for split in HELD_OUT},
    }
    told = [{key: one[key] for key in ("corpus", "role", "data_files")} for one in dataset.corpora]
    assert told == [
        {"corpus": "json", "role": "pool", "data_files": [pool]},
        {"corpus": "json", "role": "target", "data_files": [target]},
    ]
    assert [one["taken"]["documents"] for one in dataset.corpora] == [100, 60]
    # The same by a recipe file, but for the name of the pool.
    (tmp_path / "mix.toml").write_text(
        f'[[corpora]]\nname = "pool"\ncorpus = "json"\ndata_files = ["{pool}"]\n'
        f'[[corpora]]\nname = "target"\nrole = "target"\ncorpus = "json"\ndata_files = ["{target}"]\n'
    )
    again = prepare(Recipe(out=tmp_path / "again", recipe=tmp_path / "mix.toml", **small))
    for split in HELD_OUT:
        assert again.shards[split] == dataset.shards[split]
    assert _documents(again, "train") == {f"pool:{document}" for document in documents["train"]}


def test_fractions_deal_the_target_files(files, tmp_path):
    recipe = Recipe("json", tmp_path / "data", (files("pool.jsonl", 50),), target_files=(files("mine.jsonl", 300),))
    fractions = {"target_fraction": 0.2, "val_fraction": 0.2, "test_fraction": 0.4}
    recipe = Recipe(**{**vars(recipe), **fractions, "vocab_size": 280, "seq_len": 16})
    dataset = prepare(recipe)
    counts = {split: dataset.sources[split]["target"]["documents"] for split in HELD_OUT}
    assert sum(counts.values()) == 300
    assert counts["test"] / 300 == pytest.approx(0.5, abs=0.09)


def test_a_recipe_takes_what_it_says_of_every_corpus(files, tmp_path):
    (tmp_path / "mix.toml").write_text(
        f'[[corpora]]\nname = "a"\ncorpus = "json"\ndata_files = ["{files("a.jsonl", 400)}"]\nweight = 3\n'
        f'[[corpora]]\nname = "b"\ncorpus = "json"\ndata_files = ["{files("b.jsonl", 300, 20)}"]\nweight = 1\n'
        f'[[corpora]]\nname = "c"\ncorpus = "json"\ndata_files = ["{files("c.jsonl", 300)}"]\ntokens = 5_000\n'
    )
    recipe = {"vocab_size": 290, "seq_len": 16, "target_sources": ("c", "b"), "recipe": tmp_path / "mix.toml"}
    dataset = prepare(Recipe(out=tmp_path / "data", **recipe, val_fraction=0.1, test_fraction=0.1))
    taken = {one["name"]: one["taken"] for one in dataset.corpora}
    assert taken["c"]["tokens"] == pytest.approx(5_000, rel=0.02)
    assert taken["a"]["tokens"] / taken["b"]["tokens"] == pytest.approx(3, rel=0.02)
    assert max(taken["a"]["documents"] / 400, taken["b"]["documents"] / 300) == 1
    assert {source for split in HELD_OUT for source in dataset.sources[split]} == {"b", "c"}
    assert (
        prepare(Recipe(out=tmp_path / "again", **recipe, val_fraction=0.1, test_fraction=0.1)).sha256 == dataset.sha256
    )


@pytest.mark.parametrize(
    ("pool", "target", "sentence"),
    [
        (50, 0, r"corpus 'target' \(json\) holds no document"),
        (0, 50, "corpus json holds no document"),
        (
            50,
            2,
            "split .* has no sample: [01] documents fell to it.*Give more target text, lower --seq-len, or raise --",
        ),
    ],
)
def test_an_empty_corpus_is_an_error_that_leaves_nothing(files, tmp_path, pool, target, sentence):
    out = tmp_path / "out" / "data"
    recipe = Recipe("json", out, (files("p.jsonl", pool),), target_files=(files("t.jsonl", target),), vocab_size=280)
    with pytest.raises(ValueError, match=sentence):
        prepare(recipe)
    assert list((tmp_path / "out").iterdir()) == []
