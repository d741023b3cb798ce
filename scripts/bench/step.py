"""What a step costs, mode by mode, side by side in one process; see scripts.bench for the command lines.

Costs are measured on one group of random tokens (they do not depend on the text), every round running each mode
once, so that a slow moment of the machine falls on all of them alike.
N candidates, k picks, m target samples, T tokens.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model.gpt2 import GPT2, GPT2Config
from selection.direction.exact import Direction
from selection.direction.running import RunningDirection
from selection.ghost.recorder import GhostRecorder
from selection.methods.registry import METHODS
from selection.prefilters.cascade import Prefilter
from selection.prefilters.ngrams import ngram_features
from selection.prefilters.predictor import Predictor

STEP_SIZE = 1e-4
EVERY, DRAWN = 8, 8  # of the amortised modes: steps between scored ones, candidates drawn for one pick
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler that sees the memory is silent then


@dataclass(frozen=True)
class Options:
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
    run: str = ""
    """A run folder whose checkpoints the modes' fidelity is measured on; without it only costs are."""
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass
class Mode:
    """name; what one step does; its floor, in units of one sample through one of {forward, input gradient, weight
    gradient} (DESIGN section 9: plain training on k is 3k); the candidates it looks at; how many steps `step` makes, of
    which everything here is the average."""

    name: str
    step: Callable[[], None]
    floor: float
    candidates: int
    steps: int = 1


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


