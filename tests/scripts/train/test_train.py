"""Whole runs of a tiny model: what selection must not change, determinism, resuming."""

import shutil

import pytest
import torch

from selection.log.reader import read_log
from tests.helpers.runs import DRAWN, LOSSES, log_rows, measured, run, run_on_two_ranks


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
    run(dataset, two, train__dtype="float64", train__resume="yes")
    assert log_rows(one, *identity) == log_rows(two, *identity)
    assert measured(one, "val_loss")[-1] == pytest.approx(measured(two, "val_loss")[-1], rel=1e-9)


def test_a_resumed_run_equals_one_that_was_never_stopped(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000006")
    with open(cut / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 6, "train_')  # a line the kill cut off
    run(dataset, cut, train__resume="yes")
    assert measured(whole, *LOSSES) == measured(cut, *LOSSES)
    assert measured(whole, "val_loss", "test_loss", "step") == measured(cut, "val_loss", "test_loss", "step")
    assert read_log(whole / "selection").equals(read_log(cut / "selection"))


def test_few_target_samples_are_all_that_steer(dataset, tmp_path, monkeypatch):
    from scripts.train import held_out

    seen, share = set(), held_out.HeldOut.share

    def watched(self, samples):
        if self._reader.split == "target":
            seen.update(int(sample) for sample in samples)
        return share(self, samples)

    monkeypatch.setattr(held_out.HeldOut, "share", watched)
    run(dataset, tmp_path / "run", selection__direction__targets=7)
    assert len(seen) == 7


def test_a_prefix_of_the_whole_sample_chooses_and_trains_as_no_prefix_does(dataset, tmp_path):
    """The gradient of the picks then comes from a plain second pass: one more check of the assembled one."""
    plain = run(dataset, tmp_path / "plain", train__dtype="float64")
    prefixed = run(dataset, tmp_path / "prefixed", train__dtype="float64", selection__scoring__prefix=16)
    assert log_rows(plain, "step", "group", "pick") == log_rows(prefixed, "step", "group", "pick")
    for ours, theirs in zip(measured(prefixed, *LOSSES), measured(plain, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_resume_auto_begins_and_goes_on(dataset, tmp_path, capsys):
    whole = run(dataset, tmp_path / "whole", train__resume="auto")
    assert measured(whole, "step") == measured(run(dataset, tmp_path / "plain"), "step")
    shutil.rmtree(whole / "checkpoints" / "step-00000006")
    capsys.readouterr()
    run(dataset, whole, train__resume="auto")
    assert "steps 4 to 6" in capsys.readouterr().out
    assert measured(whole, *LOSSES) == measured(tmp_path / "plain", *LOSSES)


def test_bfloat16_runs_and_stays_near_float32(dataset, tmp_path):
    exact = run(dataset, tmp_path / "exact")
    half = run(dataset, tmp_path / "half", train__dtype="bfloat16")
    for ours, theirs in zip(measured(half, "train_loss"), measured(exact, "train_loss"), strict=True):
        assert ours == pytest.approx(theirs, rel=0.02)


def test_a_bfloat16_run_resumes_at_a_step_that_is_scored(dataset, tmp_path):
    """And not evaluated: its first pass is a recorded one, and a plain one follows at the step after."""
    half = {"train__dtype": "bfloat16", "selection__amortise__every": 2, **DRAWN}
    half |= {"train__checkpoint_every": 2, "train__keep_checkpoints": 3}
    whole = run(dataset, tmp_path / "whole", **half)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for later in ("step-00000004", "step-00000006"):
        shutil.rmtree(cut / "checkpoints" / later)
    run(dataset, cut, train__resume="yes", **half)
    assert measured(whole, *LOSSES) == measured(cut, *LOSSES)
    assert read_log(whole / "selection").equals(read_log(cut / "selection"))


def test_threads_of_a_run_do_not_outlive_it(dataset, tmp_path):
    run(dataset, tmp_path / "run", data__workers=2)
    assert not torch.distributed.is_initialized()
