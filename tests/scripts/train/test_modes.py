"""Whole runs in every mode, behind a prefilter, and on replicas of the model."""

import json
import shutil

import numpy as np
import pytest
import torch

from model import checkpoint
from scripts.train.config import Config, Data, Train
from selection.log.reader import read_log
from tests.helpers.runs import DRAWN, LOSSES, log_rows, measured, run, run_on_ranks, run_on_two_ranks

MODES = [
    {"selection__direction__rank": 2, "selection__direction__decay": 0.9},
    {
        "selection__direction__preconditioner": "adam",
        "selection__direction__rank": 2,
        "selection__method": "topk",
    },
    {"selection__scoring__prefix": 8, "selection__scoring__parameters": "blocks"},
    {"selection__scoring__memory": "streamed", "selection__direction__rank": 2},
    {"selection__interaction__sketch": 4},
    {"selection__amortise__every": 4, "selection__amortise__drawn": 12},
    {**DRAWN, "selection__amortise__by": "importance", "selection__direction__targets": 7},
    {"selection__method": "bottomk"},
    {"selection__method": "gradnorm"},
    {"selection__method": "gradnorm", **DRAWN},
    {"selection__method": "maxloss", "selection__scoring__prefix": 8},
    {"selection__method": "momentum"},
    {"selection__method": "opus", "selection__direction__decay": 0.5},
    {"selection__method": "importance", "selection__candidates": 12},
    {"selection__method": "importance", "selection__candidates": 12, "selection__filter__temperature": 1.0},
    {"selection__method": "match", "selection__candidates": 12},
    {"selection__method": "need", "selection__candidates": 12, "selection__need__every": 2},
    {"selection__method": "auto", "selection__candidates": 12, "selection__auto__block": 1},
]
CASCADE = {"selection__amortise__every": 2, **DRAWN}
OFTEN = {"selection__need__every": 2, "selection__need__samples": 5, "selection__need__clusters": 2}
BY_NEED = {"selection__method": "topk", **CASCADE, "selection__amortise__by": "need", **OFTEN}
MODES.append(BY_NEED)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode))
def test_every_mode_chooses_in_its_own_way_and_resumes_exactly(dataset, tmp_path, mode):
    whole = run(dataset, tmp_path / "whole", **mode)
    exact = run(dataset, tmp_path / "exact")
    columns = ("interaction",) if "selection__interaction__sketch" in mode else ("score",)
    assert log_rows(whole, *columns) != log_rows(exact, *columns)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000006")
    run(dataset, cut, train__resume="yes", **mode)
    assert measured(whole, *LOSSES) == measured(cut, *LOSSES)
    assert read_log(whole / "selection").equals(read_log(cut / "selection"))


def test_a_run_streams_where_what_it_would_keep_does_not_fit(dataset, tmp_path, monkeypatch, capfd):
    """And picks the same. The device is said to have a megabyte."""
    kept = run(dataset, tmp_path / "kept", train__dtype="float64")
    assert "streamed" not in capfd.readouterr().err
    monkeypatch.setattr("model.world.World.memory", 1e6)
    short = run(dataset, tmp_path / "short", train__dtype="float64")
    said = "scores are streamed: to keep what a pass records takes about 0.0 GiB of 0.0 a rank"
    assert said in capfd.readouterr().err
    assert log_rows(short, "sample_id", "pick") == log_rows(kept, "sample_id", "pick")
    assert np.allclose(measured(short, *LOSSES), measured(kept, *LOSSES), rtol=1e-9)


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


