"""Ghost inner products: per-sample gradient quantities from one backward pass."""

from .recorder import GhostRecorder

__all__ = ["GhostRecorder"]
