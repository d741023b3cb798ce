"""The training loop: draw, choose, log, clip, step."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from model.optimizer import clip_gradient, learning_rate_at, set_learning_rate, step_unless
from model.world import sum_over_ranks
from pipeline.stream import Candidates, CandidateStream
from scripts.train.progress import ProgressBar
from scripts.train.run import Run
from selection.choice import Choice
from selection.log.arriving import Arriving

# So many updates in a row that are not finite end the run: more data will not mend what diverged.
MOST_SKIPPED = 10


@dataclass
class Taken:
    """A step that was taken, and what the device will have found in it.

    totals: over all ranks, the five of _sums and whether a rank was told to stop; then the gradient's norm, and whether
    the update was left out. interaction_factor: what makes interactions comparable to scores, where there are any.
    """

    step: int
    learning_rate: float
    totals: Arriving
    interaction_factor: float | None
    findings: dict
    seconds: float = 0.0
    data_seconds: float = 0.0


def train(run: Run, console: Console) -> None:
    """The loop: draw, evaluate now and then, choose and update, measure, checkpoint now and then and when stopped.

    What a step measured is read while the next one is under way, so that the device always has work. A checkpoint goes
    to the disk meanwhile too.
    """
    settings = run.config.train
    with ProgressBar(console, settings.steps, run) as advance:
        taken = None
        for candidates, upcoming, waited in _ahead(run.stream, settings.steps - run.step):
            if run.step % settings.eval_every == 0:
                taken = tell(run, taken, advance)
                advance(run.evaluate())
            started = time.perf_counter()
            before, taken = taken, take_step(run, candidates, upcoming)
            run.step += 1
            tell(run, before, advance)
            run.seconds += waited + time.perf_counter() - started
            taken.seconds, taken.data_seconds = run.seconds, waited
            if run.step % settings.checkpoint_every == 0 or run.step == settings.steps or run.stops:
                taken = tell(run, taken, advance)
                run.save()
            run.checkpoints.check()
            if run.stops and run.step < settings.steps:
                run.checkpoints.finish()
                return
        advance(run.evaluate())
        run.checkpoints.finish()


def tell(run: Run, taken: Taken | None, advance: Callable[[dict], None]) -> None:
    """Writes what a step measured, when the device has come so far; ValueError where too many brought no update."""
    if taken is None:
        return
    loss, first_order, interaction, picks, nonfinite, stops, grad_norm, skipped = taken.totals.values().tolist()
    measured = {
        "train_loss": loss / max(picks, 1),
        "learning_rate": taken.learning_rate,
        "grad_norm": grad_norm,
        "nonfinite": int(nonfinite),
        "skipped": bool(skipped),
    }
    if taken.interaction_factor is not None:
        ratio = taken.interaction_factor * interaction / (first_order or math.nan)
        measured |= {"curvature": run.config.selection.interaction.curvature, "interaction_ratio": ratio}
    measured |= taken.findings
    if run.world.leads:
        times = {"seconds": taken.seconds, "data_seconds": taken.data_seconds}
        run.folder.measure(step=taken.step, **measured, **times)
    advance(measured)
    run.stops = stops > 0
    run.skipped_in_a_row = run.skipped_in_a_row + 1 if skipped else 0
    if run.skipped_in_a_row == MOST_SKIPPED:
        raise ValueError(
            f"the updates of steps {taken.step + 1 - MOST_SKIPPED} to {taken.step} were not finite and none was made: "
            "lower train.learning_rate, or leave train.dtype bfloat16; checkpoints before are sound"
        )


def _ahead(stream: CandidateStream, steps: int) -> Iterator[tuple[Candidates, Candidates | None, float]]:
    """(the step's candidates, those of the step after it, seconds waited for either) of so many steps."""
    source = iter(stream)
    started = time.perf_counter()
    upcoming = next(source) if steps else None
    for left in reversed(range(steps)):
        candidates, upcoming = upcoming, next(source) if left else None
        yield candidates, upcoming, time.perf_counter() - started
        started = time.perf_counter()


def take_step(run: Run, candidates: Candidates, upcoming: Candidates | None) -> Taken:
    """One optimizer step on the picks of this step's groups. The host gives the device its work and waits for none.

    An update that is not finite on any rank, or that no candidate is fit for, is made on none.
    """
    train, chosen, selector = run.config.train, run.config.selection, run.selector
    rates = train.warmup_steps, train.learning_rate, train.min_learning_rate
    learning_rate = learning_rate_at(run.step, train.steps, *rates)
    set_learning_rate(run.optimizer, learning_rate)

    known_Gn = run.known_of(candidates.sample_ids_Gn)
    choices = selector.choose(run.step, candidates.tokens_GnT1, candidates.features_GnF, learning_rate, known_Gn)
    for lane, sample_ids_n, choice in zip(run.lanes, candidates.sample_ids_Gn, choices, strict=True):
        run.log.append(run.step, lane, sample_ids_n, learning_rate=learning_rate, **choice.as_logged())
    selector.look_ahead(upcoming and upcoming.features_GnF)  # on the host, while the device computes

    grad_norm = clip_gradient(run.model, train.grad_clip).double()
    sums = sum(map(_sums, choices))
    # Ranks may get a signal between different steps; summed with what is summed anyway, they stop after the same one.
    totals = sum_over_ranks(torch.cat([sums, sums.new_full((1,), run.stop.name is not None)]))
    selector.send_scores()
    unfit = (totals[PICKS] == 0) | ~torch.isfinite(grad_norm)
    step_unless(run.optimizer, unfit)
    run.optimizer.zero_grad()

    totals = torch.cat([totals, torch.stack([grad_norm, unfit.double()])])
    interacts = choices[0].interaction is not None
    factor = chosen.interaction.curvature * learning_rate / chosen.picks if interacts else None
    return Taken(run.step, learning_rate, Arriving(totals), factor, selector.findings())


PICKS = 3  # where _sums has them


def _sums(choice: Choice) -> Tensor:
    """[loss of the picks, |first-order| of all, |interaction| of all, picks, candidates not finite], over the group."""
    losses_N, picked_k = choice.loss, choice.picked
    parts = [losses_N[picked_k].masked_fill(picked_k < 0, 0).sum()]
    finite_N = torch.isfinite(losses_N)
    for values_N in (choice.first_order, choice.interaction):
        known_N = losses_N.new_zeros(1) if values_N is None else values_N
        parts.append(known_N.abs().nan_to_num(posinf=0.0).sum())
    for values_N in (choice.first_order, choice.self_norm):
        finite_N = finite_N if values_N is None else finite_N & torch.isfinite(values_N)
    parts += [(picked_k >= 0).sum(), (~finite_N).sum()]
    return torch.stack([part.double() for part in parts])
