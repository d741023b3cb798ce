"""A pass that is read while it runs gives what the same pass gives when it is kept, and keeps nothing."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.build import build_gpt2, recompute
from model.gpt2 import GPT2
from scripts.bench.steps.step import peak_bytes
from selection.ghost.recorder import GhostRecorder
from tests.helpers.ranks import on_ranks
from tests.helpers.recording import CONFIG, batch, gpt2, record
from tests.selection.ghost.test_other_models import CheckpointedReentrant, Torch
from tests.selection.ghost.test_recorder import PlainGPT2


def recomputed(**changes):
    model = gpt2(**changes)
    recompute(model)
    return model


class Twice(GPT2):
    """The first block is run twice, each time recomputed in backward."""

    def __init__(self, config):
        super().__init__(config)
        self.blocks[1] = self.blocks[0]
        self.blocks[0].forward = functools.partial(checkpoint, self.blocks[0].forward, use_reentrant=False)


MODELS = {
    "fused tied head": gpt2,
    "plain tied head": lambda: gpt2(PlainGPT2),
    "a layer used twice": lambda: Torch().double(),
    "recomputed blocks": recomputed,
    "a recomputed block used twice": lambda: gpt2(Twice),
    "reentrant recomputation": lambda: gpt2(CheckpointedReentrant),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((actual - expected).abs().max() <= 1e-12 * expected.abs().max())


def streamed(recorder: GhostRecorder, model: nn.Module, read, pair):
    losses_N = record(recorder.asked(read, streamed=True), model, *pair)
    with pytest.raises(ValueError, match="nothing is recorded"):
        recorder.squared_norms()
    return losses_N, recorder.answer


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rank", [0, 2])
def test_what_is_read_on_the_way_equals_what_is_read_afterwards(name, rank):
    model, target, pair = MODELS[name](), batch(3), batch(5)
    recorder = GhostRecorder(model)
    record(recorder, model, *target)
    kept, fresh = recorder.direction(), recorder.direction(rank=rank)
    _, on_the_way = streamed(recorder, model, GhostRecorder.direction, target)
    assert on_the_way.blocks.keys() == kept.blocks.keys()
    assert all(same(on_the_way.blocks[key], block) for key, block in kept.blocks.items())

    losses_N = record(recorder, model, *pair)
    expected = [recorder.first_order(fresh), *recorder.first_order_and_gram(fresh), recorder.squared_norms()]

    def read(part: GhostRecorder) -> torch.Tensor:
        scores_N, gram_NN = part.first_order_and_gram(fresh)
        return torch.stack([part.first_order(fresh), scores_N, *gram_NN, part.squared_norms()])

    found_N, (first_order_N, scores_N, *gram, norms_N) = streamed(recorder.along(fresh), model, read, pair)
    assert torch.equal(found_N.detach(), losses_N.detach())
    for actual, wanted in zip([first_order_N, scores_N, torch.stack(gram), norms_N], expected, strict=True):
        assert same(actual, wanted)


def test_its_peak_stays_near_that_of_plain_training():
    """Where blocks are recomputed: what their layers read is made again in backward, also for the recorder."""
    model, pair = recomputed(n_layer=8, sequence_length=32, n_embd=32), batch(24, length=32)
    recorder = GhostRecorder(model)

    def plain():
        model(*pair).sum().backward()

    def recorded(streams: bool):
        record(recorder.asked(GhostRecorder.squared_norms, streams), model, *pair)

    for step in (plain, functools.partial(recorded, True)):
        step()  # makes what outlives a pass
    model.zero_grad()
    plain_bytes = peak_bytes(plain)
    assert peak_bytes(functools.partial(recorded, True)) < 1.2 * plain_bytes
    assert peak_bytes(functools.partial(recorded, False)) > 2 * plain_bytes


def test_a_parameter_read_too_early_is_refused():
    """Reentrant recomputation shows a second use of a parameter only after the first is through."""
    model = gpt2(CheckpointedReentrant)
    model.blocks[1] = model.blocks[0]
    with pytest.raises(ValueError, match="used again after what it gave was read"):
        streamed(GhostRecorder(model), model, GhostRecorder.squared_norms, batch(3))


def on_two_ranks(world):
    """Direction, scores and gram of one pass a rank, kept and streamed, with blocks that are recomputed."""
    torch.manual_seed(0)
    target, *groups = (batch(4) for _ in range(3))
    model = build_gpt2(CONFIG, world.mesh, "float64", seed=3)
    recompute(model)
    recorder = GhostRecorder(model)
    mine, found = [part[world.rank :: 2] for part in target], []
    for streams in (False, True):
        record(recorder.asked(functools.partial(GhostRecorder.direction, samples=4), streams), model, *mine)
        direction = recorder.answer
        for along in (direction, direction.low_rank(2)):
            read = functools.partial(GhostRecorder.first_order_and_gram, direction=along)
            asked = recorder.along(along).asked(lambda part, read=read: torch.vstack(read(part)), streams)
            record(asked, model, *groups[world.rank])
            found.append(recorder.answer)
        found.append({name: direction.block(name) for name in sorted(direction.blocks)})
    return found


def test_two_ranks_stream_as_they_keep():
    for exact, low, direction, exact_streamed, low_streamed, direction_streamed in on_ranks(2, on_two_ranks):
        assert same(exact_streamed, exact)
        assert same(low_streamed, low)
        assert all(same(direction_streamed[name], block) for name, block in direction.items())
