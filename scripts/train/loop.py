"""The training loop: draw, choose, log, clip, step."""

import math
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from torch import Tensor

from model.optimizer import clip_gradient, learning_rate_at, set_learning_rate
from model.world import sum_over_ranks
from pipeline.stream import Candidates, CandidateStream
from scripts.train.progress import ProgressBar
from scripts.train.run import Run
from selection.choice import Choice

# So many updates in a row that are not finite end the run: more data will not mend what diverged.
MOST_SKIPPED = 10


def train(run: Run, console: Console) -> None:
    """The loop: draw, evaluate now and then, choose and update, measure, checkpoint now and then and when stopped."""
    settings = run.config.train
    with ProgressBar(console, settings.steps, run) as advance:
        for candidates, upcoming, waited in _ahead(run.stream, settings.steps - run.step):
            if run.step % settings.eval_every == 0:
                advance(run.evaluate())
            started = time.perf_counter()
            measured = take_step(run, candidates, upcoming)
            run.seconds += waited + time.perf_counter() - started
            if run.world.leads:
                run.folder.measure(step=run.step, **measured, seconds=run.seconds, data_seconds=waited)
            run.step += 1
            advance(measured)
            if run.skipped_in_a_row == MOST_SKIPPED:
                raise ValueError(
                    f"the updates of steps {run.step - MOST_SKIPPED} to {run.step - 1} were not finite and none was "
                    "made: lower train.learning_rate, or leave train.dtype bfloat16; checkpoints before are sound"
                )
            if run.step % settings.checkpoint_every == 0 or run.step == settings.steps or run.stops:
                run.save()
            if run.stops and run.step < settings.steps:
                return
        advance(run.evaluate())


def _ahead(stream: CandidateStream, steps: int) -> Iterator[tuple[Candidates, Candidates | None, float]]:
    """(the step's candidates, those of the step after it, seconds waited for either) of so many steps."""
    source = iter(stream)
    started = time.perf_counter()
    upcoming = next(source) if steps else None
    for left in reversed(range(steps)):
        candidates, upcoming = upcoming, next(source) if left else None
        yield candidates, upcoming, time.perf_counter() - started
        started = time.perf_counter()


def take_step(run: Run, candidates: Candidates, upcoming: Candidates | None) -> dict[str, float]:
    """One optimizer step on the picks of this step's groups; what it measured, over all ranks.

    An update that is not finite on any rank, or that no candidate is fit for, is made on none.
    """
    train, selector = run.config.train, run.selector
    rates = train.warmup_steps, train.learning_rate, train.min_learning_rate
    learning_rate = learning_rate_at(run.step, train.steps, *rates)
    set_learning_rate(run.optimizer, learning_rate)

    known_Gn = run.known_of(candidates.sample_ids_Gn)
    choices = selector.choose(run.step, candidates.tokens_GnT1, candidates.features_GnF, learning_rate, known_Gn)
    for lane, sample_ids_n, choice in zip(run.lanes, candidates.sample_ids_Gn, choices, strict=True):
        run.log.append(run.step, lane, sample_ids_n, learning_rate=learning_rate, **choice.as_logged())
    selector.look_ahead(upcoming and upcoming.features_GnF)  # on the host, while the device computes

    grad_norm = clip_gradient(run.model, train.grad_clip).item()
    # Ranks may get a signal between different steps; summed with what is summed anyway, they stop after the same one.
    stops = torch.tensor([run.stop.name is not None], dtype=torch.float64, device=run.world.device)
    totals = sum_over_ranks(torch.cat([sum(map(_sums, choices)), stops])).tolist()
    loss, first_order, interaction, picks, nonfinite, stops = totals
    run.stops = stops > 0
    selector.send_scores()
    skipped = picks == 0 or not math.isfinite(grad_norm)
    run.skipped_in_a_row = run.skipped_in_a_row + 1 if skipped else 0
    if not skipped:
        run.optimizer.step()
    run.optimizer.zero_grad()

    measured = {
        "train_loss": loss / max(picks, 1),
        "learning_rate": learning_rate,
        "grad_norm": grad_norm,
        "nonfinite": int(nonfinite),
        "skipped": skipped,
    }
    if choices[0].interaction is not None:
        curvature = run.config.selection.interaction.curvature
        factor = curvature * learning_rate / run.config.selection.picks
        measured |= {"curvature": curvature, "interaction_ratio": factor * interaction / (first_order or math.nan)}
    return measured | selector.findings()


def _sums(choice: Choice) -> Tensor:
    """[loss of the picks, |first-order| of all, |interaction| of all, picks, candidates not finite], over the group."""
    losses_N = choice.loss
    parts = [losses_N[choice.picked].sum()]
    finite_N = torch.isfinite(losses_N)
    for values_N in (choice.first_order, choice.interaction):
        known_N = losses_N.new_zeros(1) if values_N is None else values_N
        parts.append(known_N[torch.isfinite(known_N)].abs().sum())
    for values_N in (choice.first_order, choice.self_norm):
        finite_N = finite_N if values_N is None else finite_N & torch.isfinite(values_N)
    parts += [losses_N.new_tensor(len(choice.picked)), (~finite_N).sum()]
    return torch.stack([part.double() for part in parts])
