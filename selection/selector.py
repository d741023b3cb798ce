"""Selector: one rank's choice in a step, and everything of it that outlives the step.

    selector = Selector(settings, model, optimizer, groups=G, batch=batch, target=target, prefilter=prefilter)
    choices = selector.choose(step, tokens_gnT1, features_gnF, learning_rate)   # the picks' gradient is in .grad
    selector.look_ahead(upcoming_features_gnF)                                  # while the device computes
    selector.send_scores()
    optimizer.step()

On a step that is scored it aims (a direction from fresh target samples), shortlists (where a prefilter stands before
the model), runs the method's pass over the N candidates of a group, picks k, and adds their gradient: assembled from
the pass where it was recorded, else by a pass of their own. On the other steps the prefilter picks, unscored.

Shapes: g groups of this rank, n candidates drawn a group, N of them before the model, k picks, T1 = T + 1 tokens,
F features of a sample.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choice import Choice, interaction_of
from .direction import Direction, RunningDirection, adam_preconditioned
from .ghost import GhostRecorder
from .methods import METHODS, Measured, Moment
from .prefilters.auto import Auto
from .prefilters.cascade import Prefilter, Ranking
from .prefilters.need import SharedFilters, SharedRanking
from .settings import Selection

# While the prefilter is not trusted, one in so many of the steps that are due is scored: enough to notice when it would
# earn, on a pool where nothing is to be gained at little cost. (S = 1 stays 1: there the scores choose, at every step.)
RESTING = 4

Batch = tuple[Tensor, Tensor]


def joined(first: Batch, second: Batch) -> Batch:
    """The samples of two batches as one, the shorter ones filled up with tokens that are no targets."""
    T = max(first[0].shape[1], second[0].shape[1])
    inputs, targets = (
        torch.cat([F.pad(rows_NT, (0, T - rows_NT.shape[1]), value=filling) for rows_NT in pair])
        for *pair, filling in zip(first, second, (0, -1), strict=True)
    )
    return inputs, targets


class Selector:
    """See the module's text.

    groups: G, the groups of a step over all ranks: a pick's gradient weighs 1 / (G k). batch: tokens [N, T1] ->
    (inputs, targets), each [N, T], on the model's device. target: for a method that aims, step -> (inputs, targets) of
    this rank's share of the step's target samples, masked where it is padded. prefilter: what settings.prefilter names.
    lanes: the numbers of this rank's groups among all (default: all of them). watch: for a method that watches,
    positions among the target samples -> their losses, the same on every rank. seed: of what a method, or the model by
    dropout, draws at random.
    """

    def __init__(
        self,
        settings: Selection,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        groups: int,
        batch: Callable[[Tensor], Batch],
        target: Callable[[int], Batch] | None = None,
        prefilter: Prefilter | SharedFilters | Auto | None = None,
        lanes: Sequence[int] | None = None,
        watch: Callable[[np.ndarray], np.ndarray] | None = None,
        seed: int = 0,
    ):
        settings.check()
        self.settings, self.method = settings, METHODS[settings.method](settings)
        self.prefilter, self._watch = prefilter, watch
        self._lanes = range(groups) if lanes is None else lanes
        self._model, self._optimizer, self._batch, self._target = model, optimizer, batch, target
        self._seed, self._groups, self._share = seed, groups, 1 / (groups * settings.picks)
        assert (prefilter is None) == (settings.prefilter is None)
        if self.method.passes == "recorded":
            scored = (lambda name: True) if settings.scoring.parameters == "all" else model.is_block
            self.recorder = GhostRecorder(model, scored)
            self._streams = settings.scoring.memory == "streamed"
            # As the optimizer knows them: after a forward without backward FSDP2 shows gathered ones in their place.
            self._parameters = self.recorder.scored_parameters()
        if self.method.aims:
            assert target is not None
            # A preconditioned direction is reduced in rank after the preconditioning, the plain one where it is made.
            plain = settings.direction.preconditioner == "none"
            self._running = RunningDirection(settings.direction.decay, settings.direction.rank if plain else 0)
        self._ranking: Ranking | SharedRanking | None = None  # of the step at hand, or looked ahead to
        self._trusted: bool | None = None  # whether the last step's ranking was; None: there was none
        self._to_send: tuple | None = None

    def scores_at(self, step: int) -> bool:
        """Whether `step`, whose ranking is at hand, is one that scores; fewer do while the prefilter does not earn."""
        every = self.settings.amortise.every
        if every > 1 and self._ranking and not self._ranking.trusted:
            every *= RESTING
        return self.method.passes != "none" and step % every == 0

    def choose(
        self,
        step: int,
        tokens_gnT1: Tensor,
        features_gnF: np.ndarray | None,
        learning_rate: float,
        known_gn: np.ndarray | None = None,
    ) -> list[Choice]:
        """Picks in every group, and adds the gradient of the picks. All ranks call it at the same step.

        known_gn: for a method that knows something of every candidate beforehand.
        """
        self._ranking = self._ranking or self._rank(features_gnF, step)
        self._step = step
        self._trusted = self._ranking.trusted if self._ranking else None
        if self.method.knows and self.method.passes == "none":
            self._ranking = Ranking(known_gn, trusted=True)
        if self.method.watches and len(places := self.prefilter.to_watch(step)):
            self.prefilter.hear(step, self._watch(places))
        scores = self.scores_at(step)
        direction = self._aim(step, tokens_gnT1) if scores and self.method.aims else None
        if scores and self.method.passes == "recorded":
            direction = self.method.steer(direction, self._optimizer, self._parameters)
        choices = []
        for group, tokens_nT1 in enumerate(tokens_gnT1):
            shortlist_N = self._shortlist(group, scores)
            inputs_NT, targets_NT = self._batch(tokens_nT1[shortlist_N])
            choose = self._choose_by_score if scores else self._take
            moment = Moment(step, self._lanes[group], self._seed, learning_rate)
            torch.manual_seed(np.random.default_rng((self._seed, step, moment.lane)).integers(2**63))  # of dropout
            known_N = None if known_gn is None else known_gn[group, shortlist_N]
            choice = choose(shortlist_N, inputs_NT, targets_NT, direction, moment, known_N)
            if self._ranking:
                choice.predicted = self._ranking.predicted_gn[group]
                choice.by_prediction = self.method.passes == "none" and self._ranking.trusted
            choices.append(choice)
        if scores and self.prefilter:
            self._to_send = features_gnF, choices
        return choices

    def _rank(self, features_gnF: np.ndarray | None, step: int) -> Ranking | SharedRanking | None:
        return self.prefilter.rank(features_gnF, step, self._lanes) if self.prefilter else None

    def _shortlist(self, group: int, scores: bool) -> np.ndarray:
        """Positions among a group's candidates: the N to be scored, or on a step that is not scored the k picks."""
        settings = self.settings
        size = settings.candidates if scores else settings.picks
        if not self._ranking:
            return np.arange(size)
        if not scores:
            return self._ranking.shortlist(group, size)
        among = settings.drawn - settings.direction.contrast
        return self._ranking.shortlist(group, size, settings.amortise.explore, among)

    def _aim(self, step: int, tokens_gnT1: Tensor) -> Direction:
        """The direction of this step's fresh target samples, which the ranks share out among them.

        Of the loss that is measured in the end, so without dropout. With a contrast it is v less the mean gradient of
        the last candidates of every group, which are not scored then: one pass, in which their losses count negatively.
        """
        settings, target, mode = self.settings.direction, self._target(step), self._model.training
        self._model.eval()
        with self.recorder.asked(lambda pass_: pass_.direction(settings.samples), self._streams):
            if settings.contrast:
                pool = self._batch(tokens_gnT1[:, -settings.contrast :].flatten(0, 1))
                losses_M = self._model(*joined(target, pool))
                weight = settings.samples / (self._groups * settings.contrast)
                (losses_M[: len(target[0])].sum() - weight * losses_M[len(target[0]) :].sum()).backward()
            else:
                self._model(*target).sum().backward()
        self._model.train(mode)
        direction = self._running.take_in(self.recorder.answer)
        if settings.preconditioner == "none":
            return direction
        direction = adam_preconditioned(direction, self._optimizer, self._parameters)
        return direction.low_rank(settings.rank) if settings.rank else direction

    def _take(self, shortlist_N: np.ndarray, inputs_NT: Tensor, targets_NT: Tensor, *_) -> Choice:
        """Trains on all that are left."""
        losses_N = self._train_on(inputs_NT, targets_NT)
        return Choice(shortlist_N, torch.arange(len(losses_N), device=losses_N.device), losses_N)

    def _choose_by_score(
        self,
        shortlist_N: np.ndarray,
        inputs_NT: Tensor,
        targets_NT: Tensor,
        direction: Direction | None,
        moment: Moment,
        known_N: np.ndarray | None,
    ) -> Choice:
        """The method's pass, its picks, and their gradient. With a prefix the losses are those of the scored tokens."""
        method, prefix = self.method, self.settings.scoring.prefix
        seen = slice(0, prefix or None)
        recorded = method.passes == "recorded"
        losses_N, measured = (self._record if recorded else self._look)(
            inputs_NT[:, seen], targets_NT[:, seen], direction
        )
        if known_N is not None:
            measured.known_N = torch.from_numpy(known_N).to(losses_N)
        scores_N = method.score(losses_N, measured)
        fit_N = torch.isfinite(losses_N)
        picks = method.pick(scores_N.masked_fill(~fit_N, torch.nan), measured, moment)
        if recorded and not prefix and not self._streams:
            self.recorder.add_gradient(picks, self._share)
            self.recorder.release()
        else:
            if recorded:
                self.recorder.release()
            self._train_on(inputs_NT[picks], targets_NT[picks])
        return Choice(
            shortlist_N,
            picks,
            losses_N,
            measured.first_order_N,
            interaction_of(measured.gram_NN, picks),
            measured.norms_N,
            score=scores_N,
        )

    def _record(self, inputs_NT: Tensor, targets_NT: Tensor, direction: Direction | None) -> tuple[Tensor, Measured]:
        with self.recorder.along(direction).asked(lambda pass_: self.method.measure(pass_, direction), self._streams):
            losses_N = self._model(inputs_NT, targets_NT)
            losses_N.sum().backward()
        return losses_N.detach(), self.recorder.answer

    @torch.no_grad()
    def _look(self, inputs_NT: Tensor, targets_NT: Tensor, _) -> tuple[Tensor, Measured]:
        return self._model(inputs_NT, targets_NT), Measured()

    def _train_on(self, inputs_NT: Tensor, targets_NT: Tensor) -> Tensor:
        """An ordinary pass, each sample at its weight in the step's mean; the losses [N]."""
        losses_N = self._model(inputs_NT, targets_NT)
        (losses_N.sum() * self._share).backward()
        return losses_N.detach()

    def look_ahead(self, features_gnF: np.ndarray | None) -> None:
        """Learns what the last scored step brought, and ranks the candidates of the next step (None: there is none).

        On the host: the device may still be at work on this step.
        """
        self._ranking = None
        if self.prefilter:
            self.prefilter.catch_up()
            self._ranking = None if features_gnF is None else self._rank(features_gnF, self._step + 1)

    def send_scores(self) -> None:
        """Sends off what this step's scores teach the prefilter, to be learnt on every rank."""
        if self._to_send is None:
            return
        features_gnF, choices = self._to_send
        self._to_send = None
        places = [choice.measured for choice in choices]
        self.prefilter.send(
            np.stack([features_nF[N] for features_nF, N in zip(features_gnF, places, strict=True)]),
            np.stack([choice.predicted[N] for choice, N in zip(choices, places, strict=True)]),
            torch.stack([choice.score for choice in choices]).cpu().numpy(),
        )

    def state_dict(self) -> dict:
        """Tensors (DTensors where sharded) of what outlives a step, to be saved with the model's."""
        state = {}
        if self._averages:
            state["direction"] = self._running.state_dict()
        if self.prefilter:
            self.prefilter.settle()
            state["prefilter"] = self.prefilter.state_dict()
        return state

    def empty_state(self) -> dict:
        """A state_dict laid out like that of this selector, for a checkpoint to be read into."""
        state = {}
        if self._averages:
            state["direction"] = RunningDirection.empty_state(self.recorder.scored_parameters())
        if self.prefilter:
            state["prefilter"] = self.prefilter.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        if self._averages:
            self._running.load_state_dict(state["direction"])
        if self.prefilter:
            self.prefilter.load_state_dict(state["prefilter"])

    @property
    def _averages(self) -> bool:
        return self.method.aims and self.settings.direction.decay > 0

    def findings(self) -> dict:
        """What the metrics of the step say of the ranking it went by."""
        return {} if self._trusted is None else {"prefilter_on": self._trusted, **self.prefilter.findings()}