class Bench:
    """The network and the tokens that all modes share."""

    def __init__(self, options: Options):
        torch.manual_seed(0)
        config = GPT2Config(options.vocab_size, options.n_layer, options.n_head, options.n_embd, options.length)
        self.model = GPT2(config)
        self.k, self.N, self.T = options.picks, 2 * options.picks, options.length
        shape = (DRAWN * self.k, options.length + 1)
        self._tokens = {name: torch.randint(0, options.vocab_size, shape) for name in ("pool", "target")}

    def batch(self, name: str, samples: int | Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of the first so many samples, or of these."""
        index = slice(samples) if isinstance(samples, int) else samples
        tokens = self._tokens[name][index, : (length or self.T) + 1]
        return tokens[:, :-1], tokens[:, 1:]

    def clear(self) -> None:
        self.model.zero_grad(set_to_none=True)

    def modes(self) -> list[Mode]:
        k, N = self.k, self.N
        blocks = {"scored": lambda name: name.startswith("blocks.")}
        quarter, fewer = max(1, k // 4), k + k // 2
        return [
            Mode("plain, k", self.plain(k), 3 * k, k),
            Mode("plain, N", self.plain(N), 3 * N, N),
            Mode("greats exact, m = k", self.selected("greats", k, N), 3 * k + 3 * N + k, N),
            Mode("first order exact, m = k", self.selected("topk", k, N), 3 * k + 3 * N + k, N),
            Mode("rank 8, m = k", self.selected("topk", k, N, rank=8), 3 * k + 2 * N + k, N),
            Mode("rank 8 running, m = k/4", self.running(quarter, N), 3 * quarter + 2 * N + k, N),
            Mode("  the same, N = 1.5k", self.running(quarter, fewer), 3 * quarter + 2 * fewer + k, fewer),
            Mode("  the same, blocks only", self.running(quarter, N, **blocks), 3 * quarter + 2 * N + k, N),
            Mode(
                "  the same, both",
                self.running(quarter, fewer, **blocks),
                3 * quarter + 2 * fewer + k,
                fewer,
            ),
            Mode("  the same, prefix T/4", self.running(quarter, N, prefix=4), 3 * quarter + 2 * N / 4 + 3 * k, N),
            Mode("  prefix T/8, m = k/8", self.running(max(1, k // 8), N, prefix=8), 3 * k / 8 + 2 * N / 8 + 3 * k, N),
            self._amortised_mode("S = 8, rank 8 running, m = k/4", quarter, decay=0.9),
            self._amortised_mode("S = 8, rank 8, m = k/2", max(1, k // 2), decay=0.0),
            self._amortised_mode("S = 8, rank 8, m = k", k, decay=0.0),
            Mode("two passes, m = k", self.two_passes(k), 3 * k + 4 * N + 3 * k, N),
            Mode("direct, sample by sample", self.direct(k), 3 * k + 3 * N + 3 * k, N),
            Mode("torch.func, vmap of grad", self.vmapped(k), 3 * k + 3 * N + 3 * k, N),
            Mode("GradNorm, ghost", self.selected("gradnorm", 0, N), 3 * N + k, N),
            Mode("GradNorm, direct", self.direct(0), 3 * N + 3 * k, N),
        ]

    def _amortised_mode(self, name: str, m: int, decay: float) -> Mode:
        floor = ((EVERY - 1) * 3 * self.k + 3 * m + 2 * self.N + self.k) / EVERY
        return Mode(name, self.amortised(m, RunningDirection(decay, rank=8)), floor, DRAWN * self.k, EVERY)

    def plain(self, samples: int) -> Callable[[], None]:
        def step() -> None:
            self.model(*self.batch("pool", samples)).mean().backward()

        return step

    def _record(
        self,
        recorder: GhostRecorder,
        name: str,
        samples: int | Tensor,
        length: int | None = None,
        along: Direction | None = None,
    ) -> None:
        with recorder.along(along):
            self.model(*self.batch(name, samples, length)).sum().backward()

    def _choose(self, recorder: GhostRecorder, method: str, direction: Direction | None) -> Tensor:
        return METHODS[method].choose(recorder, direction, self.k, step_size=STEP_SIZE).picks

    def selected(self, method: str, m: int, candidates: int, rank: int = 0) -> Callable[[], None]:
        """One pass over the candidates, the picks' gradient assembled from it; m = 0: a method without direction."""
        recorder = GhostRecorder(self.model)

        def step() -> None:
            direction = None
            if m:
                self._record(recorder, "target", m)
                direction = recorder.direction(rank=rank)
            self._record(recorder, "pool", candidates, along=direction)
            recorder.add_gradient(self._choose(recorder, method, direction), 1 / self.k)
            recorder.release()

        return step

    def running(self, m: int, candidates: int, prefix: int = 1, **limits) -> Callable[[], None]:
        """Top-k by first-order scores along a rank-8 running average; the first T / prefix tokens are scored."""
        recorder, running = GhostRecorder(self.model, **limits), RunningDirection(decay=0.9, rank=8)

        def step() -> None:
            self._record(recorder, "target", m)
            direction = running.update(recorder)
            self._record(recorder, "pool", candidates, self.T // prefix, along=direction)
            picks = self._choose(recorder, "topk", direction)
            if prefix == 1:
                recorder.add_gradient(picks, 1 / self.k)
            recorder.release()
            if prefix > 1:
                self.model(*self.batch("pool", picks)).mean().backward()

        return step

    def amortised(self, m: int, running: RunningDirection) -> Callable[[], None]:
        """EVERY steps, of which one is scored; a predictor shortlists of DRAWN k candidates at each. All that it does
        is in: the n-grams too, which in a run the loader's processes count."""
        recorder = GhostRecorder(self.model)
        target, pool = (ngram_features(self._tokens[name].numpy()) for name in ("target", "pool"))
        prefilter = Prefilter(Predictor(target, pool, pool))

        def step() -> None:
            for number in range(EVERY):
                self.clear()
                features_nF = ngram_features(self._tokens["pool"].numpy())
                ranking = prefilter.rank(features_nF[None])
                if number == 0:
                    shortlist_N = ranking.shortlist(0, self.N, explore=0.25)
                    self._record(recorder, "target", m)
                    direction = running.update(recorder)
                    self._record(recorder, "pool", torch.from_numpy(shortlist_N), along=direction)
                    choice = METHODS["topk"].choose(recorder, direction, self.k, step_size=STEP_SIZE)
                    recorder.add_gradient(choice.picks, 1 / self.k)
                    recorder.release()
                    scores_N = choice.scores.numpy()
                    prefilter.send(features_nF[None, shortlist_N], ranking.predicted_gn[:, shortlist_N], scores_N[None])
                else:
                    picks = torch.from_numpy(ranking.shortlist(0, self.k))
                    self.model(*self.batch("pool", picks)).mean().backward()
                prefilter.catch_up()

        return step

    def two_passes(self, m: int) -> Callable[[], None]:
        """As public code does it: the scoring pass multiplies weight gradients out and throws them away."""
        recorder = GhostRecorder(self.model)

        def step() -> None:
            self._record(recorder, "target", m)
            direction = recorder.direction()
            self._record(recorder, "pool", self.N)
            recorder.add_gradient(range(self.N), 1.0)
            picks = self._choose(recorder, "topk", direction)
            recorder.release()
            self.clear()
            self.model(*self.batch("pool", picks)).mean().backward()

        return step

    def direct(self, m: int) -> Callable[[], None]:
        """A backward pass for every candidate alone, then one over the picks; m = 0: scores are gradient norms."""
        parameters = list(self.model.parameters())

        def step() -> None:
            direction = None
            if m:
                self.model(*self.batch("target", m)).mean().backward()
                direction = [p.grad for p in parameters]
            scores = []
            for sample in range(self.N):
                self.clear()
                self.model(*self.batch("pool", torch.tensor([sample]))).sum().backward()
                against = direction or [p.grad for p in parameters]
                scores.append(sum((p.grad * v).sum() for p, v in zip(parameters, against, strict=True)))
            self.clear()
            self.model(*self.batch("pool", torch.stack(scores).topk(self.k).indices)).mean().backward()

        return step

    def vmapped(self, m: int) -> Callable[[], None]:
        """All per-sample gradients at once by torch.func (through whole logits: the fused head is no function of
        single samples), their products with the target's, then a pass over the picks."""

        def loss(parameters: dict[str, Tensor], tokens_T: Tensor, targets_T: Tensor) -> Tensor:
            logits_1TV = torch.func.functional_call(self.model, parameters, (tokens_T[None],))
            return torch.nn.functional.cross_entropy(logits_1TV[0], targets_T)

        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

        def step() -> None:
            self.model(*self.batch("target", m)).mean().backward()
            direction = {name: p.grad for name, p in self.model.named_parameters()}
            parameters = {name: p.detach() for name, p in self.model.named_parameters()}
            gradients = per_sample(parameters, *self.batch("pool", self.N))
            scores_N = sum(gradients[name].flatten(1) @ v.flatten() for name, v in direction.items())
            del gradients
            self.clear()
            self.model(*self.batch("pool", scores_N.topk(self.k).indices)).mean().backward()

        return step


def measure(bench: Bench, rounds: int, console: Console) -> dict[str, Cost]:
    """Every mode once to warm up and to see its memory, then once a round."""
    modes = bench.modes()
    costs = {}
    for mode in modes:
        mode.step()
        bench.clear()
        costs[mode.name] = Cost([], _peak_bytes(mode.step))
        bench.clear()
    for _ in track(range(rounds), description="measuring", console=console, transient=True):
        for mode in modes:
            started = time.perf_counter()
            mode.step()
            costs[mode.name].seconds.append((time.perf_counter() - started) / mode.steps)
            bench.clear()
    return costs


def _peak_bytes(step: Callable[[], None]) -> int:
    """The most that tensors took at once during a step, from the allocator's own record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = highest = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def rows(bench: Bench, costs: dict[str, Cost]) -> list[dict]:
    """The table's rows, one a mode: seconds, ratios, floors, memory."""
    plain_k, plain_N = costs["plain, k"], costs["plain, N"]
    found = []
    for mode in bench.modes():
        cost = costs[mode.name]
        ratio = statistics.median(a / b for a, b in zip(cost.seconds, plain_k.seconds, strict=True))
        found.append(
            {
                "mode": mode.name,
                "seconds": cost.median,
                "spread": cost.spread,
                "of_plain_k": ratio,
                "of_plain_N": statistics.median(a / b for a, b in zip(cost.seconds, plain_N.seconds, strict=True)),
                "floor": mode.floor / (3 * bench.k),
                "floor_reached": mode.floor / (3 * bench.k) / ratio,
                "candidates_per_second": mode.candidates / cost.median,
                "candidates_of_plain_N": (mode.candidates / cost.median) / (bench.N / plain_N.median),
                "peak_of_plain_N": cost.peak_bytes / plain_N.peak_bytes,
            }
        )
    return found


def table(found: list[dict]) -> Table:
    title = "cost of a step: / k and / N, against plain training on k and N; mem, peak memory against plain N"
    note = (
        f"S = {EVERY}: the mean of {EVERY} steps on {DRAWN}k drawn, their n-grams hashed in the step; one scores "
        "the 2k that the predictor shortlists, the others train on the k it picks"
    )
    shown = Table(title=title, caption=note, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown.title_justify = shown.caption_justify = "left"
    for name in ("mode", "s", "± %", "/ k", "/ N", "floor", "reached", "cand/s", "vs N", "mem"):
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
            f"{row['candidates_per_second']:.1f}",
            f"{row['candidates_of_plain_N']:.2f}",
            f"{row['peak_of_plain_N']:.2f}",
        )
    return shown


def main(options: Options) -> int:
    """Measures, and prints the table or one JSON object."""
    torch.set_num_threads(options.threads)
    console = Console(stderr=options.json, width=None if Console().is_terminal else 100)
    bench = Bench(options)
    found = rows(bench, measure(bench, options.rounds, console))
    fidelity = {}
    if options.run:
        from scripts.bench.fidelity import measure_fidelity

        fidelity = measure_fidelity(options.run, console)
    if options.json:
        print(json.dumps({"options": dataclasses.asdict(options), "cost": found, "fidelity": fidelity}))
        return 0
    parameters = sum(p.numel() for p in bench.model.parameters())
    head = bench.model.wte.weight.numel() / parameters
    console.print(
        f"{options.n_layer} layers, D = {options.n_embd}, T = {options.length}, V = {options.vocab_size} "
        f"({parameters / 1e6:.1f} M parameters, {100 * head:.0f} % in the head), N = {bench.N}, k = {bench.k}, "
        f"{options.threads} threads, {options.rounds} rounds",
        highlight=False,
    )
    console.print(table(found))
    return 0
