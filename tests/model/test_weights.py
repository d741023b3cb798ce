"""Our GPT-2 and that of `transformers` give the same logits, whichever of them the weights come from."""

import pytest
import torch

from model.gpt2 import GPT2, GPT2Config
from model.weights import from_transformers, to_transformers
from tests.helpers.networks import GPT2 as SHAPE
from tests.helpers.networks import network

SIZES = [GPT2Config(23, 2, 2, 12, 9), GPT2Config(300, 3, 4, 64, 32)]


def ours(shape: GPT2Config) -> GPT2:
    model = GPT2(shape)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the initialisation's zeros and ones
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def logits(model, tokens_NT) -> torch.Tensor:
    with torch.no_grad():
        found = model(tokens_NT)
    return getattr(found, "logits", found)


@pytest.mark.parametrize("shape", SIZES, ids=["small", "larger"])
def test_logits_are_the_same_both_ways(shape):
    torch.manual_seed(0)
    first, tokens_NT = ours(shape), torch.randint(shape.vocab_size, (3, shape.sequence_length))
    there = to_transformers(first, end_of_text=5)
    assert there.config.eos_token_id == 5
    expected = logits(first, tokens_NT)
    assert expected.abs().max() > 0.5
    assert (logits(there, tokens_NT) - expected).abs().max() < 1e-5
    back = GPT2(shape)
    from_transformers(there, back, "there")
    with torch.no_grad():
        first.wte.weight[shape.vocab_size :] = 0  # of no token: they are not in the folder
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), back.parameters(), strict=True))
    assert back.head.weight is back.wte.weight


def test_of_more_positions_the_first_are_taken():
    torch.manual_seed(0)
    body = network("GPT-2", positions=20).eval()
    model = GPT2(GPT2Config(23, SHAPE["n_layer"], SHAPE["n_head"], SHAPE["n_embd"], 9))
    from_transformers(body, model, "there")
    tokens_NT = torch.randint(23, (3, 9))
    assert (logits(model, tokens_NT) - logits(body, tokens_NT)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("GPT-2", {"n_layer": 1}, "there has another shape of model: n_layer is 2, its is 1"),
        ("GPT-2", {"vocabulary": 24}, "there has another shape of model: vocab_size is 23, its is 24"),
        ("GPT-2", {"n_inner": 20}, "there has another shape of model: n_inner is 48, its is 20"),
        ("GPT-2", {"activation_function": "relu"}, "activation_function is gelu_new, its is relu"),
        ("GPT-2, untied", {}, "tie_word_embeddings is True, its is False"),
        ("Llama", {}, "there is a llama, which our GPT-2 cannot begin from: choose model.kind hf"),
    ],
)
def test_another_network_is_refused(name, changes, sentence):
    model = GPT2(GPT2Config(23, 2, 2, 12, 9))
    with pytest.raises(ValueError, match=sentence):
        from_transformers(network(name, **changes), model, "there")
