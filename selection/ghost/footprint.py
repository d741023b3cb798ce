"""How much memory the steps of a run take on a rank, estimated from the shapes of its model before the first.

In numbers of D, the width of our GPT-2, a block keeps 16 for every token: what its four linear layers read and gave
(1 + 3, 1 + 1, 1 + 4, 4 + 1). A plain pass keeps those for backward, and a recorded one keeps as many until the scores
are read: what each layer read, and the gradient at its output.

N samples of a pass, T tokens a sample, L blocks, V tokens of the vocabulary, D width, W ranks.
"""

from torch import nn


class Footprint:
    """Bytes at once on a rank.

    tokens: T. number: bytes of a number in the passes. logits: how many may be alive at once. recomputed: whether
    blocks make their activations again in backward. ValueError for a model without `blocks`.
    """

    def __init__(self, model: nn.Module, *, ranks: int, tokens: int, number: int, logits: int, recomputed: bool):
        self._tokens, self._number, self._wide = tokens, number, max(4, number)
        self._parameters = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._ranks, self._trained, blocks = ranks, trained, list(model.blocks)
        block = max(sum(p.numel() for p in block.parameters()) for block in blocks)
        outside = self._parameters - sum(p.numel() for block in blocks for p in block.parameters())
        # Shards and AdamW's two moments; those of the gradient; the root's parameters whole, and those of two blocks.
        self.states = self._wide * (self._parameters + 2 * trained) // ranks
        self._gradient = self._wide * trained // ranks
        self._gathered = number * (outside + 2 * block)
        shapes = [[p.shape for p in block.parameters() if p.dim() == 2] for block in blocks]
        kept = [sum(map(sum, shapes_of_block)) for shapes_of_block in shapes]
        self._width = min(min(shape) for shapes_of_block in shapes for shape in shapes_of_block)
        self._widest = max(sum(shape) for shapes_of_block in shapes for shape in shapes_of_block)
        self._inside = max(kept) if recomputed else 0
        self._kept = self._width * len(blocks) if recomputed else sum(kept)
        self._factors = sum(kept)
        head = max((p.shape for p in model.parameters() if p.dim() == 2), key=lambda shape: shape[0])
        self._logits, self._vocabulary, self._weight = logits, head[0], head.numel()

    def plain(self, samples: int) -> int:
        """Training on so many samples."""
        return self.states + self._training(samples)

    def kept(self, samples: int, picks: int, prefix: int = 0, exact: bool = False, gram: bool = False) -> int:
        """Scoring so many by a recorded pass that is kept: by its first `prefix` tokens (0: by all), along an exact
        direction or one of low rank, with the samples' inner products or without."""
        tokens = prefix or self._tokens
        factors = self._rows(samples, tokens, self._factors) + self._gathered
        # The direction's running average; an exact one, whole; the parameters, gathered over the passes of a step.
        beside = self._gradient + self._number * self._parameters - self._gathered
        along = self._wide * self._trained if exact else 0
        factors += 4 * self._wide * min(self._logits, samples * self._weight) if gram else 0
        if prefix:
            scoring = max(self._pass(samples, tokens), factors) + along
            return self.states + beside + max(scoring, self._training(picks))
        return self.states + beside + along + max(self._pass(samples, tokens), factors + self._gradient)

    def streamed(self, samples: int, picks: int, prefix: int = 0, exact: bool = False) -> int:
        """The same, with a pass that is read while it runs, and another one over the picks."""
        beside = self._gradient * (2 if exact else 1)
        scoring = self._pass(samples, prefix or self._tokens)
        return self.states + beside + max(scoring, self._training(picks))

    def _training(self, samples: int) -> int:
        at_the_end = self._gradient + self._gathered + self._rows(samples, self._tokens, self._inside + self._widest)
        return max(self._pass(samples, self._tokens), at_the_end)

    def _rows(self, samples: int, tokens: int, numbers: int) -> int:
        """So many numbers for every token, and those of the embedding, of the head's input and its gradient."""
        return samples * tokens * self._number * (numbers + 3 * self._width)

    def _pass(self, samples: int, tokens: int) -> int:
        """At its fullest: where the head has its logits, or where backward is in the last block."""
        in_backward = self._rows(samples, tokens, self._inside + self._widest) - self._rows(samples, tokens, 0)
        # Logits and their softmax; the gradient of the head's weight.
        logits = min(self._logits, samples * tokens * self._vocabulary)
        in_head = 2 * self._wide * logits + self._wide * self._weight
        return self._rows(samples, tokens, self._kept) + self._gathered + max(in_head, in_backward)
