import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.document import Document
from pipeline.dataset.reader import inputs_and_targets, trimmed
from pipeline.encoding.documents import Encoder
from pipeline.encoding.tokenizer import train_tokenizer
from pipeline.prepare.pack import ConcatPacker, DocumentPacker

END = 0
TEXTS = st.lists(st.text("ab é漢🎉 \n", max_size=30), max_size=8)
LENGTHS = st.integers(1, 12)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(["ab ab é漢🎉 a b\n"] * 3), 275)


def _pack(packer, tokenizer, texts, length):
    documents = [Document(f"d{i}", text, f"s{i % 2}") for i, text in enumerate(texts) if text]
    encoder = Encoder(tokenizer)
    encoded = list(encoder.encoded(documents, encoder.encode(documents))) if documents else []
    samples = []
    packer = packer(length, END, np.dtype("<u2"), samples.append)
    for one in encoded:
        packer.add(one)
    dropped = packer.finish()["dropped_tokens"]
    rows = [(np.frombuffer(s.tokens, dtype="<u2").tolist(), json.loads(s.spans), s.targets) for s in samples]
    return encoded, rows, dropped


def _check_spans(tokenizer, encoded, tokens, spans):
    """The texts of a sample's spans are what its tokens say, but for characters cut in the middle."""
    texts = {one.document.id: one.document for one in encoded}
    said = [part for part in "".join(chr(0) if t == END else chr(1) for t in tokens).split(chr(0)) if part]
    assert len(spans) == len(said)
    for span in spans:
        document = texts[span["document"]]
        assert span["source"] == document.source
        assert 0 <= span["first"] < span["last"] <= len(document.text)
    decoded = tokenizer.decode([t for t in tokens if t != END])
    spelt = "".join(texts[span["document"]].text[span["first"] : span["last"]] for span in spans)
    if "\ufffd" not in decoded:
        assert decoded == spelt


@settings(max_examples=150, deadline=None)
@given(TEXTS, LENGTHS)
def test_concat(tokenizer, texts, length):
    encoded, rows, dropped = _pack(ConcatPacker, tokenizer, texts, length)
    line = [token for one in encoded for token in [*one.ids.tolist(), END]]
    whole = max(len(line) - 1, 0) // length
    assert [tokens for tokens, _, _ in rows] == [line[i * length : i * length + length + 1] for i in range(whole)]
    assert dropped == max(len(line) - 1, 0) - whole * length
    for tokens, spans, targets in rows:
        assert targets == length
        _check_spans(tokenizer, encoded, tokens, spans)
    # Put end to end, the spans of neighbours give back every text that is not cut off.
    if rows and not dropped:
        last = {span["document"]: span["last"] for _, spans, _ in rows for span in spans}
        assert last == {one.document.id: len(one.document.text) for one in encoded}


@settings(max_examples=150, deadline=None)
@given(TEXTS, LENGTHS)
def test_document(tokenizer, texts, length):
    encoded, rows, dropped = _pack(DocumentPacker, tokenizer, texts, length)
    assert dropped == 0
    expected = []
    for one in encoded:
        ids = [*one.ids.tolist(), END]
        for first in range(0, len(ids) - 1, length):
            chunk = ids[first : first + length + 1]
            expected.append((chunk + [END] * (length + 1 - len(chunk)), one.document.id, len(chunk) - 1))
    assert [(tokens, spans[0]["document"], targets) for tokens, spans, targets in rows] == expected
    assert all(len(spans) == 1 for _, spans, _ in rows)
    for tokens, spans, _ in rows:
        _check_spans(tokenizer, encoded, tokens, spans)
    # Every token of a document, and its end, is a target exactly once; the padding never is.
    manifest = SimpleNamespace(packing="document", end_of_text=END)
    if rows:
        inputs, targets = inputs_and_targets(np.array([tokens for tokens, _, _ in rows], dtype="<u2"), manifest)
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.shape == targets.shape == (len(rows), length)
        kept = targets[targets >= 0].tolist()
        assert kept == [token for one in encoded for token in [*one.ids.tolist()[1:], END]]
        assert (targets >= 0).sum(dim=1).tolist() == [targets for _, _, targets in rows]


def test_concat_masks_nothing():
    manifest = SimpleNamespace(packing="concat", end_of_text=END)
    tokens = np.array([[5, END, 6, 7], [END, END, 8, 9]], dtype="<u4")
    for given_tokens in (tokens, torch.from_numpy(tokens.astype(np.int64))):
        inputs, targets = inputs_and_targets(given_tokens, manifest)
        assert inputs.tolist() == [[5, END, 6], [END, END, 8]]
        assert targets.tolist() == [[END, 6, 7], [END, 8, 9]]


def test_a_batch_ends_with_the_last_target_of_its_longest_sample():
    """Rounded up to eight inputs; what is left out has no target, and what has one is left in."""
    document = np.full((2, 31), END, dtype="<u2")
    document[0, :5], document[1, :18] = 5, 6
    talk = np.full((2, 31), ~END, dtype=np.int32)
    talk[0, 3], talk[1, 16] = 7, END
    for packing, rows, width in (("document", document, 24), ("conversation", talk, 16), ("concat", document, 30)):
        manifest = SimpleNamespace(packing=packing, end_of_text=END)
        short = trimmed(rows, manifest)
        assert short.shape == (2, width + 1)
        inputs, targets = inputs_and_targets(short, manifest)
        whole_inputs, whole_targets = inputs_and_targets(rows, manifest)
        assert torch.equal(inputs, whole_inputs[:, :width])
        assert torch.equal(targets, whole_targets[:, :width])
        assert packing == "concat" or (whole_targets[:, width:] == -1).all()
    nothing = SimpleNamespace(packing="conversation", end_of_text=END)
    assert trimmed(np.full((1, 6), ~END, dtype=np.int32), nothing).shape == (1, 6)
