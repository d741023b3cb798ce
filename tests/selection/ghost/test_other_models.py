"""The recorder on layers and ways of ours and of others, against plain autograd in float64: RMSNorm, checkpointing."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.gpt2 import GPT2
from selection.ghost.recorder import GhostRecorder
from tests.helpers.recording import batch, check_against_autograd, gpt2, mean_loss


class Torch(nn.Module):
    """torch's own RMSNorm, and a linear layer used twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(23, 12), nn.RMSNorm(12)
        self.twice, self.head = nn.Linear(12, 12), nn.Linear(12, 23)

    def forward(self, tokens_NT, targets_NT):
        hidden = self.norm(self.embed(tokens_NT))
        return mean_loss(self.head(self.twice(torch.tanh(self.twice(hidden)))), targets_NT)


class Checkpointed(GPT2):
    """Our network with every block recomputed in backward."""

    reentrant = False

    def __init__(self, config):
        super().__init__(config)
        for block in self.blocks:
            forward = block.forward
            block.forward = lambda hidden, forward=forward: checkpoint(forward, hidden, use_reentrant=self.reentrant)


class CheckpointedReentrant(Checkpointed):
    reentrant = True


MODELS = {
    "RMSNorm, a layer used twice": Torch,
    "activation checkpointing": lambda: gpt2(Checkpointed),
    "reentrant activation checkpointing": lambda: gpt2(CheckpointedReentrant),
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_autograd(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    check_against_autograd(model)


def test_a_compiled_model_is_refused():
    model = gpt2()
    with pytest.raises(ValueError, match="the model is compiled"):
        GhostRecorder(torch.compile(model))
    recorder = GhostRecorder(model)
    model.blocks[0].compile()
    with pytest.raises(ValueError, match="the model is compiled"), recorder:
        model(*batch(2)).sum().backward()
    with pytest.raises(ValueError, match="the model is compiled"):
        GhostRecorder(model)
