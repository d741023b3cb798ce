"""Whole runs of a tiny model: what selection must not change, determinism, resuming, and bad input."""

import json
import shutil

import pytest
import torch

from scripts.train.__main__ import main
from selection.log.reader import read_log
from tests.helpers.runs import LOSSES, log_rows, measured, options, run, run_on_two_ranks


def test_a_run_leaves_its_folder(dataset, tmp_path):
    folder = run(dataset, tmp_path / "run")
    assert [step for _, step in measured(folder, "train_loss", "step")] == list(range(6))
    assert [step for _, step in measured(folder, "val_loss", "step")] == [0, 4, 6]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    rows = read_log(folder / "selection").to_pydict()
    assert len(rows["step"]) == 6 * 4 * 6
    assert sum(pick >= 0 for pick in rows["pick"]) == 6 * 4 * 2
    assert len(set(zip(rows["step"], rows["sample_id"], strict=True))) == 6 * 4 * 6
    assert None not in rows["first_order"] + rows["interaction"] + rows["self_norm"] + rows["loss"]
    assert set(rows["predicted"]) == {None}
    picked = [loss for loss, pick, step in zip(rows["loss"], rows["pick"], rows["step"], strict=True) if pick >= 0]
    losses = [loss for (loss,) in measured(folder, "train_loss")]
    assert sum(losses) / 6 == pytest.approx(sum(picked) / len(picked), rel=1e-5)


