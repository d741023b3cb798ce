"""A large set of 64-bit numbers."""

import numpy as np

_FRESH = 1 << 16


class Digests:
    """A set of digests that takes 8 bytes each, and up to 32 while it grows: sorted in one array, and the newest in a
    small set beside it."""

    def __init__(self):
        self._sorted = np.empty(0, dtype=np.uint64)
        self._fresh: set[int] = set()

    def __contains__(self, digest: int) -> bool:
        if digest in self._fresh:
            return True
        at = int(self._sorted.searchsorted(np.uint64(digest)))
        return at < len(self._sorted) and int(self._sorted[at]) == digest

    def add(self, digest: int) -> bool:
        """Whether it is new."""
        if digest in self:
            return False
        self._fresh.add(digest)
        if len(self._fresh) > max(_FRESH, len(self._sorted) // 16):
            fresh = np.fromiter(self._fresh, dtype=np.uint64, count=len(self._fresh))
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]), kind="stable")  # a merge, almost
            self._fresh.clear()
        return True
