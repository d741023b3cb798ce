"""Methods that rank by the first-order score <g_i, v>: what a step on a candidate alone takes off the target loss."""

from torch import Tensor

from ..direction import Direction
from ..ghost import GhostRecorder
from ..greedy import greedy_select
from .method import AIMING, Measured, Method, Moment


class TopK(Method):
    """The k highest first-order scores."""

    aims, reads = True, AIMING | {"pool"}
    ranks_by = "the first-order score <g_i, v>"

    def measure(self, recorder: GhostRecorder, direction: Direction | None) -> Measured:
        return Measured(recorder.first_order(direction))

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        return measured.first_order_N


class BottomK(TopK):
    """The k lowest: what a score is worth shows in what its opposite costs."""

    ranks_by = "the negative of the first-order score <g_i, v>"

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        return -measured.first_order_N


class Greats(TopK):
    """Greedy selection with the interactions between picks (Wang et al., "GREATS", NeurIPS 2024, section 4.1).

    Its score is the first-order one, which the picks then lower for each other.
    """

    reads = AIMING | {"interaction.curvature", "interaction.sketch"}

    def measure(self, recorder: GhostRecorder, direction: Direction | None) -> Measured:
        sketch = self.settings.interaction.sketch
        if sketch:
            first_order_N, gram_NN = recorder.first_order(direction), recorder.gram(sketch)
        else:
            first_order_N, gram_NN = recorder.first_order_and_gram(direction)
        return Measured(first_order_N, gram_NN)

    def pick(self, scores_N: Tensor, measured: Measured, moment: Moment) -> Tensor:
        k, curvature = self.settings.picks, self.settings.interaction.curvature
        a = moment.learning_rate / k
        return greedy_select(scores_N, measured.gram_NN, k, step_size=a, curvature=curvature)[0]
