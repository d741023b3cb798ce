"""Runs that begin with the weights of another run."""

import json
import shutil

from scripts.prepare.__main__ import main as prepare
from scripts.train.__main__ import main
from tests.helpers.runs import LOSSES, measured, options, run, run_on_two_ranks


def test_a_run_begins_where_another_ended(dataset, tmp_path):
    """Its first evaluation is the other's last one; the optimizer, the schedule and the stream begin anew."""
    first = run(dataset, tmp_path / "first")
    second = run(dataset, tmp_path / "second", train__init_from=tmp_path / "first")
    assert measured(second, "val_loss", "test_loss")[0] == measured(first, "val_loss", "test_loss")[-1]
    assert [rate for _, _, rate, _ in measured(second, *LOSSES)] == [rate for _, _, rate, _ in measured(first, *LOSSES)]
    assert measured(second, "train_loss") != measured(first, "train_loss")


def test_it_begins_so_on_two_ranks_and_is_resumed_without_the_other(dataset, tmp_path):
    first = run(dataset, tmp_path / "first", train__dtype="float64")
    changes = {"train__dtype": "float64", "train__init_from": first}
    one = run(dataset, tmp_path / "one", **changes)
    two = run_on_two_ranks(dataset, tmp_path / "two", **changes)
    for ours, theirs in zip(measured(one, "train_loss"), measured(two, "train_loss"), strict=True):
        assert abs(ours[0] - theirs[0]) < 1e-9
    losses = measured(one, *LOSSES)
    shutil.rmtree(first)
    shutil.rmtree(one / "checkpoints" / "step-00000006")
    run(dataset, one, train__resume="yes", **changes)
    assert measured(one, *LOSSES) == losses


def test_what_does_not_fit_is_told(dataset, tmp_path, capsys):
    first = run(dataset, tmp_path / "first", train__steps=1)

    def refused(data=dataset, **changes) -> str:
        assert main(options(data, tmp_path / "second", train__init_from=first, **changes)) == 2
        assert not (tmp_path / "second").exists()
        return capsys.readouterr().err

    assert "has another shape of model: model.n_layer is 3, its is 2" in refused(model__n_layer=3)
    lines = [json.dumps({"text": f"other words {n} than those before"}) + "\n" for n in range(200)]
    (tmp_path / "other.jsonl").write_text("".join(lines))
    arguments = ["--corpus", "json", "--data-files", str(tmp_path / "other.jsonl"), "--vocab-size", "280"]
    arguments += ["--seq-len", "16", "--out", str(tmp_path / "data")]
    arguments += ["--target-fraction", "0.2", "--val-fraction", "0.2", "--test-fraction", "0.2"]
    assert prepare(arguments) == 0
    assert "was trained on a dataset of another tokenizer" in refused(tmp_path / "data")
    shutil.rmtree(first / "checkpoints")
    assert "has no checkpoint" in refused()
    shutil.rmtree(first)
    assert "holds no config.toml, so it is no run folder" in refused()
