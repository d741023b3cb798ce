"""The validation direction v: exact, low-rank, a running average, preconditioned."""

from .exact import Direction
from .low_rank import LowRank
from .preconditioned import adam_divisors, adam_momentum, adam_preconditioned
from .running import RunningDirection

__all__ = ["Direction", "LowRank", "RunningDirection", "adam_divisors", "adam_momentum", "adam_preconditioned"]
