"""What a method is: which passes over the candidates it needs, what it makes of them, and how it picks.

N candidates of one group, k picks.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..direction import Direction
from ..ghost import GhostRecorder
from ..greedy import greedy_select

# Keys of selection.settings, by what reads them.
ALWAYS = frozenset({"method", "picks"})
CHOOSING = ALWAYS | {"candidates"}
SCORING = CHOOSING | {"scoring.prefix"}
RECORDING = SCORING | {"scoring.parameters", "scoring.memory"}
AIMING = RECORDING | {
    f"direction.{key}" for key in ("samples", "rank", "decay", "preconditioner", "targets", "contrast")
}


@dataclass
class Measured:
    """What a pass over N candidates measured beside their losses; None where it did not.

    first_order_N: <g_i, v>; gram_NN: <g_i, g_j>; squares_N: |g_i|^2; known_N: what the method knew of them beforehand.
    All but the last are sums over parameters, and two of them are added part by part.
    """

    first_order_N: Tensor | None = None
    gram_NN: Tensor | None = None
    squares_N: Tensor | None = None
    known_N: Tensor | None = None

    def __add__(self, other: "Measured") -> "Measured":
        def total(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return b if a is None else a if b is None else a + b

        names = [field.name for field in dataclasses.fields(self)]
        return type(self)(**{name: total(getattr(self, name), getattr(other, name)) for name in names})

    @property
    def norms_N(self) -> Tensor | None:
        """|g_i|"""
        squares_N = self.squares_N if self.gram_NN is None else self.gram_NN.diagonal()
        return None if squares_N is None else squares_N.sqrt()


@dataclass(frozen=True)
class Moment:
    """Which choice this is: its step, the group's number among all of the step, the run's seed; eta of the step."""

    step: int
    lane: int
    seed: int
    learning_rate: float


class Method:
    """Base of all methods. `settings`: a selection.settings.Selection.

    chooses: whether there are more candidates than picks. passes: what the model does with them before the choice:
    nothing, a forward pass, or a recorded forward and backward pass, from which the picks' gradient is assembled.
    aims: whether scores need a validation direction. filter: the prefilter, by name, whose ranking of the candidates'
    text is the method's own. knows: what it is told of every candidate
    beforehand, a kind of pipeline/dataset/known.py. ranks_by: what its score is, for people who read it. reads: the
    keys of `settings` that it reads, those of `amortise` aside: these go with every method that has a pass to save.
    """

    chooses: ClassVar[bool] = True
    passes: ClassVar[Literal["none", "forward", "recorded"]] = "recorded"
    aims: ClassVar[bool] = False
    filter: ClassVar[str | None] = None
    knows: ClassVar[Literal["loss", "likeness"] | None] = None
    ranks_by: ClassVar[str] = ""
    reads: ClassVar[frozenset[str]] = RECORDING

    def __init__(self, settings: Any):
        self.settings = settings

    def steer(
        self, direction: Direction | None, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
    ) -> Direction | None:
        """What the candidates of a step are scored along, from the target samples' direction (None unless the method
        aims) and from what the optimizer knows of the scored parameters. Called once a scored step."""
        return direction

    def measure(self, recorder: GhostRecorder, direction: Direction | None) -> Measured:
        """What the recorded pass is asked for; `direction` is what `steer` gave.

        Sums over parameters: where memory is short it is called in backward, for each parameter alone, and added up.
        """
        return Measured()

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        """[N], what the candidates are ranked by: the higher the better."""
        raise NotImplementedError

    def pick(self, scores_N: Tensor, measured: Measured, moment: Moment) -> Tensor:
        """Positions [k] in the order of being picked: the k highest; -1 at the end where fewer scores are finite."""
        return greedy_select(scores_N, None, self.settings.picks, step_size=1.0)[0]
