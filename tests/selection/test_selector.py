"""The Selector against plain autograd, one sample at a time, in float64; the passes it pays for; its state."""

import copy
import itertools

import numpy as np
import pytest
import torch

from selection.methods import METHODS
from selection.settings import Selection, replaced
from tests.helpers import oracle
from tests.helpers.recording import close
from tests.helpers.selecting import GROUPS, RATE, batch, build, drawn, known, take_steps, tokens

K, N, M = 2, 6, 4
BY_NEED = {"amortise__drawn": 12, "amortise__every": 2, "amortise__by": "need"}
SCORED = [name for name, method in METHODS.items() if method.passes != "none"]


def settings(method: str, **changes) -> Selection:
    chosen = Selection(method=method, picks=K)
    if METHODS[method].chooses:
        chosen = replaced(chosen, "candidates", N)
    if METHODS[method].aims:
        chosen = replaced(chosen, "direction.samples", M)
    if METHODS[method].knows:
        chosen = replaced(chosen, "reference.file", "known.npz")
    for key, value in changes.items():
        chosen = replaced(chosen, key.replace("__", "."), value)
    return chosen


def gradients(model, pairs) -> torch.Tensor:
    """Every sample's flat gradient, [N, P]."""
    return torch.stack([oracle.flat(gradient) for gradient in oracle.gradients_of_samples(model, *pairs)])


