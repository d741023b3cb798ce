"""Our ways beside torch's own: the head's loss beside linear_cross_entropy, eager blocks beside compiled ones.

    python -m scripts.bench kernels

All take turns on one thread. Seconds are the processor's, which others on the machine do not lengthen.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.compiled import compile_blocks
from model.gpt2 import GPT2, GPT2Config
from model.loss import OutputHead


@dataclass(frozen=True)
class KernelsOptions:
    """python -m scripts.bench kernels"""

    tokens: int = 512
    """Of the head."""
    width: int = 768
    """D of the head."""
    vocab_size: int = 50304
    """V of the head."""
    n_layer: int = 4
    """Blocks of the network that is compiled."""
    n_embd: int = 384
    """Width of that network."""
    length: int = 256
    """T of that network."""
    samples: int = 8
    """Of a step, and of an evaluation."""
    rounds: int = 3
    """Times everything is measured."""


Way = Callable[[], tuple[Tensor, ...]]


def heads(options: KernelsOptions) -> dict[str, Way]:
    """Forward and backward of a mean loss: the gradients of the hidden states and of the weight."""
    torch.manual_seed(0)
    head = OutputHead(options.width, options.vocab_size)
    hidden_NTD = torch.randn(1, options.tokens, options.width, requires_grad=True)
    targets_NT = torch.randint(options.vocab_size, (1, options.tokens))

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(head(hidden_NTD, targets_NT)[0].mean(), (hidden_NTD, head.weight))

    def torchs(chunks: torch.nn.LinearCrossEntropyOptions | None) -> tuple[Tensor, ...]:
        loss = F.linear_cross_entropy(hidden_NTD[0], head.weight, targets_NT[0], options=chunks)
        return torch.autograd.grad(loss, (hidden_NTD, head.weight))

    return {
        "head: ours": ours,
        "head: linear_cross_entropy, all logits at once": lambda: torchs(None),
        "head: linear_cross_entropy, in chunks": lambda: torchs(torch.nn.LinearCrossEntropyOptions()),
    }


def blocks(options: KernelsOptions) -> dict[str, Way]:
    """A plain step without its optimizer: its gradients; an evaluation: its losses."""
    shape = GPT2Config(4096, options.n_layer, max(1, options.n_embd // 64), options.n_embd, options.length)
    tokens_NT, targets_NT = torch.randint(shape.vocab_size, (2, options.samples, options.length))
    found: dict[str, Way] = {}
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        model = GPT2(shape)
        if name == "compiled":
            compile_blocks(model)

        def step(model: GPT2 = model) -> tuple[Tensor, ...]:
            return torch.autograd.grad(model(tokens_NT, targets_NT).mean(), tuple(model.parameters()))

        def evaluate(model: GPT2 = model) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (model(tokens_NT, targets_NT),)

        found |= {f"step: {name}": step, f"evaluation: {name}": evaluate}
    return dict(sorted(found.items(), reverse=True))


def measure(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, after one that warms up and compiles."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    return seconds


def table(options: KernelsOptions, seconds: dict[str, list[float]]) -> Table:
    note = (
        f"one thread, least and most of {options.rounds} rounds; head: {options.tokens} tokens, V = "
        f"{options.vocab_size}, D = {options.width}; network: {options.n_layer} layers, D = {options.n_embd}, T = "
        f"{options.length}, V = 4096, {options.samples} samples"
    )
    shown = Table(title="seconds of computing", caption=note, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown.title_justify = shown.caption_justify = "left"
    for name in ("way", "least", "most", "/ first"):
        shown.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    first: dict[str, float] = {}
    for name, each in seconds.items():
        of_first = min(each) / first.setdefault(name.partition(":")[0], min(each))
        shown.add_row(name, f"{min(each):.3f}", f"{max(each):.3f}", f"{of_first:.2f}")
    return shown


def main(arguments: list[str]) -> int:
    """Measures, and prints a table."""
    options = tyro.cli(KernelsOptions, args=arguments, prog="scripts.bench kernels", description=__doc__)
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, not {options.rounds}")
    torch.set_num_threads(1)
    seconds = measure(heads(options) | blocks(options), options.rounds)
    Console(width=None if Console().is_terminal else 100).print(table(options, seconds))
    return 0
