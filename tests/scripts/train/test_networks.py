"""Runs of `transformers` models, whole and with LoRA: at any number of ranks, killed and resumed, and refused."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from scripts.train.__main__ import main
from tests.helpers.networks import write_network
from tests.helpers.runs import LOSSES, log_rows, measured, options, run, run_on_two_ranks
from tests.helpers.survival import assert_same, at_step, tensors_of

LORA = {"model__lora__rank": 2, "model__lora__dropout": 0.2, "model__lora__targets": "q_proj,down_proj"}
KINDS = {"whole": {}, "LoRA": LORA}
STEPS = {"train__steps": 4, "train__eval_every": 2, "train__checkpoint_every": 2}


@pytest.fixture(scope="module")
def llama(dataset, tmp_path_factory):
    """A Llama stored in bfloat16."""
    return write_network(tmp_path_factory.mktemp("llama") / "model", "Llama", dataset, torch.bfloat16)


@pytest.fixture(scope="module")
def folders(dataset, llama, tmp_path_factory):
    """What is no model for the dataset, by name."""
    place = tmp_path_factory.mktemp("folders")
    (place / "empty").mkdir()
    write_network(place / "small", "Llama", dataset, vocabulary=200)
    write_network(place / "short", "Llama", dataset, positions=8)
    shutil.copytree(llama, place / "other")
    text = (llama / "tokenizer.json").read_text()
    (place / "other" / "tokenizer.json").write_text(text.replace('"!":', '"\u2603":', 1))
    shutil.copytree(llama, place / "part")
    save_file({"lm_head.weight": torch.zeros(280, 16)}, place / "part" / "model.safetensors", {"format": "pt"})
    return {path.name: str(path) for path in place.iterdir()}


def settings(folder, **changes) -> dict:
    return {"model__kind": "hf", "model__path": folder} | STEPS | changes


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_two_ranks_choose_the_same(dataset, llama, tmp_path, kind):
    """Dropout too is that of a group, not of a rank. A checkpoint of two ranks goes on in one."""
    changes = settings(llama, train__dtype="float64", **KINDS[kind])
    one = run(dataset, tmp_path / "one", **changes)
    two = run_on_two_ranks(dataset, tmp_path / "two", **changes)
    identity = ("step", "group", "sample_id", "pick")
    for _ in range(2):
        assert log_rows(one, *identity) == log_rows(two, *identity)
        for ours, theirs in zip(measured(one, *LOSSES), measured(two, *LOSSES), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)
        assert measured(one, "val_loss")[-1] == pytest.approx(measured(two, "val_loss")[-1], rel=1e-9)
        if (two / "checkpoints" / "step-00000004").exists():
            shutil.rmtree(two / "checkpoints" / "step-00000004")
            run(dataset, two, train__resume="yes", **changes)
    (first, *_, last) = measured(one, "val_loss")
    assert first[0] > last[0] + 0.005


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(nursery, dataset, llama, tmp_path, kind, ranks):
    changes = settings(llama, selection__direction__decay=0.9, train__resume="auto", **KINDS[kind])
    arguments = {name: options(dataset, tmp_path / name, **changes) for name in ("whole", "killed")}
    death = {"setup": at_step(3, ranks - 1, "os.kill(os.getpid(), signal.SIGKILL)")}
    for name, told, codes in (("whole", {}, [0]), ("killed", death, [-9]), ("killed", {}, [0])):
        answer = nursery.run(arguments[name], tmp_path / "log", size=ranks, **told)
        assert answer["codes"][-1:] == codes, (tmp_path / f"log-{ranks - 1}").read_text()
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_adapters_begin_where_those_of_another_run_ended(dataset, llama, tmp_path):
    changes = settings(llama, train__learning_rate=2e-2, **LORA)
    first = run(dataset, tmp_path / "first", **changes)
    second = run(dataset, tmp_path / "second", train__init_from=first, **changes)
    (start, *_, end), (begun, *_) = measured(first, "val_loss", "test_loss"), measured(second, "val_loss", "test_loss")
    assert begun == end != start


@pytest.mark.parametrize("kind", [*KINDS, "our own"])
def test_recomputing_changes_no_figure(dataset, llama, tmp_path, kind):
    changes = STEPS | {"model__n_layer": 2} if kind == "our own" else settings(llama, **KINDS[kind])
    kept, recomputed = (
        run(dataset, tmp_path / name, selection__amortise__every=2, selection__amortise__drawn=6, **changes, **more)
        for name, more in (("kept", {}), ("recomputed", {"model__recompute": True}))
    )
    assert_same(recomputed, kept)


def test_a_checkpoint_holds_what_is_trained_and_no_more(dataset, llama, tmp_path):
    folder = run(dataset, tmp_path / "run", **settings(llama, **LORA))
    held = {name for name in tensors_of(folder / "checkpoints" / "step-00000004") if name.startswith("model.")}
    assert len(held) == 2 * 2 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in held)
    text = (folder / "config.toml").read_text()
    assert f'path = "{llama}"\nrevision = ""' in text
    assert "[model.lora]\nrank = 2\n" in text


def test_passes_in_bfloat16_and_the_shape_in_a_file(dataset, llama, tmp_path):
    """Two ranks, adapters in float32 beside weights in bfloat16; a file's shape of our GPT-2 is left out."""
    (tmp_path / "shape.toml").write_text("[model]\nn_layer = 3\n")
    changes = settings(llama, train__dtype="bfloat16", selection__method="topk", **LORA)
    folder = run_on_two_ranks(dataset, tmp_path / "run", config=tmp_path / "shape.toml", **changes)
    assert "n_layer = 12" in (folder / "config.toml").read_text()
    (first, *_, last) = measured(folder, "val_loss")
    assert first[0] > last[0] + 0.005
    dtypes = {t.dtype for t in tensors_of(folder / "checkpoints" / "step-00000004").values() if t.dim() == 2}
    assert dtypes == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__path": ""}, "model.path is missing: kind hf needs a folder of `transformers`, or a name on the hub"),
        ({"model__path": "{empty}"}, "empty cannot be read as a causal language model of `transformers`: "),
        ({"model__path": "{small}"}, "vocabulary has 280 tokens and model.path {small} knows 200: prepare the dataset"),
        ({"model__path": "{other}"}, "the dataset's tokenizer is not that of model.path {other}: prepare the dataset"),
        ({"model__path": "{short}"}, "samples have 16 tokens and model.path {short} takes 8: prepare the dataset"),
        ({"model__path": "{part}"}, "model.path {part} lacks the weights model.embed_tokens.weight, "),
        ({"model__lora__rank": -1}, "model.lora.rank must be at least 0, not -1"),
        ({"model__lora__alpha": 8}, "model.lora.alpha = 8.0 does nothing: without model.lora.rank there are no"),
        ({**LORA, "model__lora__dropout": 1}, "model.lora.dropout must be at least 0 and below 1, not 1.0"),
        ({**LORA, "model__lora__alpha": 0}, "model.lora.alpha must be above 0, not 0.0"),
        ({**LORA, "model__lora__targets": ""}, "model.lora.targets is empty: give all-linear, or names of layers"),
        ({**LORA, "model__lora__targets": "query"}, "model.lora.targets query: "),
        ({**LORA, "model__lora__targets": "embed_tokens"}, "no ghost rule covers network.model.embed_tokens.lora_em"),
        ({"model__n_layer": 2}, "model.n_layer = 2 does nothing: the shape of a model of kind hf is that of its fold"),
        ({"model__kind": "gpt2", "model__path": ""} | LORA, "model.lora.rank = 2 does nothing: model.kind gpt2 does"),
        ({"model__kind": "gpt2"}, "does nothing: model.kind gpt2 does not read it (read by hf): leave it out"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(dataset, llama, folders, tmp_path, capsys, changes, sentence):
    changes = {key: v.format(**folders) if isinstance(v, str) else v for key, v in changes.items()}
    assert main(options(dataset, tmp_path / "run", **settings(llama, **changes))) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert sentence.format(**folders) in told[0]
    assert not (tmp_path / "run").exists()
