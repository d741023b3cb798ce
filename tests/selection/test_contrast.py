"""The mean gradient of further candidates, taken off the direction in its own pass."""

import pytest
import torch

from selection.direction import RunningDirection
from selection.settings import Selection, replaced
from tests.helpers import oracle
from tests.helpers.recording import close
from tests.helpers.selecting import GROUPS, RATE, batch, build, drawn, take_steps, tokens

K, N, M, CONTRAST = 2, 6, 4, 3


def settings(**changes) -> Selection:
    chosen = Selection(method="topk", picks=K, candidates=N)
    given = {"direction__samples": M, "direction__contrast": CONTRAST} | changes
    for key, value in given.items():
        chosen = replaced(chosen, key.replace("__", "."), value)
    return chosen


def gradients(model, pairs) -> torch.Tensor:
    return torch.stack([oracle.flat(gradient) for gradient in oracle.gradients_of_samples(model, *pairs)])


def contrasted(model, tokens_GnT1) -> torch.Tensor:
    """[P], by autograd: mean over the target samples less mean over the last candidates of all groups."""
    target_mP = gradients(model, batch(tokens(7, 0, samples=M) // 2))
    pool_pP = gradients(model, batch(tokens_GnT1[:, -CONTRAST:].flatten(0, 1)))
    return target_mP.mean(0) - pool_pP.mean(0)


def test_scores_are_along_the_difference_of_two_means():
    chosen = settings()
    assert chosen.drawn == N + CONTRAST
    selector, model, _ = build(chosen)
    tokens_GnT1, features_GnF = drawn(chosen, 0)
    v_P = contrasted(model, tokens_GnT1)
    expected_GN = [gradients(model, batch(tokens_nT1[:N])) @ v_P for tokens_nT1 in tokens_GnT1]
    for choice, expected_N in zip(selector.choose(0, tokens_GnT1, features_GnF, RATE), expected_GN, strict=True):
        assert choice.measured.tolist() == list(range(N))  # those of the contrast are drawn, and not scored
        assert close(choice.first_order, expected_N)
        assert choice.picks.tolist() == expected_N.topk(K).indices.tolist()


def test_the_running_average_is_one_of_differences():
    chosen = settings(direction__decay=0.5)
    selector, model, _ = build(chosen)
    tokens_GnT1, features_GnF = drawn(chosen, 0)
    v_P = contrasted(model, tokens_GnT1)
    selector.choose(0, tokens_GnT1, features_GnF, RATE)
    assert isinstance(selector._running, RunningDirection)
    sums_P = oracle.flat(selector._running.state_dict()["sums"])
    assert close(sums_P, 0.5 * v_P)  # not yet corrected for the one update


@pytest.mark.parametrize("scores", [True, False])
def test_with_a_prefilter_they_are_left_out_of_the_shortlist_where_there_are_scores(scores):
    chosen = settings(amortise__drawn=12, amortise__every=2)
    assert chosen.drawn == 12 + CONTRAST
    selector, model, optimizer = build(chosen)
    steps = take_steps(selector, model, optimizer, range(8))[0 if scores else 1 :: 2]
    seen = {place for choices in steps for choice in choices for place in choice.measured.tolist()}
    assert max(seen) < 12 if scores else max(seen) >= 12
    for choice in (choice for choices in steps for choice in choices):
        assert choice.predicted.shape == (12 + CONTRAST,)
    assert len(steps[0]) == GROUPS


def test_a_method_that_does_not_aim_refuses_it():
    with pytest.raises(ValueError, match=r"selection\.direction\.contrast = 3 does nothing: method maxloss"):
        replaced(settings(direction__samples=16), "method", "maxloss").check()
    with pytest.raises(ValueError, match=r"selection\.direction\.contrast must be at least 0, not -1"):
        settings(direction__contrast=-1).check()
