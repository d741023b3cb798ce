"""How the fused head cuts its work: few large products on a GPU, what a cache holds on a CPU."""

import pytest
import torch

from model import loss
from model.loss import OutputHead, chunks
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
