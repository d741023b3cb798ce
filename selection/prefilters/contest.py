"""Who is in charge: ways of choosing take turns for a while, and the one that lowers the target loss most goes on.

A score says what one step does, and is often wrong about many; so what is compared here is the fall itself, of a few
fixed target samples' losses over blocks of steps, divided by what a step costs. A cycle is

    hold   the arm in charge goes on
    trial  every arm has two blocks, in an order and then in its reverse, so that a trend of the falls cancels
    and the decision

A challenger takes over if it is ahead by SURE of its standard errors. The falls are paired, sample by sample, so what
differs between samples cancels. An arm that is behind by as much sits out the next trial. Every cycle has blocks twice
as long as the one before: late in a run a block brings little, and more steps are needed to tell.

Everything is numpy on the host and the same on every rank; nothing depends on the clock.

Shapes: A arms, b borders of a trial's blocks, w watched samples.
"""

import numpy as np

HOLD = (1, 4)  # trials that a hold lasts as long as: the first one, those after
SURE = 2.0  # standard errors


class Contest:
    """costs_A: of a step by each arm, in units of plain training's; first: the arm in charge at first; block: steps of
    a block in the first cycle; watched: w."""

    def __init__(self, costs_A: np.ndarray, first: int, block: int, watched: int):
        self._costs_A, self._arms = costs_A, len(costs_A)
        self.incumbent, self._begun, self._block, self._hold = first, 0, block, HOLD[0] * 2 * self._arms * block
        self._trial = list(range(self._arms))
        self._losses_bw = np.full((2 * self._arms + 1, watched), np.nan)
        self.falls_A = np.full(self._arms, np.nan)  # a step, in the last trial that an arm took part in
        self.lead, self.lead_error = np.nan, np.nan  # of the one in charge over arm 0, as ratios of falls

    def arm_at(self, step: int) -> int:
        """Which arm chooses at `step`, of this cycle or the one after it."""
        block = (step - self._begun - self._hold) // self._block
        if not 0 <= block < 2 * len(self._trial):
            return self.incumbent
        return [*self._trial, *reversed(self._trial)][block]

    def watches_at(self, step: int) -> bool:
        """Whether the watched samples' losses are wanted before `step` is taken: at the borders of blocks."""
        border, rest = divmod(step - self._begun - self._hold, self._block)
        return rest == 0 and 0 <= border <= 2 * len(self._trial)

    def hear(self, step: int, losses_w: np.ndarray) -> None:
        """Takes in the losses before `step`, and decides after the last block."""
        border = (step - self._begun - self._hold) // self._block
        self._losses_bw[border] = losses_w
        if border == 2 * len(self._trial):
            self._decide()
            self._begun, self._block = step, 2 * self._block
            self._hold = HOLD[1] * 2 * self._arms * self._block

    def _decide(self) -> None:
        order = np.array([*self._trial, *reversed(self._trial)])
        falls_bw = -np.diff(self._losses_bw[: len(order) + 1], axis=0) / self._block
        falls_Aw = {arm: falls_bw[order == arm].mean(0) for arm in self._trial}
        for arm, falls_w in falls_Aw.items():
            self.falls_A[arm] = falls_w.mean()
        if 0 in falls_Aw:
            self.lead, self.lead_error = ratio(falls_Aw[self.incumbent], falls_Aw[0])
        returns_Aw = {arm: falls_w / self._costs_A[arm] for arm, falls_w in falls_Aw.items()}
        before = self.incumbent
        ahead = [arm for arm in self._trial if _in_errors(returns_Aw[arm] - returns_Aw[before]) > SURE]
        self.incumbent = max(ahead, key=lambda arm: returns_Aw[arm].mean(), default=before)
        behind = {arm for arm in self._trial if _in_errors(returns_Aw[arm] - returns_Aw[self.incumbent]) < -SURE}
        sat_out = set(range(self._arms)) - set(self._trial)
        # Who sat out comes back; who is clearly behind now sits out, unless it was in charge until now.
        self._trial = sorted(sat_out | (set(self._trial) - behind) | {before, self.incumbent})

    def state_dict(self) -> dict[str, np.ndarray]:
        entered = np.isin(np.arange(self._arms), self._trial)
        whole = np.array([self.incumbent, self._begun, self._block, self._hold])
        found = np.array([self.lead, self.lead_error, *self.falls_A])
        return {"contest": whole, "entered": entered.astype(np.int64), "found": found, "borders": self._losses_bw}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.incumbent, self._begun, self._block, self._hold = state["contest"].tolist()
        self._trial = np.flatnonzero(state["entered"]).tolist()
        (self.lead, self.lead_error), self.falls_A = state["found"][:2].tolist(), state["found"][2:].copy()
        self._losses_bw = state["borders"].copy()


def ratio(over_w: np.ndarray, under_w: np.ndarray) -> tuple[float, float]:
    """The ratio of two means of paired numbers, and its standard error by the delta method (Cochran 1977, 6.3)."""
    found = over_w.mean() / under_w.mean()
    error = (over_w - found * under_w).std(ddof=1) / np.sqrt(len(over_w)) / abs(under_w.mean())
    return float(found), float(error)


def _in_errors(differences_w: np.ndarray) -> float:
    """The mean in units of its standard error; 0 where there is no difference, or where one is not finite."""
    error = differences_w.std(ddof=1) / np.sqrt(len(differences_w))
    return float(differences_w.mean() / error) if error > 0 else 0.0
