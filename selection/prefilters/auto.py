"""Plain training, one filter, or a filter for every cluster: whichever lowers the target losses most for its cost.

What decides is measured in the run itself, by turns (contest.py), on target samples other than those that the shares of
the clusters follow, as far as there are enough. Where no filter tells target text from the pool, plain training it is.

Shapes: g groups of this rank, n candidates drawn a group, F features.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .cascade import Prefilter, Ranking
from .contest import Contest
from .need import SharedFilters, SharedRanking

ARMS = ("regular", "importance", "need")
NEED = ARMS.index("need")


class Auto:
    """single, shared: the two filters. targets: how many target samples there are. block: steps of a block in the first
    trial. watching: what the losses that `need` watches cost it a step, in units of a step of plain training."""

    learns_from = "picks"

    def __init__(self, single: Prefilter, shared: SharedFilters, targets: int, *, block: int, watching: float):
        self._single, self._shared, self.trusted = single, shared, shared.trusted
        wanted = len(shared.watched)
        others = np.setdiff1d(np.arange(targets), shared.watched)
        judges = others if len(others) >= wanted else np.arange(targets)
        self.judges = judges[np.arange(wanted) * len(judges) // wanted]
        self.contest = Contest(np.array([1.0, 1.0, 1.0 + watching]), NEED, block, wanted)

    def _arm_at(self, step: int) -> int:
        return self.contest.arm_at(step) if self.trusted else ARMS.index("regular")

    def rank(self, features_gnF: np.ndarray, step: int, lanes: Sequence[int]) -> Ranking | SharedRanking:
        """The candidates of `step`, in the groups of these lanes, as the arm in charge has them."""
        arm = self._arm_at(step)
        if arm == NEED:
            return self._shared.rank(features_gnF, step, lanes)
        # Whether the one filter earns is measured here, so what its own judge expects does not count.
        predicted_gn = self._single.rank(features_gnF, step, lanes).predicted_gn
        return Ranking(predicted_gn, trusted=ARMS[arm] == "importance")

    def to_watch(self, step: int) -> np.ndarray:
        """Positions among the target samples whose losses are wanted before `step` is taken."""
        self._arm = self._arm_at(step)  # for the findings of this step: by then the next one's ranking is made
        return np.concatenate(self._asked(step))

    def _asked(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(those of the judges, those of the filter for every cluster), either of which may be none."""
        judges = self.judges if self.trusted and self.contest.watches_at(step) else self.judges[:0]
        return judges, self._shared.to_watch(step) if self._arm_at(step) == NEED else judges[:0]

    def hear(self, step: int, losses: np.ndarray) -> None:
        """Takes in the losses of what `to_watch` asked for."""
        judges, shared = self._asked(step)
        if len(shared):
            self._shared.hear(step, losses[len(judges) :])
        if len(judges):
            self.contest.hear(step, losses[: len(judges)])

    def send(self, features_gkF: np.ndarray) -> None:
        """The picks of this rank's groups, whoever chose them. All ranks call it at the same step."""
        self._shared.send(features_gkF)

    def settle(self) -> None:
        """Takes in what was sent, without using it yet: the state is then complete, for a checkpoint."""
        self._shared.settle()

    def catch_up(self) -> None:
        """Takes in what was sent; rankings from now on are by it."""
        self._shared.catch_up()

    def findings(self) -> dict:
        """For the metrics: who chose, what each brings a step, and how many times what plain training brings."""
        known = [None if np.isnan(fall) else fall for fall in self.contest.falls_A.tolist()]
        gain = {"gain_ratio": self.contest.lead, "gain_error": self.contest.lead_error}
        told = {name: None if np.isnan(value) else value for name, value in gain.items()}
        return {"arm": ARMS[self._arm], "falls": dict(zip(ARMS, known, strict=True)), **told, **self._shared.findings()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors, the same on every rank."""
        contest = {name: torch.from_numpy(array.copy()) for name, array in self.contest.state_dict().items()}
        return contest | self._shared.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.contest.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})
        self._shared.load_state_dict(state)
