"""How often a sample's text was picked before.

Text comes again: in the next pass over the pool, or copied, at other places of other samples. So a sample is known by
PRINTS of its fingerprints: of the hashes of its runs of nine tokens, each once, the smallest (Broder 1997). They depend
on the text alone, and samples that share most of their text share most of them. A sample was picked as often as the
median of its fingerprints was. These are counted in a table of SLOTS. When more than an eighth of them is taken, all
counts are halved, so that what is long ago is forgotten (as in TinyLFU, Einziger et al. 2017). So 140,000 different
texts are known before those that were picked once are forgotten, and of text that was never picked less than one in a
hundred is taken for picked.

Shapes: n samples, p picks, F n-grams of a sample, r runs, P fingerprints, S slots.
"""

import numpy as np

from .features import ODD, mixed

PRINTS = 8
SLOTS = 1 << 23
_NONE = np.uint64(2**64 - 1)


class Repeats:
    """Counts of the fingerprints of picks."""

    def __init__(self):
        self._counts_S, self._taken = np.zeros(SLOTS, dtype=np.uint8), 0

    def times(self, features_nF: np.ndarray) -> np.ndarray:
        """How often the text of every sample was picked before, float64 [n]."""
        return self._times(fingerprints(features_nF))

    def _times(self, slots_nP: np.ndarray) -> np.ndarray:
        has_n, rows = (slots_nP >= 0).sum(1), np.arange(len(slots_nP))
        counts_nP = np.sort(np.where(slots_nP < 0, np.inf, self._counts_S[slots_nP]), axis=1)
        return (counts_nP[rows, (has_n - 1) // 2] + counts_nP[rows, has_n // 2]) / 2  # the median of those it has

    def take_in(self, slots_pP: np.ndarray) -> float:
        """Counts the fingerprints of picks; how often these were picked before, in the mean."""
        before = float(self._times(slots_pP).mean())
        slots, counts = np.unique(slots_pP[slots_pP >= 0], return_counts=True)
        self._taken += np.count_nonzero(self._counts_S[slots] == 0)
        self._counts_S[slots] = np.minimum(self._counts_S[slots] + counts, 255)
        if self._taken > SLOTS // 8:
            self._counts_S >>= 1
            self._taken = np.count_nonzero(self._counts_S)
        return before

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"repeats": self._counts_S}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._counts_S = state["repeats"].copy()
        self._taken = np.count_nonzero(self._counts_S)


def fingerprints(features_nF: np.ndarray) -> np.ndarray:
    """The slots of every sample's fingerprints, int32 [n, P]; -1 where it has fewer different runs."""
    trigrams = features_nF[:, 2 * ((features_nF.shape[1] + 1) // 3) :].astype(np.uint64)
    reach = min(6, trigrams.shape[1] - 1)  # nine tokens are three trigrams side by side; of short samples, fewer
    starts, runs = (0, reach // 2, reach), trigrams.shape[1] - reach
    codes_nr = sum(trigrams[:, start : start + runs] * odd for start, odd in zip(starts, ODD, strict=True))
    codes_nr = np.sort(mixed(codes_nr), axis=1)
    codes_nr[:, 1:][codes_nr[:, 1:] == codes_nr[:, :-1]] = _NONE
    smallest_nr = np.sort(codes_nr, axis=1)[:, :PRINTS]
    slots_nr = np.where(smallest_nr == _NONE, np.int32(-1), (smallest_nr & np.uint64(SLOTS - 1)).astype(np.int32))
    return np.pad(slots_nr, ((0, 0), (0, PRINTS - slots_nr.shape[1])), constant_values=-1)
