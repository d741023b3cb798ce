import pytest
import torch
from torch import nn

from model.optimizer import build_adamw, clip_gradient, learning_rate_at


def test_schedule_warms_up_and_falls_by_half_a_cosine():
    rates = [learning_rate_at(step, 11, 3, 6.0, 2.0) for step in range(11)]
    assert rates[:3] == [2.0, 4.0, 6.0]
    assert rates[3] == 6.0
    assert rates[-1] == pytest.approx(2.0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert (learning_rate_at(6, 10, 3, 6.0, 2.0)) == pytest.approx(4.0)  # half way between step 3 and step 9
    assert learning_rate_at(0, 1, 0, 6.0, 2.0) == 6.0


def test_only_matrices_decay():
    layer = nn.Linear(3, 2)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = build_adamw(layer, learning_rate=0.1, weight_decay=0.5)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, before["bias"])


def test_clipping_is_by_the_norm_over_all_parameters():
    layer = nn.Linear(1, 1)
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
    assert clip_gradient(layer, 0.0).item() == pytest.approx(5.0)
    assert layer.bias.grad.item() == 4.0
    assert clip_gradient(layer, 2.5).item() == pytest.approx(5.0)
    assert layer.weight.grad.item() == pytest.approx(1.5, rel=1e-5)
    assert layer.bias.grad.item() == pytest.approx(2.0, rel=1e-5)
