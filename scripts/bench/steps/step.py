"""What a step costs, mode by mode, side by side in one process; see scripts.bench for the command lines.

Costs are measured on one group of random tokens (they do not depend on the text), every round running each mode
once, so that a slow moment of the machine falls on all of them alike. A mode is a Selector (modes.py) or a way in which
others do it (peers.py); no optimizer step is made.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from model.gpt2 import GPT2Config
from scripts.bench.steps.modes import DRAWN, EVERY, Bench, Mode, adapter_modes, selector_modes
from scripts.bench.steps.peers import peers

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler that sees the memory is silent then


@dataclass(frozen=True)
class StepOptions:
    """python -m scripts.bench step"""

    n_layer: int = 4
    """Transformer blocks."""
    n_embd: int = 384
    """Width D."""
    n_head: int = 6
    """Attention heads."""
    length: int = 256
    """T."""
    vocab_size: int = 4096
    """V."""
    picks: int = 8
    """k; N is twice as many."""
    rounds: int = 7
    """Times every mode is measured."""
    threads: int = 2
    """CPU threads."""
    lora: int = 0
    """Rank of adapters: then a Llama of this shape is measured of which they alone are trained; 0: our GPT-2."""
    run: str = ""
    """A run folder whose checkpoints the modes' fidelity is measured on; without it only costs are."""
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass
class Cost:
    """Seconds of each round and the peak of memory allocated in one step above what was there before, in bytes."""

    seconds: list[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


def build_bench(options: StepOptions) -> Bench:
    shape = GPT2Config(options.vocab_size, options.n_layer, options.n_head, options.n_embd, options.length)
    return Bench(options.picks, shape, options.lora)


def every_mode(bench: Bench) -> list[Mode]:
    return adapter_modes(bench) if bench.frozen else [*selector_modes(bench), *peers(bench)]


def measure(bench: Bench, modes: list[Mode], rounds: int, console: Console) -> dict[str, Cost]:
    """Every mode once to warm up and once to see its memory, then once a round. On one thread seconds are the
    processor's, which others on the machine do not lengthen."""
    costs, clock = {}, time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for mode in modes:
        mode.step()
        bench.clear()
        costs[mode.name] = Cost([], peak_bytes(mode.step))
        bench.clear()
    for _ in track(range(rounds), description="measuring", console=console, transient=True):
        for mode in modes:
            started = clock()
            mode.step()
            costs[mode.name].seconds.append((clock() - started) / mode.steps)
            bench.clear()
    return costs


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that tensors took at once during a step, from the allocator's own record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = highest = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def rows(bench: Bench, modes: list[Mode], costs: dict[str, Cost]) -> list[dict]:
    """The table's rows, one a mode: seconds, ratios, floors, memory."""
    plain_k, plain_N = costs["plain, k"], costs["plain, N"]
    found = []
    for mode in modes:
        cost = costs[mode.name]
        ratio = statistics.median(a / b for a, b in zip(cost.seconds, plain_k.seconds, strict=True))
        found.append(
            {
                "mode": mode.name,
                "seconds": cost.median,
                "spread": cost.spread,
                "of_plain_k": ratio,
                "of_plain_N": statistics.median(a / b for a, b in zip(cost.seconds, plain_N.seconds, strict=True)),
                "floor": mode.floor / bench.plain,
                "floor_reached": mode.floor / bench.plain / ratio,
                "candidates_per_second": mode.candidates / cost.median,
                "candidates_of_plain_N": (mode.candidates / cost.median) / (bench.N / plain_N.median),
                "peak_of_plain_k": cost.peak_bytes / costs["plain, k"].peak_bytes,
                "peak_of_plain_N": cost.peak_bytes / plain_N.peak_bytes,
            }
        )
    return found


def table(found: list[dict]) -> Table:
    title = "cost of a step: / k and / N, against plain training on k and on N; mem, peak memory so"
    amortised = any(row["mode"].startswith("S = ") for row in found)
    note = amortised and (
        f"S = {EVERY}: the mean of {EVERY} steps on {DRAWN}k drawn, their n-grams hashed in the step; one scores "
        "the 2k that the predictor shortlists, the others train on the k it picks. Importance draws as many and scores "
        "none"
    )
    shown = Table(title=title, caption=note or None, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown.title_justify = shown.caption_justify = "left"
    for name in ("mode", "s", "± %", "/ k", "/ N", "floor", "reached", "cand/s /N", "mem /k", "/N"):
        shown.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    for row in found:
        shown.add_row(
            row["mode"],
            f"{row['seconds']:.3f}",
            f"{100 * row['spread']:.0f}",
            f"{row['of_plain_k']:.2f}",
            f"{row['of_plain_N']:.2f}",
            f"{row['floor']:.2f}",
            f"{100 * row['floor_reached']:.0f} %",
            f"{row['candidates_of_plain_N']:.2f}",
            f"{row['peak_of_plain_k']:.2f}",
            f"{row['peak_of_plain_N']:.2f}",
        )
    return shown


def main(arguments: list[str]) -> int:
    """Measures, and prints the table or one JSON object."""
    options = tyro.cli(StepOptions, args=arguments, prog="scripts.bench step", description=__doc__)
    if options.lora < 0:
        raise ValueError(f"--lora must be at least 0, not {options.lora}")
    if options.rounds < 2:
        raise ValueError(f"--rounds is {options.rounds}; a spread needs at least 2")
    torch.set_num_threads(options.threads)
    console = Console(stderr=options.json, width=None if Console().is_terminal else 100)
    bench = build_bench(options)
    modes = every_mode(bench)
    found = rows(bench, modes, measure(bench, modes, options.rounds, console))
    fidelity = {}
    if options.run:
        from scripts.bench.steps.fidelity import measure_fidelity

        fidelity = measure_fidelity(options.run, console)
    if options.json:
        print(json.dumps({"options": dataclasses.asdict(options), "cost": found, "fidelity": fidelity}))
        return 0
    parameters = sum(p.numel() for p in bench.model.parameters())
    head = options.vocab_size * options.n_embd / parameters
    console.print(
        f"{options.n_layer} layers, D = {options.n_embd}, T = {options.length}, V = {options.vocab_size} "
        f"({parameters / 1e6:.1f} M parameters, {100 * head:.0f} % in the head"
        f"{f', adapters of rank {options.lora} trained' if options.lora else ''}), N = {bench.N}, k = {bench.k}, "
        f"{options.threads} threads, {options.rounds} rounds",
        highlight=False,
    )
    console.print(table(found))
    return 0
