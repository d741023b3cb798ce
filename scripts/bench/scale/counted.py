"""A rank's steps among up to many ranks, counted: collectives, bytes, products, memory. Nothing is computed."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from model import loss
from model.gpt2 import GPT2Config
from scripts.bench.scale.fake import Counts, fake_world, real_tensors, traced
from scripts.bench.scale.processes import copies
from scripts.bench.scale.rank import Rank
from selection.ghost import factors, parameters
from selection.settings import Selection

VOCABULARY, TOKENS = 50304, 1024
SHAPES = {  # layers, heads, width
    "124M": (12, 12, 768),
    "350M": (24, 16, 1024),
    "1.5B": (48, 25, 1600),
}


@contextmanager
def sized_as_on_a_gpu() -> Iterator[None]:
    """Parts of a product as large as they are on a GPU, on a device that calls itself a CPU."""
    head = {"CPU_ELEMENTS": loss.GPU_ELEMENTS, "CPU_TOKENS": loss.GPU_MULTIPLE}
    rows = patch.object(parameters, "CPU_ELEMENTS", parameters.GPU_ELEMENTS)
    with patch.multiple(loss, **head), rows, patch.object(factors, "ONE_BY_ONE", ()):
        yield


@dataclass
class Counted:
    """Of one step of one rank; calls and sent by (purpose, whether FSDP2 asks), operations by purpose."""

    calls: Counter
    sent: Counter
    operations: Counter
    reads: int
    peak_bytes: int


def shape_of(name: str) -> GPT2Config:
    layers, heads, width = SHAPES[name]
    return GPT2Config(VOCABULARY, layers, heads, width, TOKENS)


def count(*given: Any, **named: Any) -> list[Counted]:
    """count_here in a process of its own: torch keeps the layouts of one rank, and would take them for another's."""
    with ProcessPoolExecutor(1, copies()) as one:
        return one.submit(count_here, *given, **named).result()


def count_here(
    shape: GPT2Config,
    settings: Selection,
    size: int,
    rank: int = 0,
    groups: int = 1,
    steps: tuple[int, ...] = (0,),
    recomputes: bool = False,
    dtype: str = "bfloat16",
    as_on_a_gpu: bool = True,
) -> list[Counted]:
    """These steps of one rank of `size`, after a first one, in which the optimizer and FSDP2 get their state.

    A multiple of 8 is a step that an amortised arm scores.
    """
    found = []
    with sized_as_on_a_gpu() if as_on_a_gpu else nullcontext(), fake_world(rank, size) as world:
        one = Rank(world, shape, settings, dtype, recomputes, groups)
        with Counts(answer=settings.picks):
            one.update(one.choose(0))
        for step in steps:
            with traced(one.model, one.optimizer, answer=settings.picks) as trace:
                choices = one.choose(step)
                one.update(choices)
            for choice in choices:
                if choice.score is not None:
                    with real_tensors():  # the host learns from scores, which here have no value
                        choice.score = torch.zeros(len(choice.score))
            with real_tensors(), Counts() as host:
                one.learn()
            calls, sent = trace.calls + host.calls, trace.sent + host.sent
            found.append(Counted(calls, sent, trace.operations, trace.reads, trace.peak_bytes))
    return found
