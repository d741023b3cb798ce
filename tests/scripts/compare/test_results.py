"""What a comparison's numbers are, by hand."""

import math

import pytest

from scripts.compare.plot import draw
from scripts.compare.results import Result, Results, Spread, at, crossing, to_reach
from scripts.compare.study import Study, Trial
from scripts.compare.tables import tables
from scripts.train.config import Config


@pytest.mark.parametrize(
    ("points", "level", "x"),
    [
        ([(0, 8), (10, 6), (20, 5)], 7, 5),
        ([(0, 8), (10, 6), (20, 5)], 5.25, 17.5),
        ([(0, 8), (10, 6), (20, 5)], 5, 20),
        ([(0, 8), (10, 6), (20, 5)], 4.9, math.inf),
        ([(0, 8), (10, 6), (20, 7), (30, 5)], 6.5, 7.5),  # the first crossing, not the last
        ([(0, 8), (10, 8), (20, 7)], 9, 0),
        ([(0, 8), (10, math.nan), (20, 6)], 7, 20),  # nothing is known between
    ],
)
def test_crossing(points, level, x):
    assert crossing(points, level) == pytest.approx(x)


@pytest.mark.parametrize(("x", "y", "spans"), [(0, 8, True), (2.5, 7.5, True), (20, 5, True), (20.5, 5, False)])
def test_loss_at_a_time(x, y, spans):
    assert at([(0, 8), (10, 6), (20, 5)], x) == (y, spans)


def _result(learning_rate, seed, losses, seconds, arm="a", diverged=False):
    lines = [
        {"step": 10 * i, "tokens": 640 * i, "val_loss": y, "test_loss": y, "seconds": s}
        for i, (y, s) in enumerate(zip(losses, seconds, strict=True))
    ]
    return Result(Trial(arm, learning_rate, seed, Config()), lines, diverged)


def test_medians_and_bands_count_what_was_not_reached_as_the_worst():
    runs = [_result(1, 0, (8, 6), (0, 30)), _result(1, 1, (8, 4), (0, 20)), _result(1, 2, (8, 7.5), (0, 10))]
    steps, seconds = to_reach(runs, 7, "step"), to_reach(runs, 7, "seconds")
    assert (steps.low, steps.median, steps.high) == (2.5, 5, math.inf)
    assert seconds.values == (15, 5, math.inf)
    assert (seconds / 20).values == (0.75, 0.25, math.inf)
    assert to_reach([_result(1, 0, (8, 6), (0, 30), diverged=True)], 7, "step").median == math.inf
    assert Spread((1.0, 4.0)).median == 2.5


def test_runs_shorter_than_the_reference_are_marked(tmp_path):
    arms = {"slow": Config(), "fast": Config()}
    study = Study((tmp_path,), arms, (1.0,), (0,), tmp_path)
    results = Results(study, [_result(1.0, 0, (8, 6), (0, 30), "slow"), _result(1.0, 0, (8, 7), (0, 20), "fast")])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(results).splitlines()]
    assert ["fast", "7.000 *", "+1.000"] in cells
    assert ["fast", "not reached (0 of 1 runs)", "–", "–"] in cells
    assert ["slow", "10", "30.0", "1.00"] in cells
    assert ["- fast: not tuned, there is one learning rate."] in cells


def test_a_picture_of_no_runs_and_of_many_arms(tmp_path):
    study = Study((tmp_path,), {f"arm-{i}": Config() for i in range(14)}, (1.0,), (0,), tmp_path)
    draw(Results(study), tmp_path / "none.png")
    runs = [_result(1.0, 0, (8, 6, 5 + i / 10), (0, 30, 60), f"arm-{i}") for i in range(14)]
    draw(Results(study, runs), tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size > (tmp_path / "none.png").stat().st_size > 1000
