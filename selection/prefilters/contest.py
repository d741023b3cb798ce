"""Who is in charge: ways of choosing take turns for a while, and the one that lowers the target loss most goes on.

A score says what one step does, and is often wrong about many; so what is compared here is the fall itself, of a few
fixed target samples' losses over blocks of steps, divided by what a step costs. A cycle is

    hold   the arm in charge goes on
    trial  every arm has a block, the one in charge last, and then a block in the reverse order, so that a trend of the
           falls cancels; an arm that is far behind after the first round has no second block
    and the decision

A challenger takes over if it is ahead by SURE of its standard errors. The falls are paired, sample by sample, so what
differs between samples cancels. An arm that is behind by as much sits out the next trial. Every cycle has blocks twice
as long as the one before: late in a run a block brings little, and more steps are needed to tell.

A block of a worse arm not only brings less: it undoes some of what the better one did. So the first trial comes early,
while what is lost is soon made up for, and nobody who is far behind is heard twice.

Everything is numpy on the host and the same on every rank; nothing depends on the clock.

Shapes: A arms, b borders of a trial's blocks, w watched samples.
"""

import numpy as np

HOLD = (1, 4)  # trials that a hold lasts as long as: the first one, those after
SURE = 2.0  # standard errors
FAR = 4.0  # the same after one round, whose falls have a trend


class Contest:
    """costs_A: of a step by each arm, in units of plain training's; first: the arm in charge at first; block: steps of
    a block in the first cycle; watched: w."""

    def __init__(self, costs_A: np.ndarray, first: int, block: int, watched: int):
        self._costs_A, self._arms = costs_A, len(costs_A)
        self.incumbent, self._begun, self._block, self._hold = first, 0, block, HOLD[0] * 2 * self._arms * block
        self._plan(set(range(self._arms)))
        self._losses_bw = np.full((2 * self._arms + 1, watched), np.nan)
        self.falls_A = np.full(self._arms, np.nan)  # a step, in the last trial that an arm took part in
        self.lead, self.lead_error = np.nan, np.nan  # of the one in charge over arm 0, as ratios of falls

    def _plan(self, arms: set[int]) -> None:
        """The turns of the next trial."""
        first = sorted(arms, key=lambda arm: (arm == self.incumbent, arm))
        self._entered, self._turns = len(first), [*first, *reversed(first)]

    def arm_at(self, step: int) -> int:
        """Which arm chooses at `step`, of this cycle or the one after it."""
        block = (step - self._begun - self._hold) // self._block
        return self._turns[block] if 0 <= block < len(self._turns) else self.incumbent

    def watches_at(self, step: int) -> bool:
        """Whether the watched samples' losses are wanted before `step` is taken: at the borders of blocks."""
        border, rest = divmod(step - self._begun - self._hold, self._block)
        return rest == 0 and 0 <= border <= len(self._turns)

    def hear(self, step: int, losses_w: np.ndarray) -> None:
        """Takes in the losses before `step`; after the first round some are out, and after the last block one wins."""
        border = (step - self._begun - self._hold) // self._block
        self._losses_bw[border] = losses_w
        if border == self._entered:
            falls = self._falls(border)
            out = {arm for arm in falls if self._ahead(falls, arm, self.incumbent) < -FAR}
            self._turns[border:] = [arm for arm in self._turns[border:] if arm not in out]
        elif border == len(self._turns):
            self._decide(self._falls(border))
            self._begun, self._block = step, 2 * self._block
            self._hold = HOLD[1] * 2 * self._arms * self._block

    def _falls(self, blocks: int) -> dict[int, np.ndarray]:
        """What the losses fell by a step in every block that an arm had so far, [1 or 2, w]."""
        falls_bw = -np.diff(self._losses_bw[: blocks + 1], axis=0) / self._block
        order = np.array(self._turns[:blocks])
        return {int(arm): falls_bw[order == arm] for arm in np.unique(order)}

    def _ahead(self, falls: dict[int, np.ndarray], arm: int, other: int) -> float:
        """By how many standard errors an arm brought more for its cost, in the rounds that both had."""
        one_w, other_w = in_both(falls, arm, other)
        return _in_errors(one_w / self._costs_A[arm] - other_w / self._costs_A[other])

    def _decide(self, falls: dict[int, np.ndarray]) -> None:
        for arm, falls_rw in falls.items():
            self.falls_A[arm] = falls_rw.mean()
        before, second = self.incumbent, self._turns[self._entered :]
        if 0 in falls:
            self.lead, self.lead_error = ratio(*in_both(falls, before, 0))
        ahead = [arm for arm in second if self._ahead(falls, arm, before) > SURE]
        self.incumbent = max(ahead, key=lambda arm: self.falls_A[arm] / self._costs_A[arm], default=before)
        behind = {arm for arm in falls if self._ahead(falls, arm, self.incumbent) < -SURE}
        # Who sat out comes back; who is clearly behind now sits out, unless it was in charge until now.
        self._plan(set(range(self._arms)) - (behind - {before}))

    def state_dict(self) -> dict[str, np.ndarray]:
        whole = np.array([self.incumbent, self._begun, self._block, self._hold, self._entered])
        turns = np.array(self._turns + [-1] * (2 * self._arms - len(self._turns)))
        found = np.array([self.lead, self.lead_error, *self.falls_A])
        return {"contest": whole, "turns": turns, "found": found, "borders": self._losses_bw}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.incumbent, self._begun, self._block, self._hold, self._entered = state["contest"].tolist()
        self._turns = [arm for arm in state["turns"].tolist() if arm >= 0]
        (self.lead, self.lead_error), self.falls_A = state["found"][:2].tolist(), state["found"][2:].copy()
        self._losses_bw = state["borders"].copy()


def in_both(falls: dict[int, np.ndarray], arm: int, other: int) -> np.ndarray:
    """The mean falls of two arms over the rounds that both had, [2, w]."""
    rounds = min(len(falls[arm]), len(falls[other]))
    return np.stack([falls[arm][:rounds].mean(0), falls[other][:rounds].mean(0)])


def ratio(over_w: np.ndarray, under_w: np.ndarray) -> tuple[float, float]:
    """The ratio of two means of paired numbers, and its standard error by the delta method (Cochran 1977, 6.3)."""
    found = over_w.mean() / under_w.mean()
    error = (over_w - found * under_w).std(ddof=1) / np.sqrt(len(over_w)) / abs(under_w.mean())
    return float(found), float(error)


def _in_errors(differences_w: np.ndarray) -> float:
    """The mean in units of its standard error; 0 where there is no difference, or where one is not finite."""
    error = differences_w.std(ddof=1) / np.sqrt(len(differences_w))
    return float(differences_w.mean() / error) if error > 0 else 0.0
