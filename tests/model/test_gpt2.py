import math

import pytest
import torch
import torch.nn.functional as F

import model.loss
from model.gpt2 import GPT2, GPT2Config

CONFIG = GPT2Config(vocab_size=31, n_layer=2, n_head=2, n_embd=8, sequence_length=6)


def batch():
    torch.manual_seed(0)
    tokens_NT = torch.randint(0, 31, (4, 6))
    targets_NT = torch.randint(0, 31, (4, 6))
    targets_NT[1, 2:] = -1
    targets_NT[3] = -1
    return tokens_NT, targets_NT


def reference_losses(gpt2, tokens_NT, targets_NT):
    """Mean cross-entropy of each sample's valid tokens, through whole logits."""
    loss_NT = F.cross_entropy(gpt2(tokens_NT).transpose(1, 2), targets_NT, ignore_index=-1, reduction="none")
    return loss_NT.sum(dim=1) / (targets_NT != -1).sum(dim=1).clamp(min=1)


@pytest.mark.parametrize("chunk", [1 << 22, 31 * 5])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.5, 0.0, -2.0, 3.0]])
def test_fused_head_equals_textbook_loss_and_gradient(monkeypatch, chunk, weights):
    monkeypatch.setattr(model.loss, "CPU_ELEMENTS", chunk)
    monkeypatch.setattr(model.loss, "CPU_TOKENS", 1)
    tokens_NT, targets_NT = batch()
    gpt2 = GPT2(CONFIG).double()
    weight_N = torch.tensor(weights).double()
    losses_N = gpt2(tokens_NT, targets_NT)
    (losses_N * weight_N).sum().backward()
    gradients = {name: p.grad.clone() for name, p in gpt2.named_parameters()}
    gpt2.zero_grad()
    expected_N = reference_losses(gpt2, tokens_NT, targets_NT)
    (expected_N * weight_N).sum().backward()
    torch.testing.assert_close(losses_N, expected_N, rtol=1e-12, atol=1e-12)
    for name, parameter in gpt2.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_of_no_sample_gives_zero_gradients(dtype):
    """As a rank has that picked nothing: under FSDP it passes forward and backward with the others."""
    tokens_NT, targets_NT = batch()
    gpt2 = GPT2(CONFIG).to(dtype)
    losses_N = gpt2(tokens_NT[:0], targets_NT[:0])
    assert losses_N.shape == (0,)
    for loss in (losses_N.sum(), (losses_N * torch.ones(0)).sum()):
        loss.backward(retain_graph=True)
        for parameter in gpt2.parameters():
            assert parameter.grad.shape == parameter.shape
            assert not parameter.grad.any()
        gpt2.zero_grad()


@pytest.mark.parametrize("samples", [0, 1, 4])
def test_training_reads_no_number_off_the_device(samples):
    """Where every sample has one weight, as in the sum that is trained on: the host would have to wait for it."""
    tokens_NT, targets_NT = batch()
    read = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            read.extend([function] * (function is torch.ops.aten._local_scalar_dense.default))
            return function(*args, **(kwargs or {}))

    gpt2 = GPT2(CONFIG)
    with Watch():
        (gpt2(tokens_NT[:samples], targets_NT[:samples]).sum() * 0.25).backward()
    assert not read


def test_no_tensor_of_all_logits_is_made(monkeypatch):
    """In forward and backward of the loss nothing has as many elements as [N, T, V]."""
    monkeypatch.setattr(model.loss, "CPU_ELEMENTS", 31 * 5)
    monkeypatch.setattr(model.loss, "CPU_TOKENS", 1)
    tokens_NT, targets_NT = batch()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    gpt2 = GPT2(GPT2Config(vocab_size=310, n_layer=2, n_head=2, n_embd=8, sequence_length=6))
    with Watch():
        gpt2(tokens_NT, targets_NT).mean().backward()
    assert largest == gpt2.wte.weight.numel() < tokens_NT.numel() * 310


def test_predictions_do_not_see_the_future():
    tokens_NT, _ = batch()
    gpt2 = GPT2(CONFIG).double()
    logits_NTV = gpt2(tokens_NT)
    changed_NT = tokens_NT.clone()
    changed_NT[:, 4:] = (changed_NT[:, 4:] + 1) % 31
    torch.testing.assert_close(gpt2(changed_NT)[:, :4], logits_NTV[:, :4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(gpt2(changed_NT)[:, 4:], logits_NTV[:, 4:])


def test_initialisation_is_gpt2s_and_a_function_of_the_seed():
    big = GPT2(GPT2Config(vocab_size=500, n_layer=8, n_head=2, n_embd=64, sequence_length=32))
    state = dict(big.named_parameters())
    assert state["wte.weight"].std().item() == pytest.approx(0.02, rel=0.03)
    assert state["blocks.3.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.03)
    for projection in ("attn.proj", "mlp.proj"):
        assert state[f"blocks.3.{projection}.weight"].std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.03)
    assert (state["blocks.0.ln_1.weight"] == 1).all()
    assert not state["blocks.0.mlp.fc.bias"].any()
    assert not torch.equal(state["blocks.0.mlp.fc.weight"], state["blocks.1.mlp.fc.weight"])
    again = GPT2(big.config)
    assert all(torch.equal(p, state[name]) for name, p in again.named_parameters())
    again.initialise(seed=1)
    assert not torch.equal(again.wte.weight, big.wte.weight)
    tokens_NT = torch.arange(64).view(2, 32)
    assert big(tokens_NT, tokens_NT + 100).mean().item() == pytest.approx(math.log(500), rel=0.05)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"model.n_embd \(10\) must be a multiple of model.n_head \(3\)"):
        GPT2Config(vocab_size=5, n_head=3, n_embd=10)
    with pytest.raises(ValueError, match=r"model\.n_layer must be at least 1, not 0"):
        GPT2Config(vocab_size=5, n_layer=0)
