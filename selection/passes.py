"""The passes of a step over a rank's groups: those that score candidates, and those that train on picks.

N candidates of a group, k picks, T tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .choice import Choice, interaction_of
from .direction import Direction
from .ghost import GhostRecorder
from .ghost.sharded import Held
from .methods import Measured, Method


@dataclass
class Scored:
    """A group whose candidates went through the model. shortlist_N: positions among the drawn. scores_N: what the
    method ranks by. aside: the recorded pass, where those of other groups follow before its picks are known.
    """

    shortlist_N: np.ndarray
    inputs_NT: Tensor
    targets_NT: Tensor
    losses_N: Tensor
    measured: Measured
    scores_N: Tensor
    aside: Any = None

    @property
    def fit_scores_N(self) -> Tensor:
        """NaN for a candidate whose loss is not finite."""
        return self.scores_N.masked_fill(~torch.isfinite(self.losses_N), torch.nan)

    def choice(self, picks: Tensor, order: Tensor | None = None) -> Choice:
        return Choice(
            self.shortlist_N,
            picks,
            self.losses_N,
            self.measured.first_order_N,
            interaction_of(self.measured.gram_NN, picks),
            self.measured.norms_N,
            score=self.scores_N,
            order=order,
        )


class Passes:
    """Runs the model for a Selector, and adds the gradient of picks, each at `share` of the step's mean.

    held: whether parameters and gradients may stay whole on every rank over the passes of a step (see Held); where
    passes are streamed they do not, since memory is short. recorder: of a method that scores by recorded passes.
    """

    def __init__(self, settings: Any, method: Method, model: nn.Module, share: float, held: bool):
        self._prefix, self._method, self._model, self._share = settings.scoring.prefix, method, model, share
        self.streams = settings.scoring.memory == "streamed"
        self._held = Held(model) if held and not self.streams else None
        self.holds = False  # over the passes of the step at hand
        if method.passes == "recorded":
            scored = (lambda name: True) if settings.scoring.parameters == "all" else model.is_block
            self.recorder = GhostRecorder(model, scored)

    def begin(self, several: bool) -> None:
        """Before the passes of a step."""
        self.holds = several and self._held is not None
        if self.holds:
            self._held.begin()

    def end(self) -> None:
        """After the passes of a step."""
        if self.holds:
            self._held.end()

    def score(
        self,
        shortlist_N: np.ndarray,
        inputs_NT: Tensor,
        targets_NT: Tensor,
        direction: Direction | None,
        known_N: np.ndarray | None,
    ) -> Scored:
        """The method's pass. With a prefix the losses are those of the scored tokens."""
        seen = slice(0, self._prefix or None)
        recorded = self._method.passes == "recorded"
        run = self._record if recorded else self._look
        losses_N, measured = run(inputs_NT[:, seen], targets_NT[:, seen], direction)
        if known_N is not None:
            measured.known_N = torch.from_numpy(known_N).to(losses_N, non_blocking=True)
        scores_N = self._method.score(losses_N, measured)
        return Scored(shortlist_N, inputs_NT, targets_NT, losses_N, measured, scores_N)

    @property
    def _assembles(self) -> bool:
        """Whether a recorded pass gives the picks' gradient: it was whole, and it is kept."""
        return self._method.passes == "recorded" and not (self._prefix or self.streams)

    def set_aside(self, scored: Scored) -> Scored:
        """The group scored last, to be trained on after others."""
        if self._assembles:
            scored.aside = self.recorder.set_aside()
        return scored

    def train(self, scored: Scored, picks: Tensor, more: bool) -> None:
        """Adds the gradient of the picks of a group, of the one scored last unless it was set aside: assembled from its
        pass, or by a pass of their own. more: whether the step has further groups."""
        if self._assembles:
            if scored.aside is not None:
                self.recorder.take_up(scored.aside)
                scored.aside = None
            self.recorder.add_gradient(picks, self._share, more=more and self.holds)
            self.recorder.release()
            return
        if self._method.passes == "recorded":
            self.recorder.release()
        # In the place of a pick that could not be made, tokens that are finite for any model, without a target.
        none_k1 = (picks < 0)[:, None]
        inputs_kT, targets_kT = scored.inputs_NT[picks], scored.targets_NT[picks]
        self.train_on(inputs_kT.masked_fill(none_k1, 0), targets_kT.masked_fill(none_k1, -1), more)

    def train_on(self, inputs_NT: Tensor, targets_NT: Tensor, more: bool) -> Tensor:
        """An ordinary pass; the losses [N]."""
        if self.holds and not more:
            self._held.last()
        losses_N = self._model(inputs_NT, targets_NT)
        (losses_N.sum() * self._share).backward()
        return losses_N.detach()

    def _record(self, inputs_NT: Tensor, targets_NT: Tensor, direction: Direction | None) -> tuple[Tensor, Measured]:
        asked = self.recorder.along(direction).asked(lambda pass_: self._method.measure(pass_, direction), self.streams)
        with asked:
            losses_N = self._model(inputs_NT, targets_NT)
            losses_N.sum().backward()
        return losses_N.detach(), self.recorder.answer

    @torch.no_grad()
    def _look(self, inputs_NT: Tensor, targets_NT: Tensor, _) -> tuple[Tensor, Measured]:
        return self._model(inputs_NT, targets_NT), Measured()
