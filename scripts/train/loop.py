"""The training loop: draw, choose, log, clip, step."""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from model.optimizer import clip_gradient, learning_rate_at, set_learning_rate
from model.world import sum_over_ranks
from pipeline.dataset.reader import inputs_and_targets
from pipeline.stream.candidates import Candidates, CandidateStream
from scripts.train.progress import ProgressBar
from scripts.train.run import Run
from selection.direction.exact import Direction
from selection.direction.preconditioned import adam_preconditioned
from selection.methods.registry import Choice
from selection.prefilters.cascade import Ranking

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
    config = run.config
    ranking = run.ranking or run.rank(candidates)
    scored = run.scored(ranking)
    learning_rate = learning_rate_at(
        run.step,
        config.train.steps,
        config.train.warmup_steps,
        config.train.learning_rate,
        config.train.min_learning_rate,
    )
    set_learning_rate(run.optimizer, learning_rate)
    direction = find_direction(run) if scored and run.method.direction else None
    sums = torch.zeros(5, dtype=torch.float64, device=run.world.device)
    shortlists_gN, scores_gN = [], []
    for group in range(len(run.lanes)):
        shortlist_N = run.shortlist(group, ranking, scored)
        tokens_NT1 = candidates.tokens_GnT1[group, shortlist_N].to(run.world.device)
        inputs_NT, targets_NT = inputs_and_targets(tokens_NT1, run.manifest)
        losses_N, choice = train_on_group(run, scored, direction, learning_rate, inputs_NT, targets_NT)
        log_group(run, group, candidates, ranking, shortlist_N, learning_rate, losses_N, choice)
        sums += _sums(losses_N, choice)
        shortlists_gN.append(shortlist_N)
        scores_gN.append(choice.scores)
    run.look_ahead(upcoming)  # on the host, while the device computes
    grad_norm = clip_gradient(run.model, config.train.grad_clip).item()
    # Ranks may get a signal between different steps; summed with what is summed anyway, they stop after the same one.
    stops = sums.new_tensor([run.stop.name is not None])
    loss, first_order, interaction, picks, nonfinite, stops = sum_over_ranks(torch.cat([sums, stops])).tolist()
    run.stops = stops > 0
    if scored and run.prefilter:
        run.prefilter.send(*_of_shortlists(candidates, ranking, shortlists_gN), torch.stack(scores_gN).cpu().numpy())
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
    if run.method.gram and scored:
        factor = config.selection.curvature * learning_rate / config.selection.picks
        measured |= {"curvature": config.selection.curvature}
        measured |= {"interaction_ratio": factor * interaction / (first_order or math.nan)}
    if ranking:
        measured |= {"prefilter_on": ranking.trusted, **run.prefilter.judge.findings()}
    return measured


def find_direction(run: Run) -> Direction:
    """The direction of this step's fresh target samples, which the ranks share out among them."""
    samples_m = run.target_samples(run.step)
    inputs_nT, targets_nT = run.held_out["target"].share(samples_m)
    with run.recorder:
        run.model(inputs_nT, targets_nT).sum().backward()
    direction = run.running.update(run.recorder, samples=len(samples_m))
    if run.config.selection.preconditioner == "none":
        return direction
    direction = adam_preconditioned(direction, run.optimizer, dict(run.model.named_parameters()))
    rank = run.config.selection.rank
    return direction.low_rank(rank) if rank else direction


def train_on_group(
    run: Run,
    scored: bool,
    direction: Direction | None,
    learning_rate: float,
    inputs_NT: Tensor,
    targets_NT: Tensor,
) -> tuple[Tensor, Choice]:
    """Adds the gradient of the group's picks, each at its weight in the step's mean.

    Returns (losses [N], choice); with selection.prefix the losses are those of the scored tokens.
    """
    settings = run.config.selection
    share = 1 / (run.config.train.groups * settings.picks)
    if not scored:
        losses_N = run.model(inputs_NT, targets_NT)
        (losses_N.sum() * share).backward()
        return losses_N.detach(), Choice(torch.arange(len(losses_N), device=losses_N.device))
    seen = slice(0, settings.prefix or None)
    with run.recorder.along(direction):
        losses_N = run.model(inputs_NT[:, seen], targets_NT[:, seen])
        losses_N.sum().backward()
    choice = run.method.choose(
        run.recorder,
        direction,
        settings.picks,
        step_size=learning_rate / settings.picks,
        curvature=settings.curvature,
        sketch=settings.sketch,
        fit_N=torch.isfinite(losses_N.detach()),
    )
    if settings.prefix:
        run.recorder.release()
        (run.model(inputs_NT[choice.picks], targets_NT[choice.picks]).sum() * share).backward()
    else:
        run.recorder.add_gradient(choice.picks, share)
        run.recorder.release()
    return losses_N.detach(), choice


def log_group(
    run: Run,
    group: int,
    candidates: Candidates,
    ranking: Ranking | None,
    shortlist_N: np.ndarray,
    learning_rate: float,
    losses_N: Tensor,
    choice: Choice,
) -> None:
    """One row for every candidate that was drawn; `choice` is among those of the shortlist."""
    sample_ids_n = candidates.sample_ids_Gn[group]
    run.log.append(
        run.step,
        run.lanes[group],
        sample_ids_n,
        torch.from_numpy(shortlist_N).to(choice.picks.device)[choice.picks],
        learning_rate=learning_rate,
        measured=shortlist_N if len(shortlist_N) < len(sample_ids_n) else None,
        loss=losses_N,
        first_order=choice.first_order,
        interaction=choice.interaction,
        self_norm=choice.self_norm,
        predicted=ranking.predicted_gn[group] if ranking else None,
    )


def _of_shortlists(
    candidates: Candidates, ranking: Ranking, shortlists_gN: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Features [g, N, F] and predictions [g, N] of what was shortlisted."""
    pairs = zip(candidates.features_GnF, ranking.predicted_gn, shortlists_gN, strict=True)
    features_gNF, predicted_gN = zip(*((f_nF[N], p_n[N]) for f_nF, p_n, N in pairs), strict=True)
    return np.stack(features_gNF), np.stack(predicted_gN)


def _sums(losses_N: Tensor, choice: Choice) -> Tensor:
    """[loss of the picks, |first-order| of all, |interaction| of all, picks, candidates not finite], over the group."""
    parts = [losses_N[choice.picks].sum()]
    finite_N = torch.isfinite(losses_N)
    for values_N in (choice.first_order, choice.interaction):
        known_N = losses_N.new_zeros(1) if values_N is None else values_N
        parts.append(known_N[torch.isfinite(known_N)].abs().sum())
    for values_N in (choice.first_order, choice.self_norm):
        finite_N = finite_N if values_N is None else finite_N & torch.isfinite(values_N)
    parts += [losses_N.new_tensor(len(choice.picks)), (~finite_N).sum()]
    return torch.stack([part.double() for part in parts])
