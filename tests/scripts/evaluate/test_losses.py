"""Evaluation of runs and folders: the losses a run measured itself, their sources, and bytes as the text has them."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.dataset.manifest import Manifest
from scripts.evaluate.__main__ import main
from scripts.evaluate.losses import _by_source, bytes_of_tokens
from scripts.prepare.__main__ import main as prepare
from tests.helpers.networks import write_network
from tests.helpers.runs import measured, run


def evaluated(capsys, *arguments) -> dict:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["splits"]


@pytest.fixture(scope="module")
def two_sources(dataset, tmp_path_factory):
    """The texts of `dataset`, with held-out splits of both sources."""
    folder = tmp_path_factory.mktemp("two-sources") / "data"
    options = ["--corpus", "json", "--data-files", str(dataset.parent / "corpus.jsonl"), "--source-field", "source"]
    options += ["--id-field", "id", "--tokenizer", str(dataset / "tokenizer.json"), "--seq-len", "16"]
    assert prepare([*options, "--out", str(folder)]) == 0
    return folder


def test_a_run_is_measured_as_it_measured_itself(dataset, tmp_path, capsys):
    folder = run(dataset, tmp_path / "run", train__steps=2, train__eval_samples=100000)
    found = evaluated(capsys, folder, "--data", dataset)
    val, test = measured(folder, "val_loss", "test_loss")[-1]
    assert [found["val"]["all"]["loss"], found["test"]["all"]["loss"]] == pytest.approx([val, test], abs=1e-6)
    assert found["val"]["all"]["perplexity"] == pytest.approx(math.exp(val), rel=1e-5)
    assert list(found) == ["val", "test"]
    assert found["val"]["all"] == found["val"]["words"]  # the only source of the held-out splits
    manifest = Manifest.load(dataset)
    assert found["val"]["all"]["tokens"] == manifest.samples("val") * manifest.sequence_length


def test_sources_add_up_and_differ(dataset, two_sources, tmp_path, capsys):
    folder = run(dataset, tmp_path / "run", train__steps=20, train__learning_rate=1e-2)
    found = evaluated(capsys, folder, "--data", two_sources, "--splits", "target", "val")
    for rows in found.values():
        every, words, noise = rows["all"], rows["words"], rows["noise"]
        assert every["tokens"] == words["tokens"] + noise["tokens"]
        assert every["bytes"] == words["bytes"] + noise["bytes"]
        total = words["loss"] * words["tokens"] + noise["loss"] * noise["tokens"]
        assert every["loss"] * every["tokens"] == pytest.approx(total, rel=1e-9)
        assert words["loss"] < noise["loss"] - 0.1  # picks of 20 steps are words
        assert words["bytes"] > 1.4 * words["tokens"]
    few = evaluated(capsys, folder, "--data", two_sources, "--splits", "val", "--samples", 3)
    assert few["val"]["all"]["tokens"] == 3 * 16
    assert main([str(folder), "--data", str(two_sources), "--samples", "3"]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_bits_per_byte_are_of_what_stands_for_text(dataset, tmp_path, capsys):
    """A model whose logits are all alike: log2(V) bits a token of text, whatever the ends of documents cost."""
    base = write_network(tmp_path / "base", "Llama", dataset, tie_word_embeddings=False)
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"].zero_()
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    row = evaluated(capsys, base, "--data", dataset, "--batch", 3)["test"]["words"]
    assert row["perplexity"] == pytest.approx(280, rel=1e-5)
    ends = row["tokens"] - row["bits_per_byte"] * row["bytes"] / math.log2(280)
    assert ends == pytest.approx(round(ends), abs=1e-3)
    assert 0 < round(ends) <= Manifest.load(dataset).sources["test"]["words"]["documents"]


def test_every_token_knows_its_bytes(dataset):
    tokenizer = Tokenizer.from_file(str(dataset / "tokenizer.json"))
    text = "the model reads ünïcode 漢字 🙂\n\ttext"
    assert bytes_of_tokens(tokenizer)[tokenizer.encode(text).ids].sum() == len(text.encode())
    assert bytes_of_tokens(tokenizer)[tokenizer.token_to_id("<|endoftext|>")] == 0
    vocabulary = {"<0x0A>": 0, "▁": 1, "é": 2, "▁é": 3, "<0xFF>": 4}
    pieces = Tokenizer(models.BPE(vocabulary, [("▁", "é")], byte_fallback=True))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.add_special_tokens(["</s>"])
    assert bytes_of_tokens(pieces).tolist() == [1, 1, 2, 3, 1, 0]


E, A, B, C = 9, "a", "b", "c"


@pytest.mark.parametrize(
    ("tokens", "spans", "sources"),
    [
        ([1, 2, 3, 4, 5], [A], "aaaa"),
        ([1, 2, E, 4, 5], [A, B], "aabb"),
        ([E, 2, 3, E, 5], [A, B], "aaab"),  # begins with the end of a document that has no token here
        ([1, E, 3, E, E], [A, B], "abb."),  # an empty document
        ([1, 2, 3, E, 5], [A, C], "aaac"),
        ([1, E, 3, 4, E], [A], "aaaa"),  # one document with ends in it
        ([1, 2, E, E, E], [A], "aa.."),  # padding, masked
    ],
)
def test_a_target_is_of_the_document_it_is_in_or_ends(tokens, spans, sources):
    reader = SimpleNamespace(split="val", spans=lambda _: [SimpleNamespace(source=source) for source in spans])
    tokens = np.array(tokens)
    inputs_T, targets_T = tokens[:-1], tokens[1:].copy()
    if spans == [A] and sources.endswith(".."):
        targets_T[-2:] = -1
    found = ["."] * 4
    for source, valid_T in _by_source(reader, 0, inputs_T, targets_T, E):
        for at in np.flatnonzero(valid_T):
            assert found[at] == "."
            found[at] = source
    assert "".join(found) == sources


def test_what_does_not_fit_is_told(dataset, two_sources, tmp_path, capsys):
    base = write_network(tmp_path / "base", "Llama", dataset)
    short = write_network(tmp_path / "short", "Llama", dataset, positions=8)
    other = write_network(tmp_path / "other", "Llama", dataset)
    (other / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace('"!":', '"\\u2603":', 1))
    bare = write_network(tmp_path / "bare", "Llama", dataset)
    (bare / "tokenizer.json").unlink()
    for arguments, sentence in [
        ([tmp_path / "none", "--data", dataset], f"there is no folder {tmp_path / 'none'}: give a run folder, or one"),
        ([tmp_path, "--data", dataset], f"the folder {tmp_path} cannot be read as a causal language model"),
        ([bare, "--data", dataset], f"{bare} has no tokenizer: put the model's tokenizer.json there"),
        ([other, "--data", dataset], f"the tokenizer of {dataset} is not the model's: prepare the dataset with"),
        ([short, "--data", dataset], f"the samples of {dataset} have 16 tokens and the model takes 8: prepare"),
        ([base, "--data", tmp_path], "holds no manifest.json"),
        ([base, "--data", dataset, "--samples", -1], "--samples must be at least 0, not -1"),
        ([base, "--data", dataset, "--batch", 0], "--batch must be at least 1, not 0"),
    ]:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        assert sentence in capsys.readouterr().err
