"""The judge on series of correlations as runs have them, and within-group correlation by hand."""

import math

import numpy as np
import pytest

from selection.prefilters.judge import ERRORS_ABOVE_ZERO, FEWEST, SEPARATION, WINDOW, Judge, group_correlation

CHANCE = 0.5


def oscillating(mean, seed=0, steps=200, spread=0.4):
    return np.clip(mean + spread * np.random.default_rng(seed).standard_normal(steps), -1, 1)


def states(judge, correlations, separation=CHANCE):
    found = []
    for correlation in correlations:
        judge.hear(float(correlation), separation)
        found.append(judge.on)
    return found


def test_correlation_is_within_groups_and_leaves_out_what_is_not_finite():
    predicted = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 0.0], [1.0, 1.0, 1.0]])
    scores = np.array([[2.0, 4.0, 6.0], [1.0, 0.0, np.nan], [1.0, 2.0, 3.0]])
    assert group_correlation(predicted, scores) == pytest.approx((1 - 1) / 2)
    assert math.isnan(group_correlation(predicted[2:], scores[2:]))
    assert group_correlation(np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 2.0, 1.0]])) == pytest.approx(0.5)


def test_a_predictor_that_earns_on_average_is_kept_though_single_steps_contradict():
    correlations = oscillating(0.25, steps=100)
    assert (correlations < 0).mean() > 0.2
    assert all(states(Judge(separation=0.8), correlations[:FEWEST], separation=0.8))
    judge = Judge(separation=0.8)
    assert all(states(judge, correlations[:WINDOW], separation=0.8))
    assert all(states(judge, correlations[WINDOW:]))


def test_target_text_keeps_one_whose_scores_fail():
    assert all(states(Judge(separation=0.8), oscillating(-0.2), separation=0.8))


def test_a_predictor_that_tells_nothing_is_off_from_the_start_and_stays_off():
    for seed in range(10):
        judge = Judge(separation=0.52)
        assert not judge.on
        # Three standard errors over windows that overlap: now and then noise gets through, for a while.
        assert np.mean(states(judge, oscillating(0.0, seed), separation=0.52)) < 0.1


def test_one_that_stops_earning_is_switched_off_and_on_again_when_it_earns():
    judge = Judge(separation=CHANCE)
    found = states(judge, [*oscillating(0.5, 1, 40), *oscillating(-0.1, 2, 80), *oscillating(0.5, 3, 80)])
    assert not any(found[: FEWEST - 1])
    assert found[39]
    assert not found[119]
    assert found[-1]


def test_the_bars_to_stay_are_lower_than_those_to_enter():
    between = (SEPARATION[True] + SEPARATION[False]) / 2
    entered, stayed = Judge(separation=between), Judge(separation=0.9)
    entered.on = False
    entered.hear(math.nan, between)
    stayed.hear(math.nan, between)
    assert (entered.on, stayed.on) == (False, True)
    assert ERRORS_ABOVE_ZERO[True] < ERRORS_ABOVE_ZERO[False]


def test_a_judge_is_restored_whole():
    judge = Judge(separation=CHANCE)
    states(judge, oscillating(0.3, steps=21))
    again = Judge(separation=CHANCE)
    again.load_state_dict(judge.state_dict())
    later = oscillating(0.0, seed=5)
    assert states(judge, later) == states(again, later)
    assert judge.findings() == again.findings()
