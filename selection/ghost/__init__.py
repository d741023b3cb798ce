"""Ghost inner products: per-sample gradient quantities from one backward pass."""

from selection.ghost.recorder import GhostRecorder

__all__ = ["GhostRecorder"]
