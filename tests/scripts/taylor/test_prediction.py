"""Predicted changes against actual ones on a tiny float64 model, and the formulas they are made of."""

import numpy as np
import pytest
import torch

from model.optimizer import build_adamw, clip_gradient
from scripts.taylor.landscape import Landscape
from scripts.taylor.stage import PREDICTORS, Sizes, Stage
from scripts.taylor.walks import AdamW, Sgd, walk
from tests.helpers import oracle
from tests.helpers.recording import batch, close, gpt2

K = 4
SIZES = Sizes(steps=(1, 2), batches=5, walks=3, picks=K)


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    model = gpt2()
    landscape = Landscape(model)
    weights_P = landscape.flat(dict(model.named_parameters()))
    return model, landscape, weights_P, batch(40), batch(6)


def stage(world, rate: float, sizes: Sizes = SIZES) -> Stage:
    _, landscape, weights_P, pool, target = world
    return Stage(7, landscape, weights_P, {"sgd": Sgd(rate)}, pool, target, sizes)


def flat_gradients(world, pairs) -> torch.Tensor:
    return torch.stack([oracle.flat(gradient) for gradient in oracle.gradients_of_samples(world[0], *pairs)])


def test_gradient_and_curvature_are_those_of_the_loss(world):
    _, landscape, weights_P, _, target = world
    gradient_P = landscape.gradient(weights_P, target)
    assert close(gradient_P, flat_gradients(world, target).mean(0))
    along_P = torch.randn_like(weights_P)

    def slope(shift: float) -> float:
        return (landscape.gradient(weights_P + shift * along_P, target) @ along_P).item()

    h = 1e-4  # a central difference with its own error of h^2 taken out
    difference = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
    assert landscape.curvature(weights_P, along_P, target) == pytest.approx(difference, rel=1e-6)


def rows_of(world, rate: float, experiment: str = "steps", setting: float = 1) -> list[dict]:
    found = stage(world, rate).rows()
    return [row for row in found if (row["experiment"], row["setting"]) == (experiment, setting)]


def test_errors_fall_as_the_terms_left_out_do(world):
    """At half the rate: a fourth of the error to first order, an eighth with the exact second order."""
    large, small = rows_of(world, 2e-4), rows_of(world, 1e-4)
    for predictor, factor in (("first", 4), ("exact", 8)):
        errors = [np.array([row[predictor] - row["actual"] for row in rows]) for rows in (large, small)]
        np.testing.assert_allclose(errors[0] / errors[1], factor, rtol=0.1)


def test_h_as_the_identity_is_the_published_formula(world):
    """- (eta / k) sum <g_i, v> + (eta / k)^2 / 2 sum_ij <g_i, g_j>, from per-sample gradients of autograd."""
    rate, (_, _, _, pool, target) = 0.3, world
    g_BP, v_P = flat_gradients(world, pool), flat_gradients(world, target).mean(0)
    drawn = stage(world, rate)._drawn("steps", 1, SIZES.batches)
    for row, (picks,) in zip(rows_of(world, rate), drawn, strict=True):
        a, g_kP = rate / K, g_BP[picks]
        first = -a * (g_kP @ v_P).sum().item()
        assert row["first"] == pytest.approx(first, rel=1e-9)
        assert row["identity"] == pytest.approx(first + a**2 / 2 * (g_kP @ g_kP.T).sum().item(), rel=1e-9)


def test_the_actual_change_of_several_steps_takes_gradients_along_the_way(world):
    model, landscape, weights_P, (inputs, targets), target = world
    rate = 0.2
    for row, batches in zip(rows_of(world, rate, setting=2), stage(world, rate)._drawn("steps", 2, 3), strict=True):
        at_P = weights_P
        for picks in batches:
            at_P = at_P - rate * landscape.gradient(at_P, (inputs[picks], targets[picks]))
        before, after = landscape.loss(weights_P, target), landscape.loss(at_P, target)
        assert row["actual"] == pytest.approx(after - before, rel=1e-9)
        assert row["first"] != pytest.approx((landscape.gradient(weights_P, target) @ (at_P - weights_P)).item())


def test_adamw_walks_as_torchs_does():
    """Three steps with clipping and decay, then two more from where these left the moments."""
    torch.manual_seed(1)
    model = gpt2()
    landscape, pairs = Landscape(model), batch(5)
    optimizer = build_adamw(model, learning_rate=0.03, weight_decay=0.3)

    def torchs_steps(count: int) -> torch.Tensor:
        for _ in range(count):
            model(*pairs).mean().backward()
            clip_gradient(model, 0.5)
            optimizer.step()
            optimizer.zero_grad()
        return landscape.flat(dict(model.named_parameters()))

    def state(name: str) -> torch.Tensor:
        return landscape.flat({key: optimizer.state[p][name] for key, p in model.named_parameters()})

    start_P = torchs_steps(3)
    decay_P = landscape.flat({key: torch.full_like(p, 0.3 * (p.dim() > 1)) for key, p in model.named_parameters()})
    ours = AdamW(0.03, 3, state("exp_avg"), state("exp_avg_sq"), decay_P, clip=0.5)
    gradient_P = landscape.gradient(start_P, pairs)
    divisor_P = (state("exp_avg_sq") / (1 - 0.95**3)).sqrt() + 1e-8
    assert close(ours.preconditioned(gradient_P), gradient_P / divisor_P)
    end_P = walk(ours, start_P, [lambda weights_P: landscape.gradient(weights_P, pairs)] * 2)
    assert (end_P - torchs_steps(2)).abs().max() < 1e-6
    assert torch.equal(end_P, walk(ours, start_P, [lambda weights_P: landscape.gradient(weights_P, pairs)] * 2))


def test_a_stage_has_all_its_rows(world):
    found = stage(world, 0.1)
    rows = list(found.rows())
    assert len(rows) == found.count
    settings = {
        name: sorted({row["setting"] for row in rows if row["experiment"] == name})
        for name in ("steps", "targets", "pools", "rates", "batches")
    }
    assert settings == {
        "steps": [1, 2],
        "targets": [2, 4, 6],
        "pools": [1, 2, 4, 8],
        "rates": [0.25, 1, 4, 16],
        "batches": [2, 8, 32],
    }
    assert {key for row in rows for key in row} & PREDICTORS.keys() == {"first", "identity", "measured", "exact"}
    best = [
        np.mean([row["first"] for row in rows if (row["experiment"], row["setting"]) == ("pools", ratio)])
        for ratio in (1, 2, 4, 8)
    ]
    assert best == sorted(best, reverse=True)  # the more to choose from, the lower the first-order change


def test_measured_curvature_makes_the_second_order_right_on_average(world):
    """c |d|^2 summed over the steps it was measured on is <d, H d> summed, whatever the rate."""
    _, landscape, weights_P, _, target = world
    found = stage(world, 0.1)
    c = found._measured_curvature(Sgd(0.1))
    steps = [found._displacement(Sgd(0.1), batches) for batches in found._drawn("calibration", 0, 4)]
    products = [landscape.curvature(weights_P, step_P, target) for step_P in steps]
    assert c * sum((step_P @ step_P).item() for step_P in steps) == pytest.approx(sum(products), rel=1e-9)
    assert found._measured_curvature(Sgd(0.7)) == pytest.approx(c, rel=1e-9)
