"""The validation direction v: exact, low-rank, a running average, preconditioned."""

from selection.direction.exact import Direction
from selection.direction.low_rank import LowRank
from selection.direction.preconditioned import adam_preconditioned
from selection.direction.running import RunningDirection

__all__ = ["Direction", "LowRank", "RunningDirection", "adam_preconditioned"]