def test_need_behind_a_method_logs_what_it_predicts_and_scores_only_what_was_scored(dataset, tmp_path):
    folder = run(dataset, tmp_path / "run", **BY_NEED, selection__filter__when="always")
    rows = read_log(folder / "selection").to_pandas()
    assert rows["predicted"].notna().all()
    for (step, _), group in rows.groupby(["step", "group"]):
        scored, fates = step % 2 == 0, group["pick"].value_counts()
        assert fates.to_dict() == ({-2: 6, -1: 4, 0: 1, 1: 1} if scored else {-2: 10, 0: 1, 1: 1})
        assert (group["score"].notna() == (scored & (group["pick"] > -2))).all()
        if scored:
            assert set(group.nlargest(2, "score")["sample_id"]) == set(group["sample_id"][group["pick"] >= 0])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "train_loss" in line]
    assert [line["prefilter_on"] for line in lines] == [True] * 6
    assert len({line["prefilter_separation"] for line in lines}) == 1
    heard = [line["cluster_loss"] for line in lines]
    assert heard[0] == heard[1] != heard[2] == heard[3] != heard[4] == heard[5]


def test_a_step_that_is_not_scored_trains_as_a_plain_one_on_its_picks(dataset, tmp_path):
    """With all that is drawn picked, a cascade is a regular run but for the order of its groups' samples."""
    regular = run(dataset, tmp_path / "regular", selection__method="regular", train__dtype="float64")
    picked = {"selection__candidates": 2, "selection__amortise__drawn": 2, "selection__amortise__every": 3}
    cascade = run(dataset, tmp_path / "cascade", train__dtype="float64", **picked)
    for ours, theirs in zip(measured(cascade, *LOSSES), measured(regular, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_predictions_learn_from_scores_with_one_step_between(dataset, tmp_path):
    """What step 0 scored is first used at step 2; a run without learning predicts the same until then."""
    taught = run(dataset, tmp_path / "taught", **CASCADE)
    other = run(dataset, tmp_path / "other", **CASCADE, selection__direction__samples=3)  # other scores, the same start
    ours, theirs = (read_log(folder / "selection").to_pandas() for folder in (taught, other))
    same = (ours["predicted"] == theirs["predicted"]).groupby(ours["step"]).all()
    assert same.tolist() == [True, True, False, False, False, False]


def test_a_cascade_chooses_the_same_on_one_and_two_ranks(dataset, tmp_path):
    one = run(dataset, tmp_path / "one", train__dtype="float64", **CASCADE)
    two = run_on_two_ranks(dataset, tmp_path / "two", train__dtype="float64", data__workers=1, **CASCADE)
    identity = ("step", "group", "sample_id", "pick", "predicted")
    assert log_rows(one, *identity) == log_rows(two, *identity)
    shutil.rmtree(two / "checkpoints" / "step-00000006")
    run(dataset, two, train__dtype="float64", train__resume="yes", **CASCADE)
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


@pytest.mark.parametrize("method", ["momentum", "opus"])
def test_methods_by_the_optimizers_moments_choose_the_same_on_one_and_two_ranks(dataset, tmp_path, method):
    """Sharded moments are gathered, and what is drawn at random depends on the group alone."""
    mode = {"selection__method": method, "train__dtype": "float64"}
    one = run(dataset, tmp_path / "one", **mode)
    two = run_on_two_ranks(dataset, tmp_path / "two", **mode)
    identity = ("step", "group", "sample_id", "pick")
    assert log_rows(one, *identity) == log_rows(two, *identity)
    ours, theirs = (np.array(log_rows(folder, "score")["score"]) for folder in (one, two))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(ours).max())


def test_what_chooses_by_text_chooses_the_same_on_one_and_two_ranks(dataset, tmp_path):
    """Watched samples are dealt to the ranks, noise depends on the group alone, picks are added up."""
    for name, mode in (
        ("need", OFTEN),
        ("by-need", BY_NEED),
        ("auto", {"selection__auto__block": 1, "selection__need__every": 2, "selection__need__samples": 5}),
        ("importance", {"selection__filter__temperature": 1.0}),
        ("match", {}),
    ):
        if mode is not BY_NEED:
            mode = mode | {"selection__method": name, "selection__candidates": 12}
        mode = mode | {"train__dtype": "float64"}
        one = run(dataset, tmp_path / f"{name}-one", **mode)
        two = run_on_two_ranks(dataset, tmp_path / f"{name}-two", **mode)
        identity = ("step", "group", "sample_id", "pick", "predicted")
        assert log_rows(one, *identity) == log_rows(two, *identity)
        if "selection__need__every" in mode:
            for (ours,), (theirs,) in zip(measured(one, "share"), measured(two, "share"), strict=True):
                assert ours == pytest.approx(theirs, rel=1e-9)
            before = measured(one, "picked_before")
            assert before == measured(two, "picked_before")
            assert before[1:] != [(None,)] * 5


def test_the_picks_of_a_step_are_logged_in_one_order_where_its_groups_compete(dataset, tmp_path):
    pooled = {"selection__method": "topk", "selection__pool": "step", "train__dtype": "float64"}
    folder = run(dataset, tmp_path / "one", **pooled)
    rows = read_log(folder / "selection").to_pylist()
    for step in range(6):
        ranked = sorted((row for row in rows if row["step"] == step), key=lambda row: -row["score"])
        assert [row["pick"] for row in ranked] == [*range(8), *[-1] * 16]
    assert len({row["group"] for row in rows if row["step"] == 0 and row["pick"] >= 0}) > 1
    both = run_on_two_ranks(dataset, tmp_path / "two", **pooled)
    assert log_rows(folder, *IDENTITY) == log_rows(both, *IDENTITY)
    for ours, theirs in zip(measured(folder, *LOSSES), measured(both, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


# Hybrid sharding: four processes as two replicas of two.
STEPS = {"train__steps": 10, "train__dtype": "float64", "selection__method": "topk"}
RUNNING = {"selection__direction__rank": 4, "selection__direction__decay": 0.5}
IDENTITY = ("step", "group", "sample_id", "pick")
NAMES = ("model.wte.weight", "model.blocks.1.mlp.fc.weight", "model.ln_f.weight")


def weights(folder) -> list[torch.Tensor]:
    newest = checkpoint.latest(folder / "checkpoints")
    saved = torch.distributed.checkpoint.FileSystemReader(newest).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(saved[name].size, dtype=torch.float64) for name in NAMES}
    checkpoint.read_tensors(newest, tensors)
    return list(tensors.values())


def alike(folder, other) -> None:
    assert log_rows(folder, *IDENTITY) == log_rows(other, *IDENTITY)
    for ours, theirs in zip(measured(folder, *LOSSES), measured(other, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert measured(folder, "val_loss") == [pytest.approx(loss, rel=1e-9) for loss in measured(other, "val_loss")]
    for ours, theirs in zip(weights(folder), weights(other), strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


def test_two_replicas_of_two_train_as_one_process_and_go_on_as_it(dataset, tmp_path):
    chosen = STEPS | RUNNING | DRAWN | {"selection__amortise__every": 2}
    one = run(dataset, tmp_path / "one", **chosen)
    four = run_on_ranks(4, dataset, tmp_path / "four", train__replicas=2, **chosen)
    alike(four, one)
    # A checkpoint of two replicas goes on in one process, and one of that in two replicas.
    shutil.copytree(four, tmp_path / "alone")
    for folder in (tmp_path / "alone", one):
        shutil.rmtree(folder / "checkpoints" / "step-00000010")
    run(dataset, tmp_path / "alone", train__resume="yes", **chosen)
    alike(tmp_path / "alone", four)
    run_on_ranks(4, dataset, one, train__resume="yes", train__replicas=2, **chosen)
    alike(one, four)


@pytest.mark.parametrize(
    ("replicas", "problem"), [(3, r"\(3\) must divide the number of ranks \(4\)"), (0, "at least 1")]
)
def test_replicas_that_cannot_be_are_refused(monkeypatch, replicas, problem):
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = Config(Data("data/demo"), train=Train(groups=4, replicas=replicas), out="runs/x")
    with pytest.raises(ValueError, match=f"train.replicas .*{problem}"):
        config.check()
