"""What is exported is what was trained: the loss that the run measured last, by `transformers` and `peft` alone."""

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader, inputs_and_targets
from pipeline.dataset.sampling import evaluation_samples
from scripts.export import main, open_model
from scripts.train.__main__ import main as train
from tests.helpers.networks import write_network
from tests.helpers.recording import mean_loss
from tests.helpers.runs import TINY, measured, options, run, run_on_two_ranks

transformers = pytest.importorskip("transformers", reason="the peers extra is not installed")
peft = pytest.importorskip("peft", reason="the peers extra is not installed")

LORA = {"model__lora__rank": 2, "model__lora__dropout": 0.2}
STEPS = {"train__steps": 3, "train__learning_rate": 2e-2}


def losses(network, dataset: Path, split: str = "val") -> float:
    """As an evaluation of a run has it."""
    manifest = Manifest.load(dataset)
    ids = evaluation_samples(manifest, split, TINY["train.eval-samples"])
    inputs_NT, targets_NT = inputs_and_targets(SplitReader(manifest, split).tokens(ids), manifest)
    with torch.no_grad():
        return mean_loss(network(input_ids=inputs_NT).logits, targets_NT).mean().item()


def agrees(network, dataset, folder) -> bool:
    (first, _), (last, _) = (measured(folder, "val_loss", "test_loss")[at] for at in (0, -1))
    found = losses(network, dataset)
    return found == pytest.approx(last, abs=2e-6) and abs(found - first) > 1e-3


def opened(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def export(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_our_gpt2_goes_out_and_comes_in_again(dataset, tmp_path):
    """Trained by two ranks; a run that begins from the folder measures at first what the other measured at last."""
    first = run_on_two_ranks(dataset, tmp_path / "first", **STEPS)
    export(first, tmp_path / "out")
    assert sorted(p.suffix for p in (tmp_path / "out").glob("model*")) == [".safetensors"]
    network = opened(tmp_path / "out")
    assert isinstance(network, transformers.GPT2LMHeadModel)
    assert agrees(network, dataset, first)
    second = run(dataset, tmp_path / "second", train__init_from=tmp_path / "out")
    ends, begins = measured(first, "val_loss", "test_loss")[-1], measured(second, "val_loss", "test_loss")[0]
    assert begins == pytest.approx(ends, abs=1e-6)


def test_the_tokenizer_comes_with_it(dataset, tmp_path):
    export(run(dataset, tmp_path / "run", train__steps=1), tmp_path / "out")
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the model reads <b>text</b> and 12 lines\n of ünïcode  it"
    assert found(text).input_ids == Tokenizer.from_file(str(dataset / "tokenizer.json")).encode(text).ids
    assert found.decode(found(text).input_ids) == text
    assert found.eos_token_id == Manifest.load(dataset).end_of_text == opened(tmp_path / "out").config.eos_token_id


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "GPT-2"])
def test_a_model_of_transformers_goes_out_as_one(dataset, tmp_path, name):
    base = write_network(tmp_path / "base", name, dataset)
    folder = run(dataset, tmp_path / "run", model__kind="hf", model__path=base, train__dtype="float64", **STEPS)
    export(folder, tmp_path / "out")
    assert agrees(opened(tmp_path / "out"), dataset, folder)
    assert {p.dtype for p in opened(tmp_path / "out").parameters()} == {torch.float32}


def test_adapters_go_out_alone_or_merged(dataset, tmp_path):
    base = write_network(tmp_path / "base", "Llama, tied", dataset)
    changes = {"model__kind": "hf", "model__path": base} | LORA | STEPS
    folder = run_on_two_ranks(dataset, tmp_path / "run", **changes)
    export(folder, tmp_path / "adapters")
    assert not list((tmp_path / "adapters").glob("model*"))
    adapted = peft.PeftModel.from_pretrained(opened(base), tmp_path / "adapters")
    assert agrees(adapted, dataset, folder)
    assert agrees(opened(tmp_path / "adapters"), dataset, folder)  # which names its base
    for path in (folder, tmp_path / "adapters"):
        assert agrees(open_model(path).network, dataset, folder)
    export(folder, tmp_path / "merged", "--merge")
    merged = opened(tmp_path / "merged")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert agrees(merged, dataset, folder)


def test_what_cannot_be_exported_is_told(dataset, tmp_path, capsys):
    folder = run(dataset, tmp_path / "run", train__steps=1)

    def refused(*arguments) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / ".out.partial").exists()
        return capsys.readouterr().err

    assert f"{folder} exists already: choose another folder" in refused(folder, folder)
    assert f"{folder} has no adapters to merge" in refused(folder, tmp_path / "out", "--merge")
    assert "holds no config.toml, so it is no run folder" in refused(tmp_path, tmp_path / "out")
    for text, sentence in (("n_layer = 2", "cannot be read"), ("manifest_sha256", "on another dataset")):
        shutil.copytree(folder, tmp_path / text)
        config = (folder / "config.toml").read_text()
        changed = config.replace("n_layer = 2", "n_layer = 3") if "n_" in text else config.replace(text, "other")
        (tmp_path / text / "config.toml").write_text(changed)
        assert sentence in refused(tmp_path / text, tmp_path / "out")
    shutil.rmtree(folder / "checkpoints")
    assert f"{folder} has no checkpoint yet" in refused(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("GPT-2", {"model__n_layer": 3, "model__n_embd": 12}, "has another shape of model: n_layer is 3, its is 2"),
        ("GPT-2", {"model__kind": "hf"}, "is a folder of `transformers`, which model.kind hf takes as model.path"),
        ("Llama", {}, "is a llama, which our GPT-2 cannot begin from: choose model.kind hf"),
    ],
)
def test_what_a_run_cannot_begin_from_is_told(dataset, tmp_path, capsys, name, changes, sentence):
    base = write_network(tmp_path / "base", name, dataset)
    changes = changes | ({"model__path": base} if "model__kind" in changes else {})
    assert train(options(dataset, tmp_path / "run", train__init_from=base, **changes)) == 2
    assert f"train.init_from {base} {sentence}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
