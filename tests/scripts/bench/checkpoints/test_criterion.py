"""Rollouts from a checkpoint: what they train on, what is told of them, and that nothing is measured twice."""

import json
import math
from itertools import islice

import numpy as np
import pytest
import torch
from rich.console import Console

from model.world import World
from pipeline.dataset.sampling import evaluation_samples
from scripts.bench.__main__ import main
from scripts.bench.checkpoints.criterion import RANDOM, Criterion, Found, table_of_changes, table_of_sources
from scripts.bench.checkpoints.rollout import DRAWN, Sources, measure_on, of_source, rollout, says, stream_of
from scripts.bench.checkpoints.stage import Stage
from scripts.train.held_out import HeldOut
from scripts.train.options import read_config
from scripts.train.prior import known_features
from selection.prefilters.importance import ImportanceWeights
from selection.settings import Selection, replaced
from tests.helpers.runs import run

K, SAMPLES = 2, 10
PLAIN = Selection("regular", K)


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    changes = {"train__groups": 2, "selection__picks": K, "selection__method": "regular"}
    return run(dataset, tmp_path_factory.mktemp("criterion") / "run", **changes)


@pytest.fixture
def stage(folder):
    world = World.join()
    yield lambda: Stage(read_config(folder / "config.toml"), folder / "checkpoints" / "step-00000004", world)
    world.leave()


def loss_on(stage: Stage, split: str) -> float:
    samples = evaluation_samples(stage.manifest, split, SAMPLES)
    return HeldOut(split, stage.manifest, stage.world).loss(stage.model, samples, 4)


def importance(manifest, targets: np.ndarray) -> ImportanceWeights:
    target_nF, pool_nF, fresh_pF = known_features(manifest, targets)
    return ImportanceWeights(target_nF, pool_nF[: len(target_nF)], fresh_pF)


def test_random_batches_are_steps_of_plain_training(stage):
    ours, by_hand = stage(), stage()
    found = rollout(ours, PLAIN, stream_of(ours, seed=3), (1, 3), measure_on(ours, "val", SAMPLES))
    expected = []
    for candidates in islice(stream_of(by_hand, seed=3), 3):
        by_hand.advance(candidates._replace(tokens_GnT1=candidates.tokens_GnT1[:, :K]))
        expected.append(loss_on(by_hand, "val"))
    assert found == pytest.approx([expected[0], expected[2]], rel=1e-6)
    assert found[0] != pytest.approx(found[1], rel=1e-4)


def test_a_criterion_trains_on_its_picks(stage):
    """By importance: the k best of each group by hand."""
    settings = replaced(replaced(PLAIN, "method", "importance"), "candidates", DRAWN)
    ours, by_hand = stage(), stage()
    found = rollout(ours, settings, stream_of(ours, seed=3), (2,), measure_on(ours, "test", SAMPLES))
    targets = evaluation_samples(by_hand.manifest, "target", 10**6)
    weights = importance(by_hand.manifest, targets)
    for candidates in islice(stream_of(by_hand, seed=3), 2):
        best = [np.argsort(-weights.predict(f), kind="stable")[:K] for f in candidates.features_GnF]
        picked = [tokens[order] for tokens, order in zip(candidates.tokens_GnT1, best, strict=True)]
        by_hand.advance(candidates._replace(tokens_GnT1=torch.stack(picked)))
    assert found == pytest.approx([loss_on(by_hand, "test")], rel=1e-6)


def test_batches_of_one_source_are_of_that_alone(stage):
    here = stage()
    sources = Sources(here)
    assert sources.wanted == {"words"}
    assert sources.all == ["noise", "words"]
    kept = {}
    for candidates in islice(stream_of(here, seed=0), 6):
        ids = candidates.sample_ids_Gn.flatten().numpy()
        kept |= {tuple(t.tolist()): s for t, s in zip(candidates.tokens_GnT1.flatten(0, 1), sources(ids), strict=True)}
    steps = list(islice(of_source(stream_of(here, seed=0), sources, "noise", picks=5), 4))
    assert all(step.tokens_GnT1.shape[:2] == (2, 5) for step in steps)
    taken = [tuple(t.tolist()) for step in steps for t in step.tokens_GnT1.flatten(0, 1)]
    assert {kept[tokens] for tokens in taken} == {"noise"}
    assert list(of_source(iter([]), sources, "noise", picks=5)) == []


