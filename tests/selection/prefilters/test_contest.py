"""Turns are as told; the arm whose steps lower the losses most for their cost takes over; the state is all there is."""

import numpy as np
import pytest

from selection.prefilters.contest import Contest, noise_of, ratio

COSTS = np.array([1.0, 1.0, 1.25])
WATCHED = 12


def contest(**changes) -> Contest:
    return Contest(**({"costs_A": COSTS, "first": 2, "block": 1, "watched": WATCHED} | changes))


def play(
    one: Contest, steps: range, falls_A, losses_w, trend=0.0, noise=0.05, shared=0.0, seed=5
) -> tuple[list[int], np.ndarray]:
    """The arms of these steps, each lowering the losses by its fall times (1 - trend x step), more or less by sample
    and, `shared`, by step; and the losses after them."""
    arms = []
    for step in steps:
        if one.watches_at(step):
            one.hear(step, losses_w)
        arms.append(one.arm_at(step))
        draw = np.random.default_rng((step, seed))
        factors_w = draw.normal(1, noise, WATCHED) + draw.normal(0, shared)
        losses_w = losses_w - falls_A[arms[-1]] * (1 - trend * step) * factors_w
    return arms, losses_w


def test_four_blocks_an_arm_in_an_order_and_its_reverse_then_a_hold():
    """With arms of equal worth: blocks of 1 step; then of 2, after a hold of 96 steps."""
    one = contest(costs_A=np.ones(3))
    arms, _ = play(one, range(160), [0.01] * 3, np.full(WATCHED, 5.0), noise=0)
    trial = [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]
    assert arms[:12] == trial
    assert arms[12:108] == [2] * 96
    assert arms[108:132] == list(np.repeat(trial, 2))
    assert arms[132:] == [2] * 28


def test_losses_are_wanted_at_the_borders_of_blocks_alone():
    one = contest()
    wanted = []
    for step in range(40):
        if one.watches_at(step):
            wanted.append(step)
            one.hear(step, np.linspace(5, 4, WATCHED) - 0.01 * step)
    assert wanted == list(range(13))


@pytest.mark.parametrize(
    ("falls", "winner"),
    [
        ([0.010, 0.012, 0.020], 2),
        ([0.010, 0.020, 0.012], 1),
        ([0.020, 0.012, 0.010], 0),
        ([0.010, 0.018, 0.020], 1),  # 0.020 at a cost of 1.25 is 0.016
        ([0.010, 0.010, 0.0125], 2),  # all bring the same for their cost: the one in charge goes on
    ],
)
def test_who_lowers_the_losses_most_for_its_cost_is_in_charge(falls, winner):
    one = contest()
    arms, _ = play(one, range(60), falls, np.full(WATCHED, 5.0), noise=0.01)
    assert one.incumbent == arms[-1] == winner
    assert one.falls_A == pytest.approx(falls, rel=0.02)
    assert one.lead == pytest.approx(falls[2] / falls[0], rel=0.02)  # of the one in charge during the trial


def test_a_trend_of_the_falls_favours_nobody():
    one = contest(costs_A=np.ones(3))
    play(one, range(18), [0.01] * 3, np.full(WATCHED, 5.0), trend=0.02, noise=0)
    assert one.falls_A == pytest.approx(np.full(3, one.falls_A[0]))
    assert one.lead == pytest.approx(1)


@pytest.mark.parametrize(
    ("noise", "shared"), [(1.0, 0.0), (0.0, 0.5), (0.5, 0.5)], ids=["of-samples", "of-steps", "of-both"]
)
def test_noise_seldom_changes_who_is_in_charge(noise, shared):
    """Two challengers, each ahead by 2.4 errors by chance in 2 of 100 cases."""
    changed = 0
    for seed in range(300):
        one = contest(costs_A=np.ones(3))
        play(one, range(13), [0.01] * 3, np.full(WATCHED, 5.0), noise=noise, shared=shared, seed=seed)
        changed += one.incumbent != 2
    assert changed <= 18


def test_who_is_far_ahead_is_seen_through_the_noise_of_the_steps():
    seen = 0
    for seed in range(100):
        one = contest(costs_A=np.ones(3))
        play(one, range(13), [0.01, 0.02, 0.01], np.full(WATCHED, 5.0), noise=0.2, shared=0.2, seed=seed)
        seen += one.incumbent == 1
    assert seen >= 95


def test_the_noise_of_blocks_is_what_arms_and_a_trend_leave_over():
    order_b, draw = np.array([0, 1, 2, 2, 1, 0] * 2), np.random.default_rng(0)
    falls_b = np.array([0.3, 0.1, 0.2])[order_b] - 0.01 * np.arange(12)
    assert noise_of(falls_b, order_b) == pytest.approx(0, abs=1e-20)
    found = [noise_of(falls_b + draw.normal(0, 0.5, 12), order_b) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0.25, rel=0.03)


def test_who_is_clearly_behind_sits_out_the_next_trial_and_comes_back_after_it():
    one = contest(costs_A=np.ones(3))
    _, losses_w = play(one, range(12), [0.005, 0.010, 0.010], np.full(WATCHED, 5.0), noise=0.01)
    second, losses_w = play(one, range(12, 12 + 96 + 16), [0.005, 0.010, 0.010], losses_w, noise=0.01)
    assert second == [2] * 96 + list(np.repeat([1, 2, 2, 1, 1, 2, 2, 1], 2))
    third, _ = play(one, range(124, 124 + 192 + 48), [0.005, 0.010, 0.010], losses_w, noise=0.01)
    assert third[192:] == list(np.repeat([0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0], 4))


def test_a_restored_one_goes_on_as_the_saved_one():
    """Saved within the trial, before the decision."""
    falls, losses_w = [0.01, 0.03, 0.02], np.full(WATCHED, 5.0)
    saved, restored = contest(), contest()
    _, losses_w = play(saved, range(5), falls, losses_w)
    restored.load_state_dict(saved.state_dict())
    first, _ = play(saved, range(5, 200), falls, losses_w)
    assert play(restored, range(5, 200), falls, losses_w)[0] == first
    assert saved.incumbent == restored.incumbent == 1
    assert (saved.lead, saved.lead_error) == (restored.lead, restored.lead_error)


def test_the_error_of_a_ratio_is_that_of_drawing_the_samples_anew():
    draw = np.random.default_rng(0)
    under = draw.normal(1, 0.2, (4000, 50))
    over = 2 * under + draw.normal(0, 0.3, under.shape)
    found = np.array([ratio(*pair) for pair in zip(over, under, strict=True)])
    assert found[:, 0].mean() == pytest.approx(2, abs=0.01)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.05)


def test_the_error_of_a_ratio_counts_what_moves_all_samples_alike():
    draw = np.random.default_rng(0)
    moves = draw.normal(0, 0.05, (4000, 2))
    found = np.array([ratio(np.full(9, 2 + over), np.full(9, 1 + under), 0.05**2) for over, under in moves])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.05)


def test_losses_that_are_not_finite_change_nobody():
    one = contest()
    for step in range(26):
        if one.watches_at(step):
            one.hear(step, np.full(WATCHED, np.nan))
    assert one.incumbent == 2
