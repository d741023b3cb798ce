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

from .choice import Choice
from .direction import Direction, RunningDirection, adam_preconditioned
from .greedy import best_of_step
from .log.arriving import Arriving
from .methods import METHODS, Moment
from .passes import Passes, Scored
from .prefilters.auto import Auto
from .prefilters.cascade import Prefilter, Ranking
from .prefilters.match import MatchedRanking, Matching
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
    lanes: the numbers of this rank's groups among all (default: all of them). watch: for a prefilter that watches
    losses, positions among the target samples -> these, the same on every rank. seed: of what a method, or the model
    by dropout, draws at random. held: whether a rank has the memory for all parameters and gradients at once; under
    FSDP2 each then travels once a step, however many groups the rank has.
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
        prefilter: Prefilter | Matching | SharedFilters | Auto | None = None,
        lanes: Sequence[int] | None = None,
        watch: Callable[[np.ndarray], np.ndarray] | None = None,
        seed: int = 0,
        held: bool = True,
    ):
        settings.check()
        self.settings, self.method = settings, METHODS[settings.method](settings)
        self.prefilter, self._watch = prefilter, watch
        self._lanes = range(groups) if lanes is None else lanes
        self._model, self._optimizer, self._batch, self._target = model, optimizer, batch, target
        self._seed, self._groups = seed, groups
        self._passes = Passes(settings, self.method, model, 1 / (groups * settings.picks), held)
        assert (prefilter is None) == (settings.prefilter is None)
        if self.method.aims:
            assert target is not None
            # A preconditioned direction is reduced in rank after the preconditioning, the plain one where it is made.
            plain = settings.direction.preconditioner == "none"
            self._running = RunningDirection(settings.direction.decay, settings.direction.rank if plain else 0)
        self._ranking: Ranking | MatchedRanking | SharedRanking | None = None  # of the step at hand, or looked ahead to
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
        if self.settings.watches and len(places := self.prefilter.to_watch(step)):
            self.prefilter.hear(step, self._watch(places))
        scores = self.scores_at(step)
        self._passes.begin(several=scores or len(tokens_gnT1) > 1)
        direction = self._aim(step, tokens_gnT1) if scores and self.method.aims else None
        if scores and self.method.passes == "recorded":
            direction = self.method.steer(direction, self._optimizer, self._passes.recorder.scored_parameters())
            if direction is not None and (self._passes.holds or self.settings.direction.rank):
                direction.gather()  # once for all groups; of one of low rank little is left to gather
        choices, waiting = [], []
        for group, tokens_nT1 in enumerate(tokens_gnT1):
            shortlist_N = self._shortlist(group, scores)
            pair = self._batch(tokens_nT1[shortlist_N])
            moment, more = Moment(step, self._lanes[group], self._seed, learning_rate), group + 1 < len(tokens_gnT1)
            self._sow(moment.lane)
            if scores:
                known_N = None if known_gn is None else known_gn[group, shortlist_N]
                scored = self._passes.score(shortlist_N, *pair, direction, known_N)
                if self.settings.pool == "step":
                    waiting.append(self._passes.set_aside(scored))
                    continue
                choice = scored.choice(self.method.pick(scored.fit_scores_N, scored.measured, moment))
                self._passes.train(scored, choice.picked, more)
            else:
                losses_N = self._passes.train_on(*pair, more)
                choice = Choice(shortlist_N, torch.arange(len(losses_N), device=losses_N.device), losses_N)
            choices.append(choice)
        choices += self._choose_together(waiting)
        self._passes.end()
        if self._ranking:
            for choice, predicted_n in zip(choices, self._ranking.predicted_gn, strict=True):
                choice.predicted = predicted_n
                choice.by_prediction = self.method.passes == "none" and self._ranking.trusted
        if self.prefilter and self.prefilter.learns_from == ("scores" if scores else "picks"):
            self._to_send = features_gnF, choices
        return choices

    def _sow(self, lane: int) -> None:
        """What the passes of a group draw at random, by dropout, is a function of (seed, step, lane)."""
        torch.manual_seed(np.random.default_rng((self._seed, self._step, lane)).integers(2**63))

    def _choose_together(self, waiting: list[Scored]) -> list[Choice]:
        """The picks of groups, on all ranks, whose candidates compete with each other; and their gradient."""
        if not waiting:
            return []
        fit_scores_gN = torch.stack([scored.fit_scores_N for scored in waiting])
        choices = []
        found = best_of_step(fit_scores_gN, self._groups * self.settings.picks)
        for lane, scored, best in zip(self._lanes, waiting, found, strict=True):
            choices.append(scored.choice(*best))
            self._sow(lane)
            self._passes.train(scored, choices[-1].picked, more=len(choices) < len(waiting))
        return choices

    def _rank(self, features_gnF: np.ndarray | None, step: int) -> Ranking | MatchedRanking | SharedRanking | None:
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
        recorder = self._passes.recorder
        self._model.eval()
        with recorder.asked(lambda pass_: pass_.direction(settings.samples), self._passes.streams):
            if settings.contrast:
                pool = self._batch(tokens_gnT1[:, -settings.contrast :].flatten(0, 1))
                losses_M = self._model(*joined(target, pool))
                weight = settings.samples / (self._groups * settings.contrast)
                (losses_M[: len(target[0])].sum() - weight * losses_M[len(target[0]) :].sum()).backward()
            else:
                self._model(*target).sum().backward()
        self._model.train(mode)
        direction = self._running.take_in(recorder.answer)
        if settings.preconditioner == "none":
            return direction
        direction = adam_preconditioned(direction, self._optimizer, recorder.scored_parameters())
        return direction.low_rank(settings.rank) if settings.rank else direction

    def look_ahead(self, features_gnF: np.ndarray | None) -> None:
        """Learns what the last scored step brought, and ranks the candidates of the next step (None: there is none).

        On the host: the device may still be at work on this step.
        """
        self._ranking = None
        if self.prefilter:
            self.prefilter.catch_up()
            self._ranking = None if features_gnF is None else self._rank(features_gnF, self._step + 1)

    def send_scores(self) -> None:
        """Sends off what this step's scores, or its picks, teach the prefilter, to be learnt on every rank."""
        if self._to_send is None:
            return
        features_gnF, choices = self._to_send
        self._to_send = None
        places = [choice.measured for choice in choices]
        features_gNF = np.stack([features_nF[N] for features_nF, N in zip(features_gnF, places, strict=True)])
        if self.prefilter.learns_from == "picks":
            self.prefilter.send(features_gNF)
            return
        predicted_gN = np.stack([choice.predicted[N] for choice, N in zip(choices, places, strict=True)])
        self.prefilter.send(features_gNF, predicted_gN, Arriving(torch.stack([choice.score for choice in choices])))

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
            state["direction"] = RunningDirection.empty_state(self._passes.recorder.scored_parameters())
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