def expected_scores(method: str, model, pairs) -> torch.Tensor:
    if method in ("maxloss", "rho_loss"):
        return model(*pairs).detach()
    if method == "momentum":  # of an optimizer that has not stepped
        return torch.zeros(N)
    g_NP = gradients(model, pairs)
    if method == "gradnorm":
        return g_NP.norm(dim=1)
    v_P = gradients(model, batch(tokens(7, 0, samples=M) // 2)).mean(0)
    return -(g_NP @ v_P) if method == "bottomk" else g_NP @ v_P


RECORDED = [name for name in SCORED if METHODS[name].passes == "recorded"]
KEPT_AND_STREAMED = [
    *itertools.product(RECORDED, ("kept", "streamed")),
    *((name, "auto") for name in SCORED if name not in RECORDED),
]


@pytest.mark.parametrize(("method", "memory"), KEPT_AND_STREAMED)
def test_scores_picks_and_gradient_equal_autograd(method, memory):
    chosen = settings(method, scoring__memory=memory)
    selector, model, _ = build(chosen)
    tokens_GnT1, features_GnF = drawn(chosen, 0)
    known_Gn = known(chosen, 0)
    expected = [expected_scores(method, model, batch(tokens_NT1)) for tokens_NT1 in tokens_GnT1]
    if method == "rho_loss":
        expected = [losses_N - torch.from_numpy(known_N) for losses_N, known_N in zip(expected, known_Gn, strict=True)]
    choices = selector.choose(0, tokens_GnT1, features_GnF, RATE, known_Gn)
    assembled = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for tokens_NT1, choice, expected_N in zip(tokens_GnT1, choices, expected, strict=True):
        assert close(choice.score, expected_N)  # nothing is divided by second moments that are not there yet
        assert choice.measured.tolist() == list(range(N))
        assert close(choice.loss, model(*batch(tokens_NT1)).detach())
        if method not in ("greats", "opus"):  # whose rules have tests of their own
            assert choice.picks.tolist() == (-expected_N).argsort(stable=True)[:K].tolist()
        (model(*batch(tokens_NT1[choice.picks])).sum() / (GROUPS * K)).backward()
    for name, parameter in model.named_parameters():
        assert close(assembled[name], parameter.grad), name


@pytest.mark.parametrize("method", ["topk", "bottomk"])
@pytest.mark.parametrize("memory", ["kept", "streamed"])
def test_groups_of_a_step_compete_where_the_pool_is_the_step(method, memory):
    chosen = settings(method, pool="step", scoring__memory=memory)
    selector, model, _ = build(chosen)
    tokens_GnT1, features_GnF = drawn(chosen, 3)
    expected_C = torch.cat([expected_scores(method, model, batch(tokens_NT1)) for tokens_NT1 in tokens_GnT1])
    best = (-expected_C).argsort(stable=True)[: GROUPS * K].tolist()
    choices = selector.choose(0, tokens_GnT1, features_GnF, RATE)
    order = {}
    for group, choice in enumerate(choices):
        order |= dict(zip(choice.order.tolist(), (group * N + choice.picks).tolist(), strict=True))
    assert [order[place] for place in range(GROUPS * K)] == best
    assert len(choices[0].picks) != K  # else the groups might have chosen by themselves
    assembled = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    tokens_CT1 = tokens_GnT1.flatten(0, 1)
    (model(*batch(tokens_CT1[best])).sum() / (GROUPS * K)).backward()
    for name, parameter in model.named_parameters():
        assert close(assembled[name], parameter.grad), name


def test_interactions_and_norms_equal_autograd():
    chosen = settings("greats", interaction__curvature=100.0)
    selector, model, _ = build(chosen)
    tokens_GnT1, features_GnF = drawn(chosen, 0)
    gram_NN = [(g @ g.T) for g in (gradients(model, batch(tokens_NT1)) for tokens_NT1 in tokens_GnT1)]
    for gram, choice in zip(gram_NN, selector.choose(0, tokens_GnT1, features_GnF, RATE), strict=True):
        others = [[j for j in choice.picks.tolist() if j != i] for i in range(N)]
        assert close(choice.interaction, torch.stack([gram[i, js].sum() for i, js in enumerate(others)]))
        assert close(choice.self_norm, gram.diagonal().sqrt())


@pytest.mark.parametrize(
    ("method", "changes", "samples"),
    [
        ("regular", {}, [K, K]),
        ("importance", {}, [K, K]),
        ("maxloss", {}, [N, K, N, K]),
        ("rho_loss", {}, [N, K, N, K]),
        ("sbert", {}, [K, K]),
        ("gradnorm", {}, [N, N]),
        ("topk", {}, [M, N, N]),
        ("greats", {}, [M, N, N]),
        ("topk", {"scoring__prefix": 4}, [M, N, K, N, K]),
        ("topk", {"amortise__drawn": 12, "amortise__every": 2}, [K, K]),
        ("topk", BY_NEED | {"need__samples": 8, "need__every": 1}, [8, K, K]),
    ],
)
def test_no_pass_is_paid_for_that_is_not_needed(method, changes, samples):
    """Samples through the model at step 1, which the amortised one does not score."""
    chosen = settings(method, **changes)
    selector, model, _ = build(chosen)
    passed, forward = [], model.forward
    model.forward = lambda *pair: passed.append(len(pair[0])) or forward(*pair)
    selector.choose(1, *drawn(chosen, 1), RATE, known(chosen, 1))
    assert passed == samples


def test_what_is_known_beforehand_chooses_without_a_score():
    chosen = settings("sbert")
    selector, model, optimizer = build(chosen)
    for step, choices in enumerate(take_steps(selector, model, optimizer, range(2))):
        for choice, known_N in zip(choices, known(chosen, step), strict=True):
            assert choice.picks.tolist() == np.argsort(-known_N)[:K].tolist()
            assert choice.predicted.tolist() == known_N.tolist()
            assert choice.by_prediction
    assert selector.findings() == {}


@pytest.mark.parametrize("method", ["topk", "gradnorm", "maxloss", "rho_loss"])
def test_on_steps_between_the_prefilter_picks(method):
    chosen = settings(method, amortise__drawn=12, amortise__every=2)
    selector, model, optimizer = build(chosen)
    (scored, between) = take_steps(selector, model, optimizer, range(2))
    for choice in scored:
        assert choice.score.shape == (N,)
        assert len(set(choice.measured.tolist())) == N
    for choice in between:
        assert choice.score is None
        assert choice.picks.tolist() == np.argsort(-choice.predicted, kind="stable")[:K].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"direction__decay": 0.9},
        {"amortise__drawn": 12, "amortise__every": 2},
        BY_NEED | {"need__every": 1, "need__window": 2},
        {},
    ],
    ids=["running", "amortised", "by need", "nothing"],
)
def test_a_restored_selector_goes_on_as_the_saved_one(changes):
    chosen = settings("topk", **changes)
    selector, model, optimizer = build(chosen)
    take_steps(selector, model, optimizer, range(3))
    kept = copy.deepcopy((list(model.parameters()), optimizer.state_dict(), selector.state_dict()))
    whole = take_steps(selector, model, optimizer, range(3, 6))

    again, model, optimizer = build(chosen, seed=1)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), kept[0], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(kept[1])
    assert again.empty_state().keys() == kept[2].keys()
    again.load_state_dict(kept[2])
    gone_on = take_steps(again, model, optimizer, range(3, 6))
    for ours, theirs in zip(itertools.chain(*gone_on), itertools.chain(*whole), strict=True):
        assert ours.picks.tolist() == theirs.picks.tolist()
        assert torch.equal(ours.loss, theirs.loss)
    assert again.findings() == selector.findings()
    if again.prefilter:
        for name, tensor in selector.state_dict()["prefilter"].items():
            assert torch.equal(again.state_dict()["prefilter"][name], tensor), name


