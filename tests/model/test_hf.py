"""A model of `transformers` keeps the contract of ours: losses, logits, blocks, what is frozen; and what is refused."""

import pytest
import torch

from model.build import recompute
from model.gpt2 import GPT2, GPT2Config
from model.hf import CausalLM, network_of
from model.settings import Lora, Model
from tests.helpers.networks import NETWORKS, network, write_network
from tests.helpers.recording import batch, mean_loss

SHAPE = GPT2Config(vocab_size=23, n_layer=2, n_head=2, n_embd=12, sequence_length=64)


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_and_logits_are_those_of_the_network(name):
    body = network(name).double()
    tokens_NT, targets_NT = batch(3)
    logits_NTV = body(input_ids=tokens_NT).logits
    model = CausalLM(body)
    assert model.fused == (name != "Gemma 2")  # which caps its logits
    assert torch.equal(model(tokens_NT), logits_NTV)
    assert torch.allclose(model(tokens_NT, targets_NT), mean_loss(logits_NTV, targets_NT), rtol=1e-12)
    assert model(tokens_NT, torch.full_like(targets_NT, -1)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blocks_are_the_networks_own(name):
    model = CausalLM(network(name))
    assert len(model.blocks) == 2
    inside = {id(p) for block in model.blocks for p in block.parameters()}
    for key, parameter in model.named_parameters():
        assert model.is_block(key) == (id(parameter) in inside), key
    assert 0 < len(inside) < len(list(model.parameters()))


def test_beside_adapters_weights_are_frozen_as_they_are_stored(dataset, tmp_path):
    path = str(write_network(tmp_path / "model", "Llama", dataset, torch.bfloat16))
    whole = network_of(Model("hf", path), torch.float32, seed=0)
    assert {(p.dtype, p.requires_grad) for p in whole.parameters()} == {(torch.float32, True)}
    adapted = network_of(Model("hf", path, lora=Lora(rank=2, targets="q_proj, v_proj")), torch.float64, seed=0)
    kinds = {("lora_" in key, p.dtype, p.requires_grad) for key, p in adapted.named_parameters()}
    assert kinds == {(True, torch.float64, True), (False, torch.bfloat16, False)}
    trained = [key for key, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all("q_proj" in key or "v_proj" in key for key in trained)


def test_adapters_begin_as_a_function_of_the_seed(dataset, tmp_path):
    path = str(write_network(tmp_path / "model", "Llama", dataset))

    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed())
        adapted = network_of(Model("hf", path, lora=Lora(rank=2)), torch.float32, seed)
        return torch.cat([p.detach().flatten() for p in adapted.parameters() if p.requires_grad])

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_a_head_with_a_bias_is_not_fused():
    body = network("Llama")
    body.lm_head = torch.nn.Linear(16, 23)
    assert not CausalLM(body).fused


@pytest.mark.parametrize("make", [lambda: CausalLM(network("Llama", positions=64)), lambda: GPT2(SHAPE)])
def test_recomputing_keeps_no_activations_of_blocks(make):
    """What the graph of a plain pass holds on to, in bytes: of every block its input, and the head."""
    tokens_NT = torch.arange(64).repeat(4, 1) % 23

    def held(model) -> int:
        sizes = {}

        def pack(tensor):
            if not isinstance(tensor, torch.nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(tokens_NT, tokens_NT)
        return sum(sizes.values())

    kept, recomputed = make(), make()
    recompute(recomputed)
    assert held(recomputed) < 0.4 * held(kept)
