"""Conversations as samples: their masks by hand, what is cut off, and what a model is given of them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import webdataset
from tokenizers import Tokenizer

from pipeline.corpora.document import Document
from pipeline.dataset.manifest import SPLITS
from pipeline.dataset.reader import SplitReader, inputs_and_targets, plain
from pipeline.encoding.documents import Encoder
from pipeline.encoding.tokenizer import train_tokenizer
from pipeline.prepare.build import prepare
from pipeline.prepare.pack import ConversationPacker
from pipeline.prepare.recipe import Recipe
from pipeline.stream import CandidateStream

END = "<|endoftext|>"


def _forms(n):
    """A record of every form; no text comes twice."""
    talk = [{"role": who, "content": what} for who, what in (("user", f"a {n}"), ("assistant", "bé"))]
    return [
        {"messages": talk, "dataset": "talk"},
        {"prompt": f"c {n}", "completion": "漢"},
        {"instruction": "d", "input": f"e {n}", "output": "ff"},
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(["<|user|>\nab\n<|assistant|>\nab\n" * 3]), 290)


def _pack(tokenizer, length, *documents):
    """The samples as (tokens, mask, span, targets), and what was cut off."""
    encoder, samples = Encoder(tokenizer), []
    packer = ConversationPacker(length, 0, np.dtype("<u2"), samples.append)
    for one in encoder.encoded(documents, encoder.encode(documents)):
        packer.add(one)
    rows = [
        (np.frombuffer(s.tokens, "<u2").tolist(), np.frombuffer(s.mask, "u1").tolist(), *json.loads(s.spans), s.targets)
        for s in samples
    ]
    return rows, packer.finish()


def test_a_mask_by_hand(tokenizer):
    """Prompt, answer, end, line end, prompt, answer, end, line end, padding; a prompt's last letter before the answer
    would make one token with it, and does not."""
    document = Document("d", "ab" + "ab" + "\nb" + "a" + "\n", "s", loss=((2, 4), (6, 7)))
    ab, a, b, line = (tokenizer.token_to_id(token) for token in ("ab", "a", "b", "Ċ"))
    tokens = [ab, ab, 0, line, b, a, 0, line]
    rows, told = _pack(tokenizer, 9, document)
    span = {"document": "d", "source": "s", "first": 0, "last": 8}
    assert rows == [([*tokens, 0, 0], [0, 1, 1, 0, 0, 1, 1, 0, 0, 0], span, 4)]
    assert told == {"dropped_tokens": 0, "conversations": {"truncated": 0, "dropped": 0}}
    rows, told = _pack(tokenizer, 5, document)
    assert rows == [(tokens[:6], [0, 1, 1, 0, 0, 1], span | {"last": 7}, 3)]
    assert told == {"dropped_tokens": 1, "conversations": {"truncated": 1, "dropped": 0}}
    rows, told = _pack(tokenizer, 3, dataclasses.replace(document, loss=((6, 7),)))
    assert (rows, told) == ([], {"dropped_tokens": 2, "conversations": {"truncated": 1, "dropped": 1}})


def test_an_empty_answer_is_its_end(tokenizer):
    rows, _ = _pack(tokenizer, 4, Document("d", "a\n", "s", loss=((1, 1),)))
    line = tokenizer.token_to_id("Ċ")
    assert rows[0][:2] == ([tokenizer.token_to_id("a"), 0, line, 0, 0], [0, 1, 0, 0, 0])


def test_of_a_document_that_is_no_conversation_nothing_is_cut_off(tokenizer):
    rows, told = _pack(tokenizer, 3, Document("d", "ababab" + "a", "s"))
    ab, a = tokenizer.token_to_id("ab"), tokenizer.token_to_id("a")
    ids = tokenizer.encode("abababa").ids
    assert [*rows[0][0], *rows[1][0][1:]][: len(ids) + 1] == [*ids, 0]
    assert {ab, a} <= set(ids)
    assert [mask for _, mask, _, _ in rows] == [[0, 1, 1, 1], [0, *([1] * (len(ids) - 3)), *([0] * (6 - len(ids)))]]
    assert (sum(targets for *_, targets in rows), told["conversations"]["truncated"]) == (len(ids), 0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talks")
    lines = [json.dumps(form) for n in range(60) for form in _forms(n)]
    (folder / "talks.jsonl").write_text("\n".join(lines))
    return prepare(
        Recipe("instructions", folder / "data", (str(folder / "*.jsonl"),), vocab_size=270, seq_len=40, workers=1)
    )


def test_the_answers_and_their_ends_are_what_a_model_learns(dataset):
    assert (dataset.packing, dataset.masked) == ("conversation", True)
    tokenizer = Tokenizer.from_file(str(dataset.folder / "tokenizer.json"))
    said = {f"bé{END}", f"漢{END}", f"ff{END}"}
    for split in SPLITS:
        reader = SplitReader(dataset, split)
        ids = np.arange(reader.samples)
        tokens, marked = reader.tokens(ids), reader.marked(ids)
        assert (plain(marked, dataset) == tokens).all()
        assert plain(marked, dataset).dtype == tokens.dtype
        inputs, targets = inputs_and_targets(marked, dataset)
        assert (inputs.numpy() == tokens[:, :-1]).all()
        kept = [row[row >= 0].tolist() for row in targets]
        assert {tokenizer.decode(row, skip_special_tokens=False) for row in kept} <= said
        assert sum(map(len, kept)) == sum(shard.tokens for shard in dataset.shards[split])
    with pytest.raises(AssertionError, match="plain tokens"):
        inputs_and_targets(tokens, dataset)


def test_plain_webdataset_reads_the_mask(dataset):
    (shard,) = dataset.shards["train"]
    blocks = list(webdataset.WebDataset(str(dataset.folder / shard.name), shardshuffle=False).decode())
    masks = np.concatenate([block["mask.npy"] for block in blocks])
    assert (masks.dtype, masks.shape) == (np.uint8, (shard.samples, 41))
    marked = SplitReader(dataset).marked(np.arange(shard.samples))
    assert ((marked >= 0) == masks).all()
    assert masks.sum() == shard.tokens


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stream_brings_the_marks_and_features_of_plain_tokens(dataset, workers):
    stream = CandidateStream(
        dataset, groups=2, drawn=3, seed=0, lanes=[0, 1], workers=workers, features=np.ascontiguousarray
    )
    candidates, reader = next(iter(stream)), SplitReader(dataset)
    for ids, tokens, features in zip(
        candidates.sample_ids_Gn, candidates.tokens_GnT1, candidates.features_GnF, strict=True
    ):
        assert (tokens.numpy() == reader.marked(ids)).all()
        assert (features == reader.tokens(ids)).all()
        assert features.dtype == np.uint16


def test_a_damaged_mask_is_found(dataset, tmp_path):
    shutil.copytree(dataset.folder, tmp_path / "data")
    path = tmp_path / "data" / dataset.shards["train"][0].name
    path.write_bytes(path.read_bytes().replace(b"'|u1'", b"'|i1'", 1))
    with pytest.raises(ValueError, match=r"something else than 64 samples of 41 uint8 tokens in 000000000.mask.npy"):
        SplitReader(tmp_path / "data").tokens([0])


def test_where_no_mask_is_kept_instructions_are_refused(tmp_path):
    recipe = Recipe("instructions", tmp_path / "data", ("x.jsonl",), packing="concat")
    with pytest.raises(ValueError, match="--packing concat has no mask, and corpus instructions has loss on part"):
        prepare(recipe)


def test_a_conversation_too_long_for_any_answer_is_dropped_and_counted(tmp_path):
    talks = [{"id": str(n), "prompt": f"{n} " * (40 if n % 2 else 1), "completion": "yes"} for n in range(80)]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    recipe = Recipe("instructions", tmp_path / "data", (str(tmp_path / "talks.jsonl"),), vocab_size=280, seq_len=30)
    manifest = prepare(dataclasses.replace(recipe, target_fraction=0.2, val_fraction=0.2, test_fraction=0.2))
    assert sum(counts["dropped"] for counts in manifest.conversations.values()) == 40
    assert sum(counts["truncated"] for counts in manifest.conversations.values()) == 40
    assert sum(manifest.samples(split) for split in SPLITS) == 40
    recipe = dataclasses.replace(recipe, out=tmp_path / "none", seq_len=3)
    with pytest.raises(ValueError, match=r"split train has no sample: none of its .* conversations has a target"):
        prepare(recipe)


def test_target_files_are_instructions_too_and_other_text_may_be_the_pool(tmp_path):
    for name in ("pool", "task"):
        talks = [{"id": f"{name}-{n}", "prompt": f"{name} {n}", "completion": "yes"} for n in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, talks)))
    (tmp_path / "words.txt").write_text("yes or no. " * 200)
    pool, task = str(tmp_path / "pool.jsonl"), str(tmp_path / "task.jsonl")
    small = {"vocab_size": 280, "seq_len": 30, "workers": 1}
    aimed = prepare(Recipe("instructions", tmp_path / "aimed", (pool,), target_files=(task,), **small))
    text = f'[[corpora]]\nname = "words"\ncorpus = "text"\ndata_files = ["{tmp_path}/words.txt"]\n'
    text += f'[[corpora]]\nname = "task"\nrole = "target"\ncorpus = "instructions"\ndata_files = ["{task}"]\n'
    (tmp_path / "mix.toml").write_text(text)
    mixed = prepare(Recipe(out=tmp_path / "mixed", recipe=tmp_path / "mix.toml", **small))
    assert mixed.packing == aimed.packing == "conversation"
    for dataset in (aimed, mixed):
        for split in SPLITS[1:]:
            marked = SplitReader(dataset, split).marked(np.arange(dataset.samples(split)))
            assert (marked[:, 0] < 0).all()
            assert set((marked >= 0).sum(1)) <= set(range(1, 10))
            (span,) = SplitReader(dataset, split).spans(0)
            assert span.document.startswith(("target:task-", "task:task-"))
    marked = SplitReader(mixed).marked(np.arange(mixed.samples("train") - 1))
    assert (marked[:, 1:] >= 0).sum(1).min() > 10
