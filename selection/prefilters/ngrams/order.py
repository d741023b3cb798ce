"""How much better each word is foreseen by the one before it than by how often it comes.

N-gram weights tell what words a text is made of, and little of their order: text whose words are shuffled has the same
unigrams, and most bigrams of whole text are in no small sample either. So the order has a weight of its own: the mean
over a candidate's adjacent words a, b of

    log p(b | a) / p(b)

under a bigram model of given text (pointwise mutual information, Church & Hanks 1990). It is above zero where words
follow each other as they do there, and below where each is known and their pairs are not. With n(a b) and n(a) counted,
p(b | a) = (n(a b) + MU p(b)) / (n(a) + MU) (MacKay & Peto 1995), so that the logarithm is a sum of a weight of the word
a and a weight of the pair:

    log(1 + n(a b) / (MU p(b))) - log(1 + n(a) / MU).

Shapes: n samples, T tokens, F n-grams of a sample, b fine buckets.
"""

import numpy as np

from .features import FINE_BUCKETS

MU = 1.0


def order_weights(features_nF: np.ndarray) -> np.ndarray:
    """The weights of unigrams and bigrams, float32 [b], by the text of these samples; trigrams have none."""
    T = (features_nF.shape[1] + 1) // 3
    words_nT, pairs_nT = features_nF[:, :T], features_nF[:, T : 2 * T]  # both end at the same token
    weights_b = np.zeros(FINE_BUCKETS, dtype=np.float32)
    if not features_nF.size:
        return weights_b
    words_b = np.bincount(words_nT.ravel(), minlength=FINE_BUCKETS)
    pairs, first, counts = np.unique(pairs_nT, return_index=True, return_counts=True)
    shares = words_b[words_nT.ravel()[first]] / words_nT.size
    weights_b -= np.log1p(words_b / MU)
    weights_b[pairs] += np.log1p(counts / (MU * shares))
    return weights_b
