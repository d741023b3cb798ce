"""What a run folder says of its run, and how the run ended."""

import json
import os
import signal

import pytest

from scripts.train.__main__ import main
from scripts.train.record import Ended, is_run, read_run
from scripts.train.run_folder import RunFolder
from tests.helpers.runs import options


def broken_at(monkeypatch, step, happens):
    """Something happens as the training line of `step` is measured, once."""
    measure = RunFolder.measure

    def measured(folder, **values):
        measure(folder, **values)
        if "train_loss" in values and values["step"] == step:
            monkeypatch.setattr(RunFolder, "measure", measure)
            happens()

    monkeypatch.setattr(RunFolder, "measure", measured)


def fail():
    raise RuntimeError("no more\nand here is why")


def test_how_a_run_ended_is_on_record_until_it_goes_on(dataset, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    changes = {"train__checkpoint_every": 2, "train__steps": 8}
    begin, go_on = (options(dataset, folder, **changes, **more) for more in ({}, {"train__resume": "yes"}))
    assert not is_run(folder)

    broken_at(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(begin) == 0
    record = read_run(folder)
    assert record.ended == Ended("stopped", 6, "SIGTERM")  # the ranks agree on it a step later
    assert record.ending == "stopped after 6 steps by SIGTERM"
    assert len(record.training) == 6

    broken_at(monkeypatch, 6, fail)
    assert main(go_on) == 1
    assert read_run(folder).ending == "failed after 8 steps: no more"  # the line of a step is written during the next

    unfinished = []
    broken_at(monkeypatch, 6, lambda: unfinished.append(read_run(folder)))
    assert main(go_on) == 0
    assert unfinished[0].ended is None
    assert unfinished[0].ending == "still going or killed"
    record = read_run(folder)
    assert (record.ended, record.ending) == (Ended("finished", 8), "finished after 8 steps")
    assert [line["step"] for line in record.training] == list(range(8))
    assert json.loads((folder / "ended.json").read_text()) == {"how": "finished", "step": 8, "why": None}
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "config.toml", "ended.json", "metrics.jsonl", "selection",
    ]  # fmt: skip

    # What is refused is no stretch of the run: how it ended stays as it was.
    assert main(begin) == 2
    assert main([*go_on, "--train.seed", "5"]) == 2
    assert read_run(folder) == record


def test_the_record_has_the_settings_with_their_types_and_the_facts(dataset, tmp_path):
    folder = tmp_path / "run"
    assert main(options(dataset, folder, train__steps=1, selection__method="maxloss")) == 0
    record = read_run(folder)
    assert record.name == "run"
    assert record.settings.selection.method == record.config["selection"]["method"] == "maxloss"
    assert record.settings.train.steps == 1
    assert set(record.facts) == {"code_version", "manifest_sha256", "tokenizer_sha256", "world_size"}
    assert [line["step"] for line in record.evaluations] == [0, 1]
    assert record.problems == []


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.toml, so it is no run folder"):
        read_run(tmp_path)
    (tmp_path / "config.toml").write_text('[data]\npath = "x"\n[selection]\nmethod = "topk"\nwidth = 3\n')
    assert read_run(tmp_path).problems == ["there is no metrics.jsonl: losses and times are not known"]
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "train_loss": 1.0}\nnonsense\n{"step": 1, "train_l')
    (tmp_path / "ended.json").write_text('{"how": "fini')
    record = read_run(tmp_path)
    assert record.training == [{"step": 0, "train_loss": 1.0}]
    assert record.problems == [
        "line 2 of metrics.jsonl cannot be read and is left out",
        "ended.json cannot be read: how the run ended is not known",
    ]
    with pytest.raises(ValueError, match=r"unknown key selection.width in .*config.toml"):
        _ = record.settings