def test_what_a_filter_says_is_told(stage):
    """The area under the curve by pairs, and the correlation of two filters that know one half of the target each."""
    here, settings = stage(), replaced(PLAIN, "method", "importance")
    sources = Sources(here)
    targets = evaluation_samples(here.manifest, "target", 10**6)
    halves = (targets, targets[: len(targets) // 2], targets[len(targets) // 2 :])
    whole, one, other = (importance(here.manifest, known) for known in halves)
    areas, areas_of, correlations = [], {source: [] for source in sources.all}, []

    def area(said: np.ndarray, chosen: np.ndarray) -> float:
        return float(np.mean([(a > b) + (a == b) / 2 for a in said[chosen] for b in said[~chosen]]))

    for candidates in islice(stream_of(here, seed=here.config.train.seed), 4):
        for ids, features in zip(candidates.sample_ids_Gn.numpy(), candidates.features_GnF, strict=True):
            said = whole.predict(features).astype(np.float64)
            areas.append(area(said, sources(ids) == "words"))
            for source in set(sources(ids).tolist()):
                areas_of[source].append(area(said, sources(ids) == source))
            correlations.append(np.corrcoef(one.predict(features), other.predict(features))[0, 1])
    found = says(here, settings, sources)
    assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert found["auc"] > 0.9
    assert len(areas_of) > 1
    for source, areas in areas_of.items():
        assert found["auc_of"][source] == pytest.approx(np.mean(areas), abs=1e-9)
    assert found["repeats"] == pytest.approx(np.mean(correlations), abs=1e-6)


def test_gradients_made_for_scores_do_not_reach_the_rollout(stage):
    here = stage()
    settings = replaced(replaced(PLAIN, "method", "topk"), "direction.samples", 4)
    behind = settings
    for key, value in (("amortise.drawn", DRAWN), ("amortise.by", "need"), ("need.clusters", 2)):
        behind = replaced(behind, key, value)
    before = [parameter.detach().full_tensor().clone() for parameter in here.model.parameters()]
    found = says(here, settings, Sources(here))
    assert 0 <= found["auc"] <= 1
    assert -1 <= found["repeats"] <= 1
    assert says(here, behind, Sources(here)) == found  # what a prefilter leaves out is scored here too
    assert all(parameter.grad is None for parameter in here.model.parameters())
    assert all((p.full_tensor() == b).all() for p, b in zip(here.model.parameters(), before, strict=True))


def test_nothing_is_measured_twice_but_with_other_settings(tmp_path):
    path, calls = tmp_path / "found.jsonl", []

    def measure(settings, rollout=0):
        by = lambda: calls.append(1) or len(calls)  # noqa: E731
        return Found(path).measure("step-1", Criterion("x", settings), rollout, {"steps": [1]}, by)

    assert [measure(PLAIN), measure(PLAIN), measure(PLAIN, 1), measure(replaced(PLAIN, "picks", 3))] == [1, 1, 2, 3]
    path.write_text(path.read_text() + '{"half')
    assert [measure(PLAIN), measure(PLAIN, 1)] == [1, 2]
    path.write_text(path.read_text() + '{"half')
    assert [measure(PLAIN, 5), measure(PLAIN, 5), measure(PLAIN)] == [4, 4, 1]


def test_changes_are_told_against_random_batches_of_the_same_rollout():
    changes = {
        RANDOM: {"step-00000004": np.array([[0.1], [0.3]])},
        "ours": {"step-00000004": np.array([[0.0], [0.1]])},
        "short": {"step-00000004": np.array([[0.0], [np.nan]])},
    }
    console = Console(width=80)
    with console.capture() as shown:
        console.print(table_of_changes(changes, 0, 24, "val"))
    lines = [line.split() for line in shown.get().splitlines()]
    assert ["random", "+0.200", "±0.100"] in lines
    assert ["ours", "-0.150", "±0.050"] in lines
    assert ["short", "-"] in lines


def test_areas_of_sources_have_a_row_each():
    console = Console(width=80)
    with console.capture() as shown:
        console.print(table_of_sources("step-00000004", {"ours": {"plays": 0.75, "verse": math.nan}}))
    lines = [line.split() for line in shown.get().splitlines()]
    assert ["plays", "0.750"] in lines
    assert ["verse", "-"] in lines


def test_the_command_goes_on_where_it_was(folder, tmp_path, capsys):
    study = tmp_path / "study.toml"
    study.write_text(
        "[train]\nlearning_rate = 1e-3\n[selection]\npicks = 2\n[compare]\nlearning_rates = [1e-3]\n[arms.regular]\n"
        'selection.method = "regular"\n[arms.filter]\nselection = { method = "importance", candidates = 64 }\n'
    )
    words = ["criterion", "--run", str(folder), "--config", str(study), "--steps", "1", "2", "--rollouts", "2"]
    words += ["--samples", "10", "--out", str(tmp_path / "found.jsonl")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "random" in told
    assert "only noise" in told
    lines = (tmp_path / "found.jsonl").read_text()
    # Two checkpoints of one loss; random, the filter and two sources with two rollouts each; what the filter says.
    assert len(lines.splitlines()) == 2 * (1 + 4 * 2 + 1)
    assert {line["criterion"] for line in map(json.loads, lines.splitlines())} >= {"random", "filter", "only words"}
    assert main(words) == 0
    assert capsys.readouterr().out == told
    assert main([*words, "--no-each-source"]) == 0
    assert "only noise" not in capsys.readouterr().out
    assert (tmp_path / "found.jsonl").read_text() == lines
    assert main([*words, "--no-each-source", "--split", "test"]) == 0
    assert "change of the test loss over 2 steps" in capsys.readouterr().out
    added = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().removeprefix(lines).splitlines()]
    (before,) = (line for line in added if line["rollout"] is None and line["checkpoint"] == "step-00000004")
    world = World.join()
    stage = Stage(read_config(folder / "config.toml"), folder / "checkpoints" / "step-00000004", world)
    assert before["found"] == pytest.approx(loss_on(stage, "test"), rel=1e-6)
    world.leave()
    study.write_text(study.read_text().replace("64", "65"))
    assert main(words) == 2
    assert "arm filter draws more than 64 candidates" in capsys.readouterr().err
