"""Selection by the steps that the optimizer would make of the candidates' gradients, sampled instead of maximal.

N candidates of one group, k picks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..direction import Direction, adam_divisors
from ..ghost import GhostRecorder
from ..prefilters.cascade import gumbel
from .method import RECORDING, Measured, Method, Moment

TEMPERATURE = 0.9  # tau, as published


@dataclass
class Steps(Measured):
    """steps_NN: <u_i, u_j> beside <g_i, P v>."""

    steps_NN: Tensor | None = None


class Opus(Method):
    """Samples k of N, one after the other, by the gain eta <u_i, v> - eta^2 <u_i, sum of the u of those picked>.

    After "OPUS" (arXiv 2602.05400). u_i = P g_i is what AdamW would make of sample i's gradient: P is the diagonal
    1 / (sqrt(second moment) + eps) as of the last step (the identity before the first). Exact are both products:
    <u_i, v> = <g_i, P v>, and <u_i, u_j> from every layer's gradients of the samples, multiplied out block by block
    and divided entry by entry, since no diagonal P folds into the factors of a ghost product. Left out is what P would
    learn from the step itself, and the first moment; published code projects the gradients to save the products.

    A pick is drawn from the softmax of the gains over tau = 0.9 (Gumbel noise, fresh for every pick, a function of
    (seed, step, group)). Gains are in standard deviations of the group's eta <u_i, v> there: in units of loss they
    differ by hundredths, and a softmax of them at 0.9, as published, is all but a plain draw.
    """

    aims, reads = True, RECORDING | {f"direction.{key}" for key in ("samples", "decay", "targets")}
    ranks_by = "the first-order score <P g_i, v> of AdamW's step, before the interactions and the noise"

    def steer(
        self, direction: Direction | None, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
    ) -> Direction:
        self._divisors = adam_divisors(optimizer, parameters)
        if self._divisors is None:
            return direction
        divided = direction.divided(self._divisors)
        self._divisors.gather()  # once for all groups
        return divided

    def measure(self, recorder: GhostRecorder, direction: Direction | None) -> Steps:
        first_order_N, steps_NN = recorder.first_order_and_gram(direction, self._divisors)
        return Steps(first_order_N, steps_NN=steps_NN)

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        return measured.first_order_N

    def pick(self, scores_N: Tensor, measured: Steps, moment: Moment) -> Tensor:
        usable_N = torch.isfinite(scores_N) & torch.isfinite(measured.steps_NN.diagonal())
        k, N = self.settings.picks, len(scores_N)
        noise = torch.from_numpy(gumbel(k * N, moment.seed, moment.step, moment.lane))
        noise_kN = noise.to(scores_N, non_blocking=True).view(k, N)
        gains_N = torch.where(usable_N, moment.learning_rate * scores_N, 0)
        count = usable_N.sum().clamp(min=1)
        variance = torch.where(usable_N, gains_N - gains_N.sum() / count, 0).square().sum() / count
        spread = variance.sqrt().clamp(min=torch.finfo(gains_N.dtype).tiny)
        picks = []
        for noise_N in noise_kN:
            drawn_N = torch.where(usable_N, gains_N / spread + TEMPERATURE * noise_N, -torch.inf)
            highest_1, pick_1 = drawn_N.max(dim=0, keepdim=True)
            picks.append(pick_1.masked_fill(highest_1 == -torch.inf, -1))
            usable_N = usable_N.index_fill(0, pick_1, False)
            gains_N = gains_N - moment.learning_rate**2 * measured.steps_NN.index_select(0, pick_1)[0]
        return torch.cat(picks)
