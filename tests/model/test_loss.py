"""How the fused head cuts its work: few large products on a GPU, what a cache holds on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from model import loss
from model.gpt2 import GPT2, GPT2Config
from model.loss import OutputHead, chunks
from model.optimizer import build_adamw
from model.weights import to_transformers
from tests.helpers.counting import Launches, on_gpu

CPU, GPU = torch.device("cpu"), torch.device("meta")  # whatever is no CPU has a GPU's settings


@pytest.mark.parametrize("tokens", [1, 127, 128, 16384, 100_000])
@pytest.mark.parametrize("vocabulary", [1000, 50304])
def test_a_gpu_gets_even_parts_of_whole_tiles(tokens, vocabulary):
    parts = chunks(tokens, vocabulary, GPU)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, tokens)
    sizes = [part.stop - part.start for part in parts]
    assert all(size % loss.GPU_MULTIPLE == 0 for size in sizes[:-1])
    assert max(sizes) * vocabulary <= loss.GPU_ELEMENTS + loss.GPU_MULTIPLE * vocabulary
    assert len(parts) == -(-tokens * vocabulary // loss.GPU_ELEMENTS)


def test_a_cpu_gets_what_its_caches_hold_but_not_a_handful_of_tokens():
    assert {part.stop - part.start for part in chunks(4096, 4096, CPU)} == {loss.CPU_ELEMENTS // 4096}
    assert {part.stop - part.start for part in chunks(1024, 50304, CPU)} == {loss.CPU_TOKENS}
    assert chunks(0, 50304, CPU) == chunks(0, 50304, GPU) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_pass_of_the_head_takes_few_launches(dtype):
    """Forward and backward at V = 50304, N = 16, T = 1024, D = 768."""
    with torch.device("meta"):
        head = OutputHead(768, 50304).to(dtype)
    hidden_NTD = on_gpu(16, 1024, 768, dtype=dtype).requires_grad_()
    targets_NT = on_gpu(16, 1024, dtype=torch.int64)
    with Launches() as launched:
        head(hidden_NTD, targets_NT)[0].sum().backward()
    assert len(launched.names) <= 60, launched.names
    assert hidden_NTD.grad.shape == hidden_NTD.shape
    assert head.weight.grad.shape == head.weight.shape
    assert sum(name == "aten::mm" or name == "aten::addmm_" for name in launched.names) == 3 * 4


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 0.0, -2.0]])
def test_rows_of_no_token_have_no_say_and_no_gradient(weights):
    """The loss, its gradients and the logits are those of the rows that stand for tokens, whatever is in the others."""
    torch.manual_seed(0)
    head, plain = OutputHead(6, 64, 31).double(), torch.nn.Linear(6, 31, bias=False).double()
    with torch.no_grad():
        head.weight[31:] = 1e3
        plain.weight.copy_(head.weight[:31])
    hidden_NTD = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    targets_NT, weight_N = torch.randint(0, 31, (3, 5)), torch.tensor(weights).double()
    targets_NT[1, 2:] = -1
    losses_N, normaliser_NT = head(hidden_NTD, targets_NT)
    ((losses_N * weight_N).sum() if weights[1] == 0 else losses_N.sum()).backward()
    found, hidden_NTD.grad = hidden_NTD.grad, None
    loss_NT = F.cross_entropy(plain(hidden_NTD).transpose(1, 2), targets_NT, ignore_index=-1, reduction="none")
    expected_N = loss_NT.sum(dim=1) / (targets_NT != -1).sum(dim=1)
    (expected_N * weight_N).sum().backward()
    torch.testing.assert_close(losses_N, expected_N, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normaliser_NT, plain(hidden_NTD).logsumexp(2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, hidden_NTD.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(head.weight.grad[:31], plain.weight.grad, rtol=1e-10, atol=1e-14)
    assert not head.weight.grad[31:].any()
    assert head(hidden_NTD).shape == (3, 5, 31)


def test_the_token_table_has_whole_tiles_of_rows_which_stay_zero_in_training():
    model = GPT2(GPT2Config(vocab_size=50, n_layer=1, n_head=2, n_embd=8, sequence_length=4))
    optimizer = build_adamw(model, 1e-2, weight_decay=0.1)
    tokens_NT = torch.randint(0, 50, (4, 4))
    for _ in range(3):
        model(tokens_NT, tokens_NT).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.wte.weight.shape == (64, 8)
    assert not model.wte.weight[50:].any()
    assert to_transformers(model, 0).transformer.wte.weight.shape == (50, 8)
