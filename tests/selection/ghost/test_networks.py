"""The recorder on models of `transformers`, with and without LoRA, against plain autograd in float64."""

import pytest
import torch

from model.hf import CausalLM, adapt
from model.settings import Lora
from selection.ghost.recorder import GhostRecorder
from tests.helpers.networks import NETWORKS, network
from tests.helpers.recording import batch, check_against_autograd, close, record

LORA = Lora(rank=2, alpha=6.0)
# Whatever the model's precision, Gemma takes the gradients of its norms' weights in float32.
RELATIVE = {name: 1e-6 if name.startswith("Gemma") else 1e-9 for name in NETWORKS}


def causal(name: str, lora: Lora | None = None) -> CausalLM:
    """A model in float64; its adapters are away from the zeros they begin with."""
    body = network(name).double()
    if lora:
        adapt(body, lora, torch.float64, seed=1)
        with torch.no_grad():
            for parameter in body.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return CausalLM(body)


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "LoRA"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_autograd(name, lora):
    torch.manual_seed(0)
    model = causal(name, lora)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {key for key, _ in model.named_parameters() if lora is None or "lora_" in key}
    check_against_autograd(model, RELATIVE[name])


def test_what_the_recorder_saw_under_dropout_is_what_the_update_is_made_of():
    """Autograd's own gradient of the picks in a pass with the same mask; with another mask it is another gradient."""
    torch.manual_seed(0)
    model = causal("Llama", Lora(rank=2, dropout=0.5)).train()
    tokens_NT, targets_NT = batch(4)
    trained = [p for p in model.parameters() if p.requires_grad]

    def of_picks(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return torch.autograd.grad(model(tokens_NT, targets_NT)[[2, 0]].sum(), trained)

    recorder = GhostRecorder(model)
    torch.manual_seed(5)
    record(recorder, model, tokens_NT, targets_NT)
    recorder.add_gradient([2, 0], scale=1.0)
    assert all(close(p.grad, g) for p, g in zip(trained, of_picks(5), strict=True))
    assert not any(close(p.grad, g) for p, g in zip(trained, of_picks(6), strict=True))


def test_a_layer_without_a_rule_is_named():
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.by = torch.nn.Parameter(torch.ones(16))

        def forward(self, x):
            return self.by * x

    body = network("Llama")
    body.model.norm = Scale()
    with pytest.raises(ValueError, match=r"no ghost rule covers network\.model\.norm\.by: freeze it, or add a rule"):
        GhostRecorder(CausalLM(body))


def test_a_layer_that_computes_something_else_than_its_base_class_is_named():
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="no ghost rule covers weight, bias"):
        GhostRecorder(Doubled(3, 3))
