"""Trains a GPT-2 from scratch and chooses, at every step, what it trains on.

    torchrun --standalone --nproc-per-node 2 -m scripts.train --config scripts/configs/demo.toml \
        --data.path data/demo --out runs/demo
    python -m scripts.train --config scripts/configs/demo.toml --data.path data/demo --out runs/one-process
    ... --selection.method regular            # the same run without selection
    ... --train.resume                        # goes on from the newest checkpoint of --out, with the same settings
                                              # (scripts/config.py lists under MAY_CHANGE those that may differ)
    python -m scripts.train --help            # every option

A step is G groups, dealt to the ranks. Of a group's N candidates the k picks are those whose gradients lower the
loss on the step's fresh target samples most; all G k picks make one AdamW update. With `selection.every` above 1 the
steps between are not scored: a prefilter that learns from the scores picks from all that are drawn.
"""

import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor

from model import checkpoint
from model.gpt2 import GPT2Config
from model.optimizer import build_adamw, clip_gradient, learning_rate_at, set_learning_rate
from model.sharding import World, build_gpt2, sum_over_ranks
from pipeline.shards import Manifest, inputs_and_targets
from pipeline.stream import Candidates, CandidateStream, evaluation_samples, target_samples
from scripts.config import Config, parse
from scripts.ending import StopSignal, report
from scripts.held_out import HeldOut
from scripts.prior import build_prefilter
from scripts.progress import ProgressBar
from scripts.run_folder import RunFolder
from selection.direction import Direction, RunningDirection, adam_preconditioned
from selection.ghost import GhostRecorder
from selection.log import SelectionLog
from selection.methods import METHODS, Choice
from selection.predictor import ngram_features
from selection.prefilter import Ranking

SCORED = {
    "all": lambda name: True,
    "blocks": lambda name: name.startswith("blocks."),
}

# While the prefilter is not trusted, one in so many of the steps that are due is scored: enough to notice when it would
# earn, on a pool where nothing is to be gained at little cost. (S = 1 stays 1: there the scores choose, at every step.)
RESTING = 4

# So many updates in a row that are not finite end the run: more data will not mend what diverged.
MOST_SKIPPED = 10


