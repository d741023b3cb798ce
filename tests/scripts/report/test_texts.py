"""Text of documents: it comes back as it was, and never acts on a terminal or a browser."""

import json

import numpy as np
import pytest

from scripts.report.texts import Texts
from tests.helpers.run_example import HTML, MARKUP, STEPS, N, ask, make_dataset


@pytest.mark.parametrize("packing", ["concat", "document"])
def test_text_comes_back_exactly(tmp_path, packing):
    dataset, documents = make_dataset(tmp_path / "dataset", packing)
    texts = Texts(dataset)
    compared = 0
    for sample_id in range(texts.reader.samples):
        spans, pieces = texts.spans(sample_id), texts.pieces(sample_id)
        assert len(spans) == len(pieces) > 0
        for span, piece in zip(spans, pieces, strict=True):
            source = documents[span.document]["text"][span.first : span.last]
            if "\ufffd" in piece:  # only a letter of several bytes, at either end, may have been cut
                inner = piece.strip("\ufffd")
                assert "\ufffd" not in inner
                assert source[:1] + inner + source[-1:] in (source, source[:1] + source, source + source[-1:])
            else:
                assert piece == source
                compared += len(piece)
    assert compared > 5000


def test_text_is_data(run, odd_dataset, capsys):
    texts = Texts(odd_dataset[0])
    odd = next(i for i in range(STEPS * N) if "[bold]" in texts.text(i) and "\x1b" in texts.text(i))
    for question in ([], ["--sample", odd], ["--step", odd // N], ["--ask", "documents"], ["--ask", "sources"]):
        _, out, err = ask(capsys, run, *question)
        assert not set(out + err) & set("\x1b\x07\x9b\u202e"), question
    _, out, _ = ask(capsys, run, "--sample", odd)
    assert r"\x1b[31mred\x1b[0m" in out
    assert "[bold]not bold[/bold]" in out  # shown as it is, not read as rich's markup
    assert "odd[red]" in out
    # In JSON every character survives, in ASCII.
    _, out, _ = ask(capsys, run, "--sample", odd, "--json")
    assert out.isascii()
    assert texts.pieces(odd)[0] == json.loads(out)["text"][0]["text"]


def test_rarity_is_the_mean_of_unigram_bits(odd_dataset):
    texts = Texts(odd_dataset[0])
    tokens = texts.reader.tokens(range(texts.reader.samples))
    counts = np.bincount(tokens.ravel(), minlength=texts.manifest.vocab_size) + 1
    ids = [0, 5, 7]
    for sample_id, rarity in zip(ids, texts.rarity(np.array(ids)), strict=True):
        own = [token for token in tokens[sample_id] if token != texts.manifest.end_of_text]
        assert rarity == pytest.approx(np.mean([-np.log2(counts[token] / counts.sum()) for token in own]))


def test_the_page_holds_no_markup_of_documents(run, capsys):
    code, out, _ = ask(capsys, run, "--html")
    assert (code, out.strip()) == (0, str(run / "report.html"))
    page = (run / "report.html").read_text()
    assert HTML not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert MARKUP in page
    assert "\x1b" not in page
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http-equiv", "").replace("[link=http://x]", "")
