"""Compiled blocks: the same numbers, and a recorder that hears every layer all the same."""

import shutil

import pytest
import torch

from model.compiled import compile_blocks
from selection.ghost import GhostRecorder
from tests.helpers.recording import batch, gpt2, record


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_blocks_give_the_losses_and_gradients_of_eager_ones_and_are_recorded():
    torch.manual_seed(0)
    eager, (tokens_NT, targets_NT) = gpt2(n_layer=1), batch(4)
    compiled = gpt2(n_layer=1)
    compiled.load_state_dict(eager.state_dict())
    compile_blocks(compiled)
    torch._dynamo.utils.counters.clear()
    found = []
    for model in (eager, compiled):
        losses_N = model(tokens_NT, targets_NT)
        losses_N.sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        recorder = GhostRecorder(model)
        record(recorder, model, tokens_NT, targets_NT)
        found.append([losses_N, *gradients, recorder.first_order(recorder.direction())])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"train.compile needs a C\+\+ compiler, and there is no no-such-compiler"):
        compile_blocks(gpt2())
