"""Who is in charge: ways of choosing take turns for a while, and the one that lowers the target loss most goes on.

A score says what one step does, and is often wrong about many; so what is compared here is the fall itself, of a few
fixed target samples' losses over blocks of steps, divided by what a step costs. A cycle is

    trial  every arm has four blocks, in rounds that go through an order and its reverse in turn, so that a trend of
           the falls cancels
    and the decision
    hold   the arm in charge goes on

A challenger takes over if it is ahead by SURE standard errors of the difference. Two errors add up. One is of the few
samples that are watched; the falls are paired, so what differs between samples cancels. The other is of the steps: what
a block happens to do, it does to all samples alike, and only blocks of one arm that differ tell how much that is. An
arm that is behind by as much sits out the next trial. Every cycle has blocks twice as long as the one before: late in a
run a block brings little, and more steps are needed to tell.

Blocks of a worse arm do not only bring less, they undo some of what the better one did. So the first trial is at the
very beginning, where the learning rate is still low.

Everything is numpy on the host and the same on every rank; nothing depends on the clock.

Shapes: A arms, b borders of a trial's blocks, w watched samples.
"""

import numpy as np

ROUNDS = 4
HOLD = 4  # trials that a hold lasts as long as
SURE = 2.4  # standard errors: 95 % of Student's t with the 8 degrees of freedom of three arms; of two, with 5, 94 %


class Contest:
    """costs_A: of a step by each arm, in units of plain training's; first: the arm in charge at first; block: steps of
    a block in the first cycle; watched: w."""

    def __init__(self, costs_A: np.ndarray, first: int, block: int, watched: int):
        self._costs_A, self._arms = costs_A, len(costs_A)
        self.incumbent, self._block = first, block
        self._starts = 0  # the step that the trial begins with, or began with
        self._trial = list(range(self._arms))
        self._losses_bw = np.full((ROUNDS * self._arms + 1, watched), np.nan)
        self.falls_A = np.full(self._arms, np.nan)  # a step, in the last trial that an arm took part in
        self.lead, self.lead_error = np.nan, np.nan  # of the one in charge over arm 0, as ratios of falls

    def arm_at(self, step: int) -> int:
        """Which arm chooses at `step`, of this cycle or the one after it."""
        block = (step - self._starts) // self._block
        turns = self._turns()
        return turns[block] if 0 <= block < len(turns) else self.incumbent

    def _turns(self) -> list[int]:
        return [*self._trial, *reversed(self._trial)] * (ROUNDS // 2)

    def watches_at(self, step: int) -> bool:
        """Whether the watched samples' losses are wanted before `step` is taken: at the borders of blocks."""
        border, rest = divmod(step - self._starts, self._block)
        return rest == 0 and 0 <= border <= len(self._turns())

    def hear(self, step: int, losses_w: np.ndarray) -> None:
        """Takes in the losses before `step`, and decides after the last block."""
        border = (step - self._starts) // self._block
        self._losses_bw[border] = losses_w
        if border == len(self._turns()):
            self._decide()
            self._block *= 2
            self._starts = step + HOLD * ROUNDS * self._arms * self._block

    def _decide(self) -> None:
        order = np.array(self._turns())
        falls_bw = -np.diff(self._losses_bw[: len(order) + 1], axis=0) / self._block
        falls_Aw = {arm: falls_bw[order == arm].mean(0) for arm in self._trial}
        variance = noise_of(falls_bw.mean(1), order) / ROUNDS  # of an arm's mean fall, by what its blocks happen to do
        for arm, falls_w in falls_Aw.items():
            self.falls_A[arm] = falls_w.mean()
        if 0 in falls_Aw:
            self.lead, self.lead_error = ratio(falls_Aw[self.incumbent], falls_Aw[0], variance)

        def ahead_by(arm: int, other: int) -> float:
            costs = self._costs_A[[arm, other]]
            return _in_errors(falls_Aw[arm] / costs[0] - falls_Aw[other] / costs[1], variance * (costs**-2.0).sum())

        before = self.incumbent
        ahead = [arm for arm in self._trial if ahead_by(arm, before) > SURE]
        self.incumbent = max(ahead, key=lambda arm: self.falls_A[arm] / self._costs_A[arm], default=before)
        behind = {arm for arm in self._trial if ahead_by(arm, self.incumbent) < -SURE}
        sat_out = set(range(self._arms)) - set(self._trial)
        # Who sat out comes back; who is clearly behind now sits out, unless it was in charge until now.
        self._trial = sorted(sat_out | (set(self._trial) - behind) | {before, self.incumbent})

    def state_dict(self) -> dict[str, np.ndarray]:
        entered = np.isin(np.arange(self._arms), self._trial)
        whole = np.array([self.incumbent, self._starts, self._block])
        found = np.array([self.lead, self.lead_error, *self.falls_A])
        return {"contest": whole, "entered": entered.astype(np.int64), "found": found, "borders": self._losses_bw}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.incumbent, self._starts, self._block = state["contest"].tolist()
        self._trial = np.flatnonzero(state["entered"]).tolist()
        (self.lead, self.lead_error), self.falls_A = state["found"][:2].tolist(), state["found"][2:].copy()
        self._losses_bw = state["borders"].copy()


def noise_of(falls_b: np.ndarray, order_b: np.ndarray) -> float:
    """The variance of a block's fall, beside what its arm and a linear trend make of it: least squares."""
    arms = np.unique(order_b)
    known_bx = np.column_stack([order_b[:, None] == arms, np.arange(len(order_b))]).astype(np.float64)
    residuals_b = falls_b - known_bx @ (np.linalg.pinv(known_bx) @ falls_b)
    return float((residuals_b**2).sum() / (len(order_b) - len(arms) - 1))


def ratio(over_w: np.ndarray, under_w: np.ndarray, variance: float = 0.0) -> tuple[float, float]:
    """The ratio of two means of paired numbers, and its standard error by the delta method (Cochran 1977, 6.3).

    variance: of either mean, beside what the numbers show.
    """
    found = over_w.mean() / under_w.mean()
    squared = (over_w - found * under_w).var(ddof=1) / len(over_w) + variance * (1 + found**2)
    return float(found), float(np.sqrt(squared) / abs(under_w.mean()))


def _in_errors(differences_w: np.ndarray, variance: float) -> float:
    """The mean in units of its standard error; 0 where there is no difference, or where one is not finite."""
    error = np.sqrt(differences_w.var(ddof=1) / len(differences_w) + variance)
    return float(differences_w.mean() / error) if error > 0 else 0.0
