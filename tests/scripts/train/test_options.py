"""Bad input on the command line, in files and folders gets one sentence."""

import shutil

import pytest

from scripts.train.__main__ import main
from scripts.train.config import Config
from selection.methods import METHODS
from selection.settings import Selection
from tests.helpers.runs import DRAWN, options, run


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selection__picks": 7}, "selection.picks (7) cannot exceed selection.candidates (6)"),
        ({"train__groups": 1000}, "fewer samples than one step needs"),
        ({"selection__direction__samples": 100000}, "100000 target samples a step are asked for"),
        ({"model__n-head": 3}, "model.n_embd (16) must be a multiple of model.n_head (3)"),
        (
            {"selection__scoring__prefix": 17},
            "selection.scoring.prefix (17) is longer than the dataset's samples (16",
        ),
        ({"selection__direction__decay": 1.0}, "selection.direction.decay must be at least 0 and below 1, not 1.0"),
        ({"selection__direction__rank": -1}, "selection.direction.rank must be at least 0, not -1"),
        ({"selection__method": "rho_loss"}, "selection.reference.file is missing: method rho_loss reads a number"),
        ({"selection__method": "sbert", "selection__reference__file": "no.npz"}, "there is no file no.npz: make one"),
        ({"train__steps": 0}, "train.steps must be at least 1, not 0"),
        (
            {"selection__method": "auto", "selection__need__samples": 1},
            "selection.need.samples must be at least 2, not 1",
        ),
        ({"selection__amortise__every": 0, **DRAWN}, "selection.amortise.every must be at least 1, not 0"),
        ({"selection__amortise__explore": 1.5, **DRAWN}, "selection.amortise.explore must be from 0 to 1, not 1.5"),
        (
            {"selection__amortise__drawn": 5},
            "selection.amortise.drawn (5) must be at least selection.candidates (6), the number that is scored",
        ),
        ({"selection__direction__targets": 3}, "5 target samples a step are asked for"),
    ],
)
def test_bad_values_get_one_sentence_and_exit_code_2(dataset, tmp_path, capsys, changes, sentence):
    assert main(options(dataset, tmp_path / "run", **changes)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def _refused(arguments, capsys) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_bad_paths_and_files_get_one_sentence(dataset, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.toml").write_text("")
    bad = tmp_path / "bad.toml"
    told = _refused(options(tmp_path / "empty", tmp_path / "run"), capsys)
    assert "manifest" in told
    assert "scripts.prepare" in told
    assert "exists already" in _refused(options(dataset, tmp_path / "taken"), capsys)
    assert "not a folder" in _refused(options(dataset, tmp_path / "file" / "run"), capsys)
    assert "holds no run to resume" in _refused(options(dataset, tmp_path / "run", train__resume="yes"), capsys)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("")
    told = _refused(options(dataset, tmp_path / "other", train__resume="auto"), capsys)
    assert "exists already and holds no run" in told
    for text, sentence in [
        ("[train]\nstep = 3", f"unknown key train.step in {bad}"),
        ("[train]\nsteps = '3'", f"train.steps in {bad} must be a int"),
        ("[train]\nresume = 'maybe'", f"train.resume in {bad} must be one of no, yes, auto, not 'maybe'"),
        ("[selection]\nmethod = 'best'", f"must be one of {', '.join(METHODS)}, not 'best'"),
        ("train = 3", "must be a section"),
        ("[train", "is not valid TOML"),
    ]:
        bad.write_text(text)
        assert sentence in _refused(["--config", str(bad), *options(dataset, tmp_path / "run")], capsys)
    assert "no config file" in _refused(["--config", "nowhere.toml"], capsys)
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = _refused(options(dataset, tmp_path / "run"), capsys)
    assert "train.groups (4) must be a multiple of the number of ranks (3)" in told
    with pytest.raises(SystemExit, match="2"):
        main(["--train.stepz", "3"])
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_does_not_match_is_refused(dataset, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + "\n")
    assert "tokenizer.json" in _refused(options(copy, tmp_path / "run"), capsys)


def test_a_resume_with_other_settings_names_them(dataset, tmp_path, capsys):
    folder = run(dataset, tmp_path / "run")
    told = _refused(options(dataset, folder, train__resume="yes", train__seed=5, selection__picks=3), capsys)
    assert "train.seed was 0, is 5; selection.picks was 2, is 3" in told


def test_a_default_that_changed_does_not_count_where_nothing_reads_it():
    chosen = Config(selection=Selection(method="auto"))
    saved = chosen.as_dict()
    saved["selection"]["auto"]["block"] += 1
    assert chosen.differences(saved) == ["selection.auto.block was 3, is 2"]
    plain = Config(selection=Selection(method="regular"))
    saved["selection"]["method"] = "regular"
    assert plain.differences(saved) == []