@pytest.mark.parametrize("method", ["greats", "topk"])
def test_picking_every_candidate_trains_as_regular_does(dataset, tmp_path, method):
    regular = run(dataset, tmp_path / "regular", selection__method="regular")
    chosen = run(dataset, tmp_path / "chosen", selection__method=method, selection__candidates=2)
    for ours, theirs in zip(measured(chosen, *LOSSES), measured(regular, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert measured(chosen, "val_loss")[-1] == pytest.approx(measured(regular, "val_loss")[-1], rel=1e-5)
    assert set(log_rows(regular, "first_order")["first_order"]) == {None}
    same = [log_rows(folder, "step", "group", "sample_id") for folder in (regular, chosen)]
    assert same[0] == same[1]


def test_selection_changes_what_is_trained_on(dataset, tmp_path):
    """The counterpart of the test above: with candidates to spare, greats and regular part ways."""
    regular = run(dataset, tmp_path / "regular", selection__method="regular")
    chosen = run(dataset, tmp_path / "chosen")
    assert measured(chosen, *LOSSES)[-1] != pytest.approx(measured(regular, *LOSSES)[-1], rel=1e-3)


def test_two_runs_are_bitwise_identical(dataset, tmp_path):
    one, two = (run(dataset, tmp_path / name) for name in ("one", "two"))
    assert measured(one, *LOSSES) == measured(two, *LOSSES)
    assert measured(one, "val_loss", "test_loss") == measured(two, "val_loss", "test_loss")
    assert read_log(one / "selection").equals(read_log(two / "selection"))
    other = run(dataset, tmp_path / "other", train__seed=1)
    assert measured(one, *LOSSES) != measured(other, *LOSSES)


def test_one_and_two_ranks_choose_the_same(dataset, tmp_path):
    """m = 5 target samples do not share out evenly over two ranks: one of them runs a masked one."""
    one = run(dataset, tmp_path / "one", train__dtype="float64")
    two = run_on_two_ranks(dataset, tmp_path / "two", train__dtype="float64", data__workers=1)
    identity = ("step", "group", "sample_id", "pick")
    assert log_rows(one, *identity) == log_rows(two, *identity)
    for ours, theirs in zip(measured(one, *LOSSES), measured(two, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert measured(one, "val_loss")[-1] == pytest.approx(measured(two, "val_loss")[-1], rel=1e-9)
    # A checkpoint of two ranks goes on in one, and ends where both ended.
    shutil.rmtree(two / "checkpoints" / "step-00000006")
    run(dataset, two, train__dtype="float64", train__resume=True)
    assert log_rows(one, *identity) == log_rows(two, *identity)
    assert measured(one, "val_loss")[-1] == pytest.approx(measured(two, "val_loss")[-1], rel=1e-9)


def test_a_resumed_run_equals_one_that_was_never_stopped(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000006")
    with open(cut / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 6, "train_')  # a line the kill cut off
    run(dataset, cut, train__resume=True)
    assert measured(whole, *LOSSES) == measured(cut, *LOSSES)
    assert measured(whole, "val_loss", "test_loss", "step") == measured(cut, "val_loss", "test_loss", "step")
    assert read_log(whole / "selection").equals(read_log(cut / "selection"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selection__picks": 7}, "selection.picks (7) cannot exceed selection.candidates (6)"),
        ({"train__groups": 1000}, "fewer samples than one step needs"),
        ({"selection__validation": 100000}, "100000 target samples a step are asked for"),
        ({"model__n-head": 3}, "model.n_embd (16) must be a multiple of model.n_head (3)"),
        ({"selection__prefix": 17}, "selection.prefix (17) is longer than the dataset's samples (16 tokens)"),
        ({"selection__decay": 1.0}, "selection.decay must be at least 0 and below 1, not 1.0"),
        ({"selection__rank": -1}, "selection.rank must be at least 0, not -1"),
        ({"train__steps": 0}, "train.steps must be at least 1, not 0"),
        ({"selection__every": 0}, "selection.every must be at least 1, not 0"),
        ({"selection__explore": 1.5}, "selection.explore must be from 0 to 1, not 1.5"),
        ({"selection__drawn": 12}, "selection.drawn (12) needs a selection.prefilter that chooses among them"),
        (
            {"selection__prefilter": "predictor", "selection__drawn": 5},
            "selection.drawn (5) must be at least 6, the number to be chosen",
        ),
        (
            {"selection__prefilter": "predictor", "selection__method": "regular"},
            "selection.prefilter predictor learns from scores, which method regular has none of",
        ),
        ({"selection__targets": 3}, "5 target samples a step are asked for"),
    ],
)
def test_bad_values_get_one_sentence_and_exit_code_2(dataset, tmp_path, capsys, changes, sentence):
    assert main(options(dataset, tmp_path / "run", **changes)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


MODES = [
    {"selection__rank": 2, "selection__decay": 0.9},
    {"selection__preconditioner": "adam", "selection__rank": 2, "selection__method": "topk"},
    {"selection__prefix": 8, "selection__scored": "blocks"},
    {"selection__sketch": 4},
    {"selection__every": 4, "selection__drawn": 12, "selection__prefilter": "predictor"},
    {"selection__drawn": 12, "selection__prefilter": "importance", "selection__targets": 7},
]
CASCADE = {"selection__every": 2, "selection__drawn": 12, "selection__prefilter": "predictor"}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode))
def test_every_mode_chooses_in_its_own_way_and_resumes_exactly(dataset, tmp_path, mode):
    whole = run(dataset, tmp_path / "whole", **mode)
    exact = run(dataset, tmp_path / "exact")
    columns = ("first_order", "interaction") if "selection__sketch" in mode else ("first_order",)
    assert log_rows(whole, *columns) != log_rows(exact, *columns)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000006")
    run(dataset, cut, train__resume=True, **mode)
    assert measured(whole, *LOSSES) == measured(cut, *LOSSES)
    assert read_log(whole / "selection").equals(read_log(cut / "selection"))


def test_a_cascade_logs_the_fate_of_all_that_were_drawn(dataset, tmp_path):
    """drawn -> N -> k on every other step, drawn -> k between: who was dropped, scored, picked, and by what."""
    folder = run(dataset, tmp_path / "run", **CASCADE)
    rows = read_log(folder / "selection").to_pandas()
    assert len(rows) == 6 * 4 * 12
    assert rows["predicted"].notna().all()
    for (step, _), group in rows.groupby(["step", "group"]):
        scored, fates = step % 2 == 0, group["pick"].value_counts()
        assert fates.to_dict() == ({-2: 6, -1: 4, 0: 1, 1: 1} if scored else {-2: 10, 0: 1, 1: 1})
        assert (group["first_order"].notna() == (scored & (group["pick"] > -2))).all()
        assert (group["loss"].notna() == (group["pick"] > -2)).all()
        ranked = group.sort_values("predicted", ascending=False, kind="stable")
        if scored:  # four of the six by prediction, two of the others as they were drawn
            explored = ranked.iloc[4:].sort_index().iloc[:2]
            shortlist = {*ranked["sample_id"].iloc[:4], *explored["sample_id"]}
            assert shortlist == set(group["sample_id"][group["pick"] > -2])
            best = group[group["pick"] > -2].nlargest(2, "first_order")
            assert set(best["sample_id"]) == set(group["sample_id"][group["pick"] >= 0])
        else:
            assert group["pick"].idxmax() == ranked.index[1]
            assert group.index[group["pick"] == 0].item() == ranked.index[0]
    losses = [loss for (loss,) in measured(folder, "train_loss")]
    picked = rows[rows["pick"] >= 0]
    assert losses == pytest.approx(picked.groupby("step")["loss"].mean().tolist(), rel=1e-5)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["prefilter_on"] for line in lines if "train_loss" in line] == [True] * 6


def test_a_step_that_is_not_scored_trains_as_a_plain_one_on_its_picks(dataset, tmp_path):
    """With all that is drawn picked, a cascade is a regular run but for the order of its groups' samples."""
    regular = run(dataset, tmp_path / "regular", selection__method="regular", train__dtype="float64")
    picked = {"selection__candidates": 2, "selection__drawn": 2, "selection__every": 3}
    cascade = run(dataset, tmp_path / "cascade", selection__prefilter="predictor", train__dtype="float64", **picked)
    for ours, theirs in zip(measured(cascade, *LOSSES), measured(regular, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_predictions_learn_from_scores_with_one_step_between(dataset, tmp_path):
    """What step 0 scored is first used at step 2; a run without learning predicts the same until then."""
    taught = run(dataset, tmp_path / "taught", **CASCADE)
    other = run(dataset, tmp_path / "other", **CASCADE, selection__validation=3)  # other scores, the same start
    ours, theirs = (read_log(folder / "selection").to_pandas() for folder in (taught, other))
    same = (ours["predicted"] == theirs["predicted"]).groupby(ours["step"]).all()
    assert same.tolist() == [True, True, False, False, False, False]


def test_a_cascade_chooses_the_same_on_one_and_two_ranks(dataset, tmp_path):
    one = run(dataset, tmp_path / "one", train__dtype="float64", **CASCADE)
    two = run_on_two_ranks(dataset, tmp_path / "two", train__dtype="float64", data__workers=1, **CASCADE)
    identity = ("step", "group", "sample_id", "pick", "predicted")
    assert log_rows(one, *identity) == log_rows(two, *identity)
    shutil.rmtree(two / "checkpoints" / "step-00000006")
    run(dataset, two, train__dtype="float64", train__resume=True, **CASCADE)
    assert log_rows(one, *identity) == log_rows(two, *identity)


def test_a_prefilter_that_does_not_earn_is_off_and_scores_are_few(dataset, tmp_path, monkeypatch):
    """Plain draws between scored steps, and one in four of these is scored; it predicts all the same."""
    monkeypatch.setattr("selection.prefilters.predictor.Predictor.separation", lambda self: 0.5)
    rows = read_log(run(dataset, tmp_path / "run", train__steps=10, **CASCADE) / "selection").to_pandas()
    assert sorted(set(rows["step"][rows["first_order"].notna()])) == [0, 8]
    assert rows["predicted"].notna().all()
    for (step, _), group in rows.groupby(["step", "group"]):
        if step in (0, 8):
            assert (group["pick"].iloc[:6] > -2).all()
        else:
            assert group["pick"].iloc[:2].tolist() == [0, 1]
    monkeypatch.undo()
    plain = run(dataset, tmp_path / "plain", train__steps=10, selection__every=8)
    rows = read_log(plain / "selection").to_pandas()
    assert sorted(set(rows["step"][rows["first_order"].notna()])) == [0, 8]


def test_few_target_samples_are_all_that_steer(dataset, tmp_path, monkeypatch):
    from scripts.train import held_out

    seen, share = set(), held_out.HeldOut.share

    def watched(self, samples):
        if self._reader.split == "target":
            seen.update(int(sample) for sample in samples)
        return share(self, samples)

    monkeypatch.setattr(held_out.HeldOut, "share", watched)
    run(dataset, tmp_path / "run", selection__targets=7)
    assert len(seen) == 7


def test_a_prefix_of_the_whole_sample_chooses_and_trains_as_no_prefix_does(dataset, tmp_path):
    """The gradient of the picks then comes from a plain second pass: one more check of the assembled one."""
    plain = run(dataset, tmp_path / "plain", train__dtype="float64")
    prefixed = run(dataset, tmp_path / "prefixed", train__dtype="float64", selection__prefix=16)
    assert log_rows(plain, "step", "group", "pick") == log_rows(prefixed, "step", "group", "pick")
    for ours, theirs in zip(measured(prefixed, *LOSSES), measured(plain, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


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
    assert "holds no run to resume" in _refused(options(dataset, tmp_path / "run", train__resume=True), capsys)
    for text, sentence in [
        ("[train]\nstep = 3", f"unknown key train.step in {bad}"),
        ("[train]\nsteps = '3'", f"train.steps in {bad} must be a int"),
        ("[selection]\nmethod = 'best'", "must be one of regular, greats, topk, gradnorm, not 'best'"),
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
    told = _refused(options(dataset, folder, train__resume=True, train__seed=5, selection__picks=3), capsys)
    assert "train.seed was 0, is 5; selection.picks was 2, is 3" in told


def test_bfloat16_runs_and_stays_near_float32(dataset, tmp_path):
    exact = run(dataset, tmp_path / "exact")
    half = run(dataset, tmp_path / "half", train__dtype="bfloat16")
    for ours, theirs in zip(measured(half, "train_loss"), measured(exact, "train_loss"), strict=True):
        assert ours == pytest.approx(theirs, rel=0.02)


def test_threads_of_a_run_do_not_outlive_it(dataset, tmp_path):
    run(dataset, tmp_path / "run", data__workers=2)
    assert not torch.distributed.is_initialized()
