"""Each arm chooses as the method of its name does; who judges is not who is followed; nothing separable is plain."""

import numpy as np
import pytest

from selection.prefilters.auto import ARMS
from selection.prefilters.build import build_prefilter
from selection.prefilters.ngrams import ngram_features
from selection.settings import Selection, replaced
from tests.helpers.selecting import topic

TARGET = np.concatenate([topic(1, 40, range(20, 60)), topic(2, 40, range(60, 100))])
POOL = np.concatenate([topic(3, 30, range(100, 200)), topic(4, 30, range(20, 100))])
FRESH = topic(5, 60, range(100, 200))


def settings(method: str, when: str = "judged") -> Selection:
    chosen = replaced(Selection(method=method, picks=4, candidates=12), "filter.when", when)
    for key, value in {"need.samples": 8, "need.every": 4, "need.window": 8, "auto.block": 2}.items():
        chosen = replaced(chosen, key, value) if method != "importance" else chosen
    return chosen


def build(method: str, target=TARGET, pool=POOL, fresh=FRESH, when="judged"):
    return build_prefilter(settings(method, when), *map(ngram_features, (target, pool, fresh)), groups=2)


def candidates(step: int) -> np.ndarray:
    """Features [2, 12, F] of two groups: text of both wanted kinds and of others."""
    return np.stack(
        [
            ngram_features(
                np.concatenate([topic(9 + step + group, 4, range(first, first + 40)) for first in (20, 60, 120)])
            )
            for group in range(2)
        ]
    )


def test_every_arm_chooses_as_the_method_of_its_name():
    auto, importance, need = build("auto"), build("importance"), build("need")
    auto._single.trusted, importance.trusted = False, True  # its own judge is not asked
    seen = set()
    for step in range(24):
        assert not len(auto.to_watch(step)) or step % 2 == 0
        found, features = auto.rank(candidates(step), step, [0, 1]), candidates(step)
        arm = ARMS[auto.contest.arm_at(step)]
        seen.add(arm)
        alone = {"importance": importance, "need": need}.get(arm)
        for group in range(2):
            expected = alone.rank(features, step, [0, 1]).shortlist(group, 4) if alone else np.arange(4)
            assert found.shortlist(group, 4).tolist() == expected.tolist()
    assert seen == set(ARMS)


def test_those_who_judge_are_not_those_whose_losses_the_shares_follow():
    auto = build("auto")
    assert len(auto.judges) == 8
    assert not set(auto.judges) & set(build("need").watched)
    assert auto.to_watch(40).tolist() == build("need").watched.tolist()  # in the hold, need's alone
    assert auto.to_watch(0).tolist() == auto.judges.tolist()  # plain training's turn begins
    assert auto.to_watch(4).tolist() == [*auto.judges, *build("need").watched]  # need's turn begins
    assert auto.to_watch(8).tolist() == auto.judges.tolist()


def test_few_target_samples_judge_and_are_followed():
    assert build("auto", target=TARGET[::10]).judges.tolist() == list(range(8))


def test_what_is_heard_goes_to_whom_it_is_of():
    auto, need = build("auto"), build("need")
    need.trusted = True
    for step in range(24):
        if len(places := auto.to_watch(step)):
            auto.hear(step, 5 - 0.01 * step - 0.001 * places)
        if len(places := need.to_watch(step)) and ARMS[auto.contest.arm_at(step)] == "need":
            need.hear(step, 5 - 0.01 * step - 0.001 * places)
    told = auto.findings()
    assert told["share"] == need.findings()["share"]
    assert told["arm"] == "regular"  # the last turn of the trial


def test_picks_count_whoever_chose_them():
    """Plain training's second turn is of steps 10 and 11."""
    auto, need = build("auto"), build("need")
    features = candidates(0)
    before = auto._shared.rank(features, 11, [0, 1]).worth_gCn
    for step in range(10, 12):
        auto.to_watch(step)
        auto.send(features[:, :4])
        need.send(features[:, :4])
        auto.settle()
        need.catch_up()
        auto.catch_up()
    assert auto.findings()["arm"] == "regular"
    after = auto._shared.rank(features, 11, [0, 1]).worth_gCn
    assert (after[:, :, :4] < before[:, :, :4]).all()
    assert (after[:, :, 4:] == before[:, :, 4:]).all()
    assert (after == need.rank(features, 11, [0, 1]).worth_gCn).all()
    assert auto.findings()["picked_before"] == 1


def test_the_cost_of_watching_is_counted():
    """8 samples forward, a third of a training pass each, every 4 steps of 2 groups of 4 picks."""
    assert build("auto").contest._costs_A.tolist() == pytest.approx([1, 1, 1 + 8 / 3 / 4 / 8])


def test_where_no_filter_tells_target_text_from_the_pool_it_is_plain_training():
    auto = build(
        "auto", pool=TARGET[::-1], fresh=np.concatenate([topic(6, 20, range(20, 60)), topic(7, 20, range(60, 100))])
    )
    assert not auto.trusted
    for step in range(30):
        assert not len(auto.to_watch(step))
        assert auto.findings()["arm"] == "regular"
        assert auto.rank(candidates(step), step, [0, 1]).shortlist(0, 4).tolist() == [0, 1, 2, 3]


def test_a_restored_one_goes_on_as_the_saved_one():
    saved, restored = build("auto"), build("auto")

    def live(auto, steps):
        for step in steps:
            if len(places := auto.to_watch(step)):
                auto.hear(step, 6 - 0.02 * step - 0.01 * np.sin(places + step))
        return auto.findings()

    live(saved, range(15))
    restored.load_state_dict(saved.state_dict())
    assert live(saved, range(15, 200)) == live(restored, range(15, 200))


@pytest.mark.parametrize("method", ["importance", "need", "auto"])
def test_a_judge_that_is_overruled_does_not_count(method):
    alike = {"pool": TARGET[::-1], "fresh": np.concatenate([topic(6, 20, range(20, 60)), topic(7, 20, range(60, 100))])}
    assert not build(method, **alike).trusted
    overruled = build(method, **alike, when="always")
    assert overruled.trusted
    assert overruled.rank(candidates(4), 4, [0, 1]).trusted  # of auto's arms it is the turn of need
    overruled.catch_up()
    assert overruled.trusted