@pytest.mark.parametrize(("method", "changes", "steps"), [("need", {}, [0, 1, 2, 3]), ("topk", BY_NEED, [1, 3])])
def test_need_is_told_the_picks_of_every_step_that_is_not_scored(method, changes, steps):
    chosen = settings(method, **changes)
    selector, model, optimizer = build(chosen)
    told, send = [], selector.prefilter.send
    selector.prefilter.send = lambda features_gkF: told.append(features_gkF) or send(features_gkF)
    found = take_steps(selector, model, optimizer, range(4))
    assert len(told) == len(steps)
    for features_gkF, step in zip(told, steps, strict=True):
        for ours_kF, features_nF, choice in zip(features_gkF, drawn(chosen, step)[1], found[step], strict=True):
            assert (ours_kF == features_nF[choice.picks]).all()
    assert selector.state_dict()["prefilter"]["repeats"].any()


def test_a_prefilter_that_is_not_trusted_rests(monkeypatch):
    """Plain draws between scored steps, one in four of which is scored."""
    monkeypatch.setattr("selection.prefilters.predictor.Predictor.separation", lambda self: 0.5)
    chosen = settings("topk", amortise__drawn=12, amortise__every=2)
    selector, model, optimizer = build(chosen)
    found = take_steps(selector, model, optimizer, range(9))
    assert [step for step, choices in enumerate(found) if choices[0].score is not None] == [0, 8]
    assert all(choice.picks.tolist() == [0, 1] for choices in found[1:8] for choice in choices)


@pytest.mark.parametrize("method", SCORED)
def test_a_candidate_that_is_not_finite_is_not_picked_and_reaches_nothing(method):
    chosen = settings(method)
    selector, model, _ = build(chosen)
    forward = model.forward

    def broken(inputs_NT, targets_NT):
        losses_N = forward(inputs_NT, targets_NT)
        return losses_N * torch.tensor([torch.nan] + [1.0] * (N - 1)) if len(losses_N) == N else losses_N

    model.forward = broken
    for choice in selector.choose(0, *drawn(chosen, 0), RATE, known(chosen, 0)):
        assert not torch.isfinite(choice.loss[0])
        assert torch.isfinite(choice.loss[1:]).all()
        assert len(choice.picks) == K
        assert 0 not in choice.picks.tolist()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("contrast", [0, 5])
def test_need_chooses_between_scored_steps_as_it_does_alone(contrast):
    """And shortlists on them, among what is not set apart; whatever the scores were, they do not move its shares."""
    often = {"need__every": 1, "need__window": 4}
    chosen = settings("topk", **BY_NEED, **often, direction__contrast=contrast)
    selector, model, optimizer = build(chosen)
    alone, watching, _ = build(settings("need", candidates=chosen.drawn, **often))
    shortlists = set()
    for step in range(6):
        alone.prefilter.load_state_dict(selector.state_dict()["prefilter"])
        watching.load_state_dict(model.state_dict())
        tokens_GnT1, features_GnF = drawn(chosen, step)
        expected = alone.choose(step, tokens_GnT1, features_GnF, RATE)
        ranking = alone.prefilter.rank(features_GnF, step, range(GROUPS)) if step == 0 else alone._ranking
        alone.look_ahead(drawn(chosen, step + 1)[1])
        (choices,) = take_steps(selector, model, optimizer, range(step, step + 1))
        assert selector.findings() == {"prefilter_on": True, **alone.prefilter.findings()}
        for group, (choice, theirs) in enumerate(zip(choices, expected, strict=True)):
            assert not choice.by_prediction
            assert choice.predicted.tolist() == theirs.predicted.tolist()
            if step % 2:
                assert choice.score is None
                assert choice.picks.tolist() == theirs.picks.tolist()
            else:
                assert choice.measured.tolist() == ranking.shortlist(group, N, 0.25, 12).tolist()
                assert choice.measured.max() < 12
                best_k = choice.score.argsort(descending=True)[:K]
                assert choice.picks.tolist() == choice.measured[best_k].tolist()
                shortlists.add(tuple(choice.measured))
    assert len(shortlists) == 3 * GROUPS


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(("method", "changes"), [("need", {}), ("topk", BY_NEED)])
def test_losses_are_watched_only_where_shares_choose(method, changes, trusted):
    chosen = settings(method, need__every=2, **changes)
    selector, model, optimizer = build(chosen)
    selector.prefilter.trusted = trusted
    watched, watch = [], selector._watch
    selector._watch = lambda places: watched.append(len(places)) or watch(places)
    take_steps(selector, model, optimizer, range(4))
    assert watched == ([len(selector.prefilter.watched)] * 2 if trusted else [])