class Run:
    """What one rank of a run holds, built or resumed from its configuration."""

    def __init__(self, config: Config, world: World):
        self.config, self.world = config, world
        self.manifest = Manifest.load(config.data.dataset())
        self.folder = RunFolder(config.out)
        self.method = METHODS[config.selection.method]
        self.lanes = range(world.rank, config.train.groups, world.size)
        # Before the model is built: meanwhile what its workers need is imported.
        self.stream = CandidateStream(
            self.manifest,
            groups=config.train.groups,
            drawn=config.drawn,
            seed=config.train.seed,
            lanes=self.lanes,
            workers=config.data.workers,
            features=ngram_features if config.selection.prefilter != "none" else None,
        )
        shape = GPT2Config(
            vocab_size=self.manifest.vocab_size,
            n_layer=config.model.n_layer,
            n_head=config.model.n_head,
            n_embd=config.model.n_embd,
            sequence_length=self.manifest.sequence_length,
        )
        self.model = build_gpt2(shape, world.mesh, config.train.dtype, config.train.seed)
        self.optimizer = build_adamw(self.model, config.train.learning_rate, config.train.weight_decay)
        self.recorder = GhostRecorder(self.model, SCORED[config.selection.scored])
        # A preconditioned direction is reduced in rank after the preconditioning, the plain one where it is made.
        plain = config.selection.preconditioner == "none"
        self.running = RunningDirection(config.selection.decay, config.selection.rank if plain else 0)
        self.targets = evaluation_samples(self.manifest, "target", config.selection.targets or sys.maxsize)
        chosen = config.selection.prefilter
        self.prefilter = None if chosen == "none" else build_prefilter(chosen, self.manifest, self.targets)
        self.ranking: Ranking | None = None  # of the step to come, once the one before it has begun
        self.step, self.seconds, self.skipped_in_a_row = 0, 0.0, 0
        self.stop, self.stops = StopSignal(), False  # this rank's signal, and whether any rank got one
        if config.train.resume:
            self._resume()
        self.stream.step = self.step
        self.held_out = {split: HeldOut(split, self.manifest, world) for split in ("target", "val", "test")}
        if self.method.scores:
            self.target_samples(step=0)  # a split too small is said before anything is written
        if config.selection.prefix > self.manifest.sequence_length:
            raise ValueError(
                f"selection.prefix ({config.selection.prefix}) is longer than the dataset's samples "
                f"({self.manifest.sequence_length} tokens)"
            )
        if world.leads:
            self.folder.start(config, {"manifest_sha256": self.manifest.sha256, "world_size": world.size})
            self.folder.drop_metrics_from(self.step)
            checkpoint.tidy(self.folder.checkpoints, config.train.keep_checkpoints)
            SelectionLog.drop_from(self.folder.selection, self.step)
        dist.barrier()
        self.log = SelectionLog(self.folder.selection, world.rank)

    def _resume(self) -> None:
        newest = checkpoint.latest(self.folder.checkpoints)
        if newest is None:
            return  # killed before its first checkpoint: the run begins again
        saved = checkpoint.read_state(newest)
        if saved["manifest_sha256"] != self.manifest.sha256:
            raise ValueError(
                f"{newest} was trained on another dataset (manifest {saved['manifest_sha256'][:12]}, that of "
                f"{self.config.data.path} is {self.manifest.sha256[:12]}): resume with the dataset it began with"
            )
        differing = self.config.differences(saved["config"])
        if differing:
            raise ValueError(f"{newest} was saved by a run with other settings: {'; '.join(differing)}")
        extra = self._extra_tensors(self.running.empty_state(self.recorder.scored_parameters()))
        checkpoint.load(newest, self.model, self.optimizer, extra)
        if "direction" in extra:
            self.running.load_state_dict(extra["direction"])
        if self.prefilter:
            self.prefilter.load_state_dict(extra["prefilter"])
        self.step, self.seconds, self.skipped_in_a_row = saved["step"], saved["seconds"], saved["skipped_in_a_row"]

    def _extra_tensors(self, running_state: dict) -> dict:
        """What a checkpoint holds besides model and optimizer: what else outlives a step."""
        extra = {}
        if self.method.scores and self.config.selection.decay:
            extra["direction"] = running_state
        if self.prefilter:
            extra["prefilter"] = self.prefilter.state_dict()
        return extra

    def scored(self, ranking: Ranking | None) -> bool:
        """Whether the step at hand is one that scores its candidates; fewer are while the prefilter does not earn."""
        every = self.config.selection.every
        if every > 1 and ranking and not ranking.trusted:
            every *= RESTING
        return self.method.scores and self.step % every == 0

    def rank(self, candidates: Candidates) -> Ranking | None:
        """What the prefilter thinks of them."""
        return self.prefilter.rank(candidates.features_GnF) if self.prefilter else None

    def shortlist(self, group: int, ranking: Ranking | None, scored: bool) -> np.ndarray:
        """Positions among a group's candidates: the N to be scored, or on a step that is not scored the k picks."""
        settings = self.config.selection
        size, explore = (settings.candidates, settings.explore) if scored else (settings.picks, 0.0)
        return ranking.shortlist(group, size, explore) if ranking else np.arange(size)

    def look_ahead(self, upcoming: Candidates | None) -> None:
        """Learns what the last scored step brought, and ranks the candidates of the next step."""
        if self.prefilter:
            self.prefilter.catch_up()
            self.ranking = self.rank(upcoming) if upcoming else None

    def target_samples(self, step: int) -> np.ndarray:
        """The m samples of split `target` that steer `step`."""
        settings = self.config
        return target_samples(self.manifest, settings.train.seed, step, settings.selection.validation, self.targets)

    def save(self) -> None:
        """A checkpoint of the steps done so far; the log is on disk before it."""
        self.log.flush()
        if self.prefilter:
            self.prefilter.settle()
        state = {
            "seconds": self.seconds,
            "skipped_in_a_row": self.skipped_in_a_row,
            "manifest_sha256": self.manifest.sha256,
            "config": self.config.as_dict(),
        }
        checkpoint.save(
            self.folder.checkpoints,
            self.step,
            self.model,
            self.optimizer,
            self._extra_tensors(self.running.state_dict()),
            state,
            self.config.train.keep_checkpoints,
        )

    def evaluate(self) -> dict[str, float]:
        """Mean loss on the fixed samples of `val` and `test`."""
        measured = {}
        for split in ("val", "test"):
            samples = evaluation_samples(self.manifest, split, self.config.train.eval_samples)
            measured[f"{split}_loss"] = self.held_out[split].loss(
                self.model, samples, batch=self.config.selection.candidates
            )
        if self.world.leads:
            self.folder.measure(step=self.step, **measured, seconds=self.seconds)
        return measured


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
        measured |= {"prefilter_on": ranking.trusted}
        measured |= {"prefilter_correlation": run.prefilter.judge.correlation}
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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input or a file is at fault.

    SIGTERM and SIGINT end it after the step at hand, with a checkpoint and exit code 0.
    """
    console = Console()
    world, stop = None, StopSignal()
    try:
        config = parse(arguments)
        config.check()
        RunFolder(config.out).check(config.train.resume)
        world = World.join()
        run = Run(config, world)
        if world.leads:
            parameters = sum(p.numel() for p in run.model.parameters())
            console.print(
                f"{parameters / 1e6:.1f} M parameters on {world.size} x {world.device.type}, method "
                f"{config.selection.method}, steps {run.step} to {config.train.steps}, run folder {config.out}",
                highlight=False,
            )
        with run.stop as stop:
            train(run, console)
        if world.leads and run.step < config.train.steps:
            name = stop.name or "a signal to another rank"
            print(f"stopped by {name} after {run.step} of {config.train.steps} steps, with a checkpoint: go on with")
            print("the same command and --train.resume")
    except Exception as error:
        code = report(error, world.rank if world else 0, world.size if world else 1, stop)
        if world and world.size == 1:
            world.leave()
        return code  # with other ranks, leaving would wait for them
    world.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
