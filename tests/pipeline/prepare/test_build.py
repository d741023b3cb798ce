"""What `prepare` makes of a small corpus."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline.dataset.manifest import SPLITS, Manifest
from pipeline.dataset.reader import SplitReader, inputs_and_targets
from pipeline.encoding.tokenizer import load_tokenizer
from pipeline.mixture.registry import read_corpus
from pipeline.prepare.build import prepare
from pipeline.prepare.verify import verify

DOCUMENTS = 300  # of the corpus in conftest.py


@pytest.fixture(scope="module")
def texts(recipe):
    return {d.id: d.text for one in recipe.ingredients for d in one.documents() if d.text}


def _bytes(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _spans(manifest, split):
    reader = SplitReader(manifest.folder, split)
    return [reader.spans(sample) for sample in range(reader.samples)]


def test_the_same_input_gives_the_same_bytes(recipe, dataset, tmp_path):
    again = prepare(dataclasses.replace(recipe, out=tmp_path / "again"))
    assert again.sha256 == dataset.sha256
    assert _bytes(again.folder) == _bytes(dataset.folder)
    assert not (tmp_path / "again.partial").exists()


def test_another_seed_gives_other_splits(recipe, dataset, tmp_path):
    other = prepare(dataclasses.replace(recipe, out=tmp_path / "other", seed=1))
    assert {s.document for spans in _spans(other, "val") for s in spans} != {
        s.document for spans in _spans(dataset, "val") for s in spans
    }


def test_the_manifest_records_what_was_done(recipe, dataset):
    assert (dataset.sequence_length, dataset.packing) == (16, "concat")
    tokens = sum(counts["tokens"] for split in SPLITS for counts in dataset.sources[split].values())
    files = list(recipe.data_files)
    taken = {"documents": DOCUMENTS, "tokens": tokens}
    assert dataset.corpora == [
        {"corpus": "json", "role": "pool", "data_files": files, "id_field": "key", "taken": taken}
    ]
    assert (dataset.vocab_size, dataset.end_of_text, dataset.dtype.name) == (300, 0, "uint16")
    rule = dataset.split_rule
    assert (rule["seed"], rule["target"], rule["val"], rule["test"], rule["target_sources"]) == (
        0,
        0.2,
        0.2,
        0.2,
        ["prose"],
    )
    documents = [counts["documents"] for split in SPLITS for counts in dataset.sources[split].values()]
    assert sum(documents) == DOCUMENTS
    tokenizer = load_tokenizer(dataset.folder / "tokenizer.json")
    assert tokenizer.get_vocab_size() == 300
    for split in SPLITS:
        tokens = sum(counts["tokens"] + counts["documents"] for counts in dataset.sources[split].values())
        assert sum(shard.tokens for shard in dataset.shards[split]) == dataset.samples(split) * 16
        assert tokens - 1 - dataset.dropped_tokens[split] == dataset.samples(split) * 16
    assert len(dataset.shards["train"]) > 3
    assert all(shard.bytes <= 50_000 for split in SPLITS for shard in dataset.shards[split])
    assert all(problem is None for _, problem in verify(dataset))


def test_splits_share_no_document_and_only_wanted_sources_are_held_out(dataset):
    documents = {split: {s.document for spans in _spans(dataset, split) for s in spans} for split in SPLITS}
    for split in SPLITS[1:]:
        assert {document.split("-")[0] for document in documents[split]} == {"prose"}
        for other in SPLITS:
            assert split == other or not documents[split] & documents[other]
    assert set(dataset.sources["train"]) == {"code", "prose"}
    assert {source for split in SPLITS[1:] for source in dataset.sources[split]} == {"prose"}


@pytest.mark.parametrize("packing", ["concat", "document"])
def test_texts_come_back_through_the_spans(recipe, dataset, texts, tmp_path, packing):
    if packing == "document":
        dataset = prepare(dataclasses.replace(recipe, out=tmp_path / "data", packing="document"))
    tokenizer = load_tokenizer(dataset.folder / "tokenizer.json")
    covered = defaultdict(list)
    for split in SPLITS:
        reader = SplitReader(dataset.folder, split)
        tokens = reader.tokens(range(reader.samples))
        _, targets = inputs_and_targets(tokens, dataset)
        assert int((targets >= 0).sum()) == sum(shard.tokens for shard in dataset.shards[split])
        for sample in range(reader.samples):
            spans = reader.spans(sample)
            for span in spans:
                covered[span.document].append((span.first, span.last))
            decoded = tokenizer.decode([token for token in tokens[sample].tolist() if token != 0])
            if "\ufffd" not in decoded:  # no character is cut at the sample's edge
                assert decoded == "".join(texts[span.document][span.first : span.last] for span in spans)
    whole = 0
    for document, stretches in covered.items():
        stretches.sort()
        assert stretches[0][0] == 0
        assert all(begin <= end for (_, end), (begin, _) in zip(stretches[1:], stretches, strict=False))
        whole += stretches[-1][1] == len(texts[document])
    # Of each split's last document the end may have been dropped; every other text is there to its end.
    assert whole >= len(texts) - (len(SPLITS) if packing == "concat" else 0)


def test_train_samples_are_in_random_order(dataset):
    """The input came sorted by source; every tenth of the shards holds its share of each."""
    sources = [spans[-1].source for spans in _spans(dataset, "train")]
    share = sources.count("prose") / len(sources)
    size = len(sources) // 4
    for quarter in range(4):
        part = sources[quarter * size : (quarter + 1) * size]
        assert abs(part.count("prose") / size - share) < 0.1
    held_out = [int(spans[0].document.split("-")[1]) for spans in _spans(dataset, "val")]
    assert held_out == sorted(held_out)


def test_a_given_tokenizer_is_kept(recipe, dataset, tmp_path):
    path = dataset.folder / "tokenizer.json"
    kept = prepare(dataclasses.replace(recipe, out=tmp_path / "kept", tokenizer=str(path), vocab_size=None))
    assert kept.tokenizer_sha256 == dataset.tokenizer_sha256
    assert _bytes(kept.folder) == _bytes(dataset.folder)


def test_the_tokenizer_learns_from_train_documents_only(recipe, tmp_path, monkeypatch):
    from pipeline.prepare import build, learn

    texts = []
    train = build.trained_tokenizer
    monkeypatch.setattr(
        build, "trained_tokenizer", lambda it, *more: train([texts.append(text) or text for text in it], *more)
    )
    dataset = prepare(dataclasses.replace(recipe, out=tmp_path / "data"))
    rule = recipe.split_rule()
    (corpus,) = recipe.ingredients
    expected = [d.text for d in corpus.documents() if rule.deals(d.digest) == "train"]
    assert texts == expected
    assert len(texts) < DOCUMENTS
    # Of a large corpus, a sample from beginning to end.
    texts.clear()
    monkeypatch.setattr(learn, "_CHARACTERS", 40_000)
    prepare(dataclasses.replace(recipe, out=tmp_path / "sampled"))
    assert 8_000 < sum(map(len, texts)) < 32_000  # 40 % of that: the text of the others may be held out
    assert set(texts) < set(expected)
    assert dataset.samples("train") > 0


def test_many_sources_keep_the_manifest_small(recipe, corpus, tmp_path, monkeypatch):
    from pipeline.prepare import build as module

    monkeypatch.setattr(module, "_SOURCES", 5)
    changed = {"source_field": "key", "target_sources": (), "out": tmp_path / "data"}
    dataset = prepare(dataclasses.replace(recipe, **changed))
    counts = dataset.sources["train"]
    assert len(counts) == 6
    assert counts["(other sources)"]["documents"] == sum(c["documents"] for c in counts.values()) - 5


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"target_sources": ("verse",)}, "split target has no sample.*target source verse; sources: code, prose"),
        ({"val_fraction": 1e-9}, "split val has no sample: 0 documents fell to it.*Raise --val-fraction"),
        ({"seq_len": 100_000}, "split train has no sample: .* of 100001 tokens. Lower"),
    ],
)
def test_an_empty_split_is_an_error_that_leaves_nothing(recipe, tmp_path, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        prepare(dataclasses.replace(recipe, out=tmp_path / "data", **changed))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_never_overwritten(recipe, dataset, tmp_path):
    before = _bytes(dataset.folder)
    with pytest.raises(ValueError, match="is a finished dataset: remove it or choose another"):
        prepare(recipe)
    assert _bytes(dataset.folder) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is no empty folder"):
        prepare(dataclasses.replace(recipe, out=tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_progress_knows_the_totals(recipe, tmp_path):
    seen = {}

    def watch(what, things, total):
        things = list(things)
        seen[what] = (len(things), total)
        return iter(things)

    dataset = prepare(dataclasses.replace(recipe, out=tmp_path / "data"), watch)
    everything = len(list(read_corpus("json", recipe.data_files)))
    assert seen == {
        "reading text for the tokenizer": (everything, None),
        "encoding documents": (everything, everything),
        "writing train shards": (dataset.samples("train"), dataset.samples("train")),
    }
    assert Manifest.load(tmp_path / "data").sha256 == dataset.sha256
