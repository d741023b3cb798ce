"""Candidates and updates that are not finite: never picked, never made, and told."""

import pytest
import torch

from model.gpt2 import GPT2
from scripts.train.__main__ import main
from scripts.train.loop import MOST_SKIPPED
from selection.log.reader import read_log
from tests.helpers.runs import measured, options
from tests.helpers.survival import STEPS
from tests.scripts.train.test_failures import HANG


@pytest.fixture
def break_losses(monkeypatch):
    """break_losses(rows, value, passes, picks): these rows of losses become inf or nan in these training passes over 6
    candidates, or over so many picks."""

    def install(rows, value, passes, picks=6):
        forward, count = GPT2.forward, [0]

        def broken(model, tokens, targets=None):
            losses = forward(model, tokens, targets)
            if torch.is_grad_enabled() and len(losses) in (6, picks):  # not the 5 target samples
                count[0] += 1
                if count[0] - 1 in passes:
                    factor_N = torch.ones(len(losses))
                    factor_N[rows] = value
                    losses = losses * factor_N
            return losses

        monkeypatch.setattr(GPT2, "forward", broken)

    return install


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["greats", "topk", "gradnorm"])
def test_a_candidate_that_is_not_finite_is_never_picked(dataset, tmp_path, break_losses, method, value):
    """It is logged as what it was, leaves the other candidates' numbers alone, and the run goes on."""
    settings = STEPS | {"train__steps": 3, "train__groups": 1, "selection__method": method}
    assert main(options(dataset, tmp_path / "clean", **settings)) == 0
    clean = read_log(tmp_path / "clean" / "selection").to_pydict()
    best = clean["pick"][:6].index(0)
    break_losses([best], value, passes=[0])
    assert main(options(dataset, tmp_path / "run", **settings)) == 0
    rows = read_log(tmp_path / "run" / "selection").to_pydict()
    assert rows["pick"][best] == -1
    assert sorted(rows["pick"][:6]) == [-1, -1, -1, -1, 0, 1]
    assert not torch.tensor(rows["loss"][best]).isfinite()
    for name in ("loss", "first_order", "self_norm"):
        others = [i for i in range(6) if i != best and clean[name][i] is not None]
        assert [rows[name][i] for i in others] == pytest.approx([clean[name][i] for i in others], rel=1e-5)
    if method == "greats":
        assert torch.tensor([rows["interaction"][i] for i in range(6) if i != best]).isfinite().all()
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(1, False), (0, False), (0, False)]
    assert all(torch.tensor(measured(tmp_path / "run", "train_loss", "grad_norm")).isfinite().flatten())


def test_with_too_few_finite_candidates_those_are_picked(dataset, tmp_path, break_losses):
    break_losses([0, 1, 2, 4, 5], float("nan"), passes=[1])
    settings = STEPS | {"train__steps": 3, "train__groups": 1}
    assert main(options(dataset, tmp_path / "run", **settings)) == 0
    rows = read_log(tmp_path / "run" / "selection").to_pydict()
    assert rows["pick"][6:12] == [-1, -1, -1, 0, -1, -1]
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(0, False), (5, False), (0, False)]


def test_an_update_that_is_not_finite_is_skipped(dataset, tmp_path, break_losses):
    """Without selection the bad sample is trained on, so the whole update goes; the next one is made."""
    break_losses([1], float("nan"), passes=[1], picks=2)
    settings = STEPS | {"train__steps": 3, "train__groups": 1, "selection__method": "regular"}
    assert main(options(dataset, tmp_path / "run", **settings | {"train__eval_every": 1})) == 0
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(0, False), (1, True), (0, False)]
    losses = [loss for (loss,) in measured(tmp_path / "run", "val_loss")]
    assert losses[1] == losses[2]
    assert losses[2] != losses[3]


def test_a_run_that_diverged_stops_with_a_sentence(dataset, tmp_path, break_losses, capsys):
    break_losses([0, 1, 2, 3, 4, 5], float("inf"), passes=range(1, 1000))
    settings = STEPS | {"train__steps": 40, "train__groups": 1, "train__checkpoint_every": 5}
    assert main(options(dataset, tmp_path / "run", **settings)) == 2
    told = capsys.readouterr().err
    assert f"the updates of steps 1 to {MOST_SKIPPED} were not finite and none was made: lower" in told
    assert [skipped for (skipped,) in measured(tmp_path / "run", "skipped")] == [False] + [True] * MOST_SKIPPED


def test_a_run_that_scores_prefixes_and_diverged_stops_with_a_sentence(dataset, tmp_path, break_losses, capsys):
    """The pass over the picks then has no target."""
    break_losses(range(6), float("nan"), passes=range(1000))
    settings = STEPS | {"train__steps": 40, "train__groups": 1, "selection__scoring__prefix": 8}
    assert main(options(dataset, tmp_path / "run", **settings)) == 2
    told = capsys.readouterr().err
    assert f"the updates of steps 0 to {MOST_SKIPPED - 1} were not finite and none was made: lower" in told
    assert [skipped for (skipped,) in measured(tmp_path / "run", "skipped")] == [True] * MOST_SKIPPED


# All that rank 1 scores is not finite; 6: its candidates.
NO_PICK = """
import torch
from model.gpt2 import GPT2
forward = GPT2.forward
def broken(model, tokens, targets=None):
    losses = forward(model, tokens, targets)
    return losses * torch.nan if rank == 1 and torch.is_grad_enabled() and len(losses) == 6 else losses
GPT2.forward = broken
"""


@pytest.mark.parametrize(
    "mode",
    [
        {"selection__scoring__prefix": 8},
        {"selection__method": "topk", "selection__direction__rank": 2},
        {"selection__scoring__parameters": "blocks"},
    ],
    ids=lambda mode: "-".join(mode),
)
def test_a_rank_that_picks_nothing_keeps_step_with_the_others(nursery, dataset, tmp_path, mode):
    arguments = options(dataset, tmp_path / "run", **STEPS | {"train__steps": 3, "train__groups": 2}, **mode)
    answer = nursery.run(arguments, tmp_path / "log", setup=NO_PICK, rank=1, after=2 * HANG, all=True)
    assert answer["codes"] == [0, 0], (tmp_path / "log-0").read_text()
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(6, False)] * 3
    assert all(torch.tensor(measured(tmp_path / "run", "train_loss", "grad_norm")).isfinite().flatten())
    rows = read_log(tmp_path / "run" / "selection").to_pydict()
    assert {group for group, pick in zip(rows["group"], rows["pick"], strict=True) if pick >= 0} == {0}
