"""Methods that read AdamW's moments, against plain autograd in float64 after some steps."""

import numpy as np
import pytest
import torch

from selection.methods import Moment
from selection.methods.opus import Steps
from selection.prefilters.cascade import gumbel
from selection.settings import DirectionSettings, Selection
from tests.helpers import oracle
from tests.helpers.recording import close
from tests.helpers.selecting import RATE, batch, build, drawn, take_steps, tokens

K, N, M, STEPS, SEED = 3, 8, 4, 3, 5
ASKED = {"opus": Selection("opus", K, N, DirectionSettings(M)), "momentum": Selection("momentum", K, N)}


def trained(method: str):
    """A selector after some steps of an optimizer, and the step that comes next."""
    selector, model, optimizer = build(ASKED[method])
    selector._seed = SEED
    take_steps(selector, model, optimizer, range(STEPS))
    return selector, model, optimizer


def gradients(model, pairs) -> torch.Tensor:
    return torch.stack([oracle.flat(gradient) for gradient in oracle.gradients_of_samples(model, *pairs)])


def flat_state(model, optimizer, name: str) -> torch.Tensor:
    return torch.cat([optimizer.state[p][name].flatten() for p in model.parameters()])


def test_momentum_ranks_by_the_running_mean_of_past_gradients():
    """The mean is made again from the gradient of every step, by Adam's recursion; at first there is none."""
    selector, model, optimizer = build(ASKED["momentum"])
    mean_P = torch.zeros(sum(p.numel() for p in model.parameters())).double()
    for step in range(STEPS):
        tokens_GnT1, features_GnF = drawn(selector.settings, step)
        expected_GN = [
            gradients(model, batch(tokens_NT1)) @ mean_P / (1 - 0.9**step or 1.0) for tokens_NT1 in tokens_GnT1
        ]
        choices = selector.choose(step, tokens_GnT1, features_GnF, RATE)
        for choice, expected_N in zip(choices, expected_GN, strict=True):
            assert close(choice.score, expected_N)
            assert choice.picks.tolist() == (-expected_N).argsort(stable=True)[:K].tolist()
        mean_P = 0.9 * mean_P + 0.1 * oracle.flat({name: p.grad for name, p in model.named_parameters()})
        optimizer.step()
        optimizer.zero_grad()


def opus_by_hand(scores_N, steps_NN, lane: int, step: int) -> list[int]:
    """The published rule in numpy, a pick at a time."""
    noise_kN = gumbel(K * N, SEED, step, lane).reshape(K, N).astype(np.float64)
    picks: list[int] = []
    for noise_N in noise_kN:
        gains_N = np.array([RATE * scores_N[i] - RATE**2 * sum(steps_NN[i, j] for j in picks) for i in range(N)])
        drawn_N = gains_N / (RATE * scores_N).std() / 0.9 + noise_N
        picks.append(max((i for i in range(N) if i not in picks), key=lambda i: drawn_N[i]))
    return picks


def test_opus_scores_and_draws_by_adams_steps():
    selector, model, optimizer = trained("opus")
    correction = 1 - 0.95**STEPS
    divisor_P = (flat_state(model, optimizer, "exp_avg_sq") / correction).sqrt() + 1e-8
    v_P = gradients(model, batch(tokens(7, STEPS, samples=M) // 2)).mean(0)
    tokens_GnT1, features_GnF = drawn(selector.settings, STEPS)
    expected = []
    for tokens_NT1 in tokens_GnT1:
        u_NP = gradients(model, batch(tokens_NT1)) / divisor_P
        expected.append((u_NP @ v_P, u_NP @ u_NP.T))
    choices = selector.choose(STEPS, tokens_GnT1, features_GnF, RATE)
    for lane, (choice, (scores_N, steps_NN)) in enumerate(zip(choices, expected, strict=True)):
        assert close(choice.score, scores_N)
        assert close(choice.first_order, scores_N)
        assert choice.picks.tolist() == opus_by_hand(scores_N.numpy(), steps_NN.numpy(), lane, STEPS)
        assert choice.interaction is None  # the log's is one of raw gradients


def test_opus_products_of_steps_equal_autograd():
    selector, model, optimizer = trained("opus")
    divisor_P = (flat_state(model, optimizer, "exp_avg_sq") / (1 - 0.95**STEPS)).sqrt() + 1e-8
    tokens_GnT1, features_GnF = drawn(selector.settings, STEPS)
    expected = [gradients(model, batch(tokens_NT1)) / divisor_P for tokens_NT1 in tokens_GnT1]
    measure, measured = selector.method.measure, []
    selector.method.measure = lambda *of: measured.append(measure(*of)) or measured[-1]
    selector.choose(STEPS, tokens_GnT1, features_GnF, RATE)
    for u_NP, found in zip(expected, measured, strict=True):
        assert close(found.steps_NN, u_NP @ u_NP.T)


def test_opus_draws_by_the_softmax_of_the_gains():
    """Of two candidates without interaction the first is drawn first as often as softmax says."""
    method, scores_N = build(ASKED["opus"])[0].method, torch.tensor([1.0, 0.0]).double()
    measured = Steps(scores_N, steps_NN=torch.zeros(2, 2))
    firsts = [method.pick(scores_N, measured, Moment(step, 0, SEED, RATE))[0].item() for step in range(4000)]
    expected = 1 / (1 + np.exp(-2 / 0.9))  # the two are two standard deviations apart
    assert firsts.count(0) / 4000 == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / 4000))


def test_opus_interactions_keep_alike_candidates_apart():
    """Once one of two equal candidates is picked the other is all but excluded, where their steps weigh enough."""
    method = build(Selection("opus", 2, 4, DirectionSettings(M)))[0].method
    scores_N, steps_NN = torch.tensor([1.0, 1.0, 0.99, 0.98]).double(), torch.eye(4).double()
    steps_NN[0, 1] = steps_NN[1, 0] = 1.0

    def drawn_at(weight: float) -> list[list[int]]:
        measured = Steps(scores_N, steps_NN=weight * steps_NN)
        return [sorted(method.pick(scores_N, measured, Moment(step, 0, SEED, RATE)).tolist()) for step in range(50)]

    assert [0, 1] in drawn_at(0.0)
    assert [0, 1] not in drawn_at(1e6)
