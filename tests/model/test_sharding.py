"""When a rank has the memory for a whole model."""

import torch

from model.gpt2 import GPT2, GPT2Config
from model.sharding import fits_whole
from model.world import World


def test_all_parameters_and_trained_gradients_take_an_eighth_at_most():
    model = GPT2(GPT2Config(vocab_size=10, n_layer=1, n_head=1, n_embd=4, sequence_length=3))
    size = sum(p.numel() for p in model.parameters())
    for frozen in (0, model.wte.weight.numel()):
        model.wte.weight.requires_grad_(not frozen)
        needed = 8 * (2 * size + 4 * (size - frozen))
        assert fits_whole(model, torch.bfloat16, needed)
        assert not fits_whole(model, torch.bfloat16, needed - 1)


def test_ranks_of_a_machine_share_its_memory(monkeypatch):
    world = World(0, 1, torch.device("cpu"), None)
    alone = world.memory
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 1e8 < world.memory == alone // 4
