"""A stage goes on as plain training does, and every mode's scores are compared with those they stand for."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from model.world import World
from pipeline.dataset.reader import inputs_and_targets
from pipeline.stream import CandidateStream
from scripts.bench.checkpoints.stage import Stage
from scripts.bench.steps.fidelity import Comparison, overlap, spearman
from scripts.train.options import read_config
from tests.helpers.runs import run

GROUPS, K = 2, 2


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    changes = {"train__groups": GROUPS, "selection__picks": K, "selection__candidates": 6}
    return run(dataset, tmp_path_factory.mktemp("fidelity") / "run", **changes)


@pytest.fixture
def world():
    world = World.join()
    yield world
    world.leave()


def stage_of(folder, world, grad_clip: float = 1.0) -> Stage:
    config = read_config(folder / "config.toml")
    config = replace(config, train=replace(config.train, grad_clip=grad_clip))
    return Stage(config, folder / "checkpoints" / "step-00000004", world)


def candidates_of(stage: Stage, steps: int):
    stream = CandidateStream(
        stage.manifest, groups=GROUPS, drawn=6, seed=0, lanes=range(GROUPS), step=stage.step, workers=0
    )
    return islice(stream, steps)


@pytest.mark.parametrize("grad_clip", [0.1, 0.0])  # 0: no limit
def test_a_stage_trains_on_the_first_k_of_every_group(folder, world, grad_clip):
    ours, by_hand = stage_of(folder, world, grad_clip), stage_of(folder, world, grad_clip)
    for candidates in candidates_of(ours, 3):
        ours.advance(candidates)
        tokens_NT1 = candidates.tokens_GnT1[:, :K].flatten(0, 1)
        by_hand.model(*inputs_and_targets(tokens_NT1, by_hand.manifest)).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.model.parameters(), grad_clip or torch.inf)
        assert norm > 0.1
        by_hand.optimizer.step()
        by_hand.optimizer.zero_grad()
    assert ours.step == 4
    began = stage_of(folder, world)
    for trained, expected, before in zip(*(stage.model.parameters() for stage in (ours, by_hand, began)), strict=True):
        assert torch.allclose(trained.full_tensor(), expected.full_tensor(), atol=1e-6)
        assert not torch.equal(trained.full_tensor(), before.full_tensor())


def test_modes_are_compared_with_exact_scores_of_their_direction(folder, world):
    comparison = Comparison(stage_of(folder, world))
    for candidates in candidates_of(comparison.stage, 2):
        averages = comparison.averages(candidates.step)
        comparison.stage.advance(candidates)
        comparison.compare(candidates, averages)
    summaries = {mode.strip(): agreement.summary() for mode, agreement in comparison.found.items()}
    assert all(len(agreement.same) == len(agreement.many) == 2 * GROUPS for agreement in comparison.found.values())
    for mode in ("exact, m = k", "exact running, m = k/4"):
        assert summaries[mode]["spearman_same_direction"] == pytest.approx(1.0)
        assert summaries[mode]["overlap_same_direction"] == 1.0
    for mode in ("rank 8, m = k", "rank 8 running, m = k/4"):
        assert 0.5 < summaries[mode]["spearman_same_direction"] <= 1.0
    whole = summaries["rank 8 running, m = k/4"]
    for mode in ("the same, blocks only", "the same, prefix T/4"):
        assert summaries[mode] != whole


def test_spearman_and_overlap():
    scores_N = torch.tensor([0.1, 5.0, -3.0, 2.0])
    assert spearman(scores_N, scores_N**3) == pytest.approx(1.0)
    assert spearman(scores_N, -scores_N) == pytest.approx(-1.0)
    assert spearman(scores_N, torch.tensor([5.0, 0.1, -3.0, 2.0])) == pytest.approx(0.2)
    assert overlap(scores_N, torch.tensor([5.0, 0.1, -3.0, 2.0]), 2) == 0.5
