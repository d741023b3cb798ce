"""Random access to the samples of a split, and what a model is given of them.

Shape suffixes: N samples, T1 = T + 1 tokens (T inputs and, one to the right, T targets).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from . import block
from .manifest import SPLITS, Manifest
from .remote import Mirror
from .shards import OpenShard, Span

WIDTH = 8  # inputs of a batch without its padding are a multiple of this


class SplitReader:
    """Random access to the samples of one split. Opens shards when first needed and keeps `open_shards` open.

    A shard's bytes are compared with the manifest's sha256 when it is first opened, before a sample of it is given,
    and when it is opened again and its file has changed.
    """

    def __init__(self, dataset: str | Path | Mirror | Manifest, split: str = "train", open_shards: int = 4):
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}: the splits are {', '.join(SPLITS)}")
        self.manifest = dataset if isinstance(dataset, Manifest) else Manifest.load(dataset)
        self.split = split
        self.samples = self.manifest.samples(split)
        self._shards = self.manifest.shards[split]
        self._firsts = np.array([shard.first_sample for shard in self._shards], dtype=np.int64)
        self._sizes = np.array([shard.samples for shard in self._shards], dtype=np.int64)
        self._open_shards = open_shards
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._signatures: dict[int, tuple] = {}

    def tokens(self, sample_ids: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        """The tokens of these samples, in the order asked for: [N, T+1] in the stored type (uint16 or uint32)."""
        return self._copied(sample_ids, OpenShard.tokens, self.manifest.dtype)

    def marked(self, sample_ids: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        """The same for inputs_and_targets: where the dataset has masks, int32 with ~token in place of every token that
        is no target."""
        tokens_NT1 = self.tokens(sample_ids)
        if not self.manifest.masked:
            return tokens_NT1
        mask_NT1 = self._copied(sample_ids, OpenShard.mask, block.MASK)
        return np.where(mask_NT1 == 1, tokens_NT1.astype(np.int32), ~tokens_NT1.astype(np.int32))

    def _copied(self, sample_ids, copy: Callable[[OpenShard, np.ndarray, np.ndarray], None], dtype) -> np.ndarray:
        ids_N, shards_N = self._placed(sample_ids)
        values_NT1 = np.empty((len(ids_N), self.manifest.sequence_length + 1), dtype=dtype)
        # Shard by shard and, within one, from front to back, whatever the order asked for: each shard is
        # opened once, and the disk is read forwards.
        order = np.argsort(ids_N, kind="stable")
        edges = np.flatnonzero(np.diff(shards_N[order])) + 1
        for places in np.split(order, edges) if len(order) else ():
            index = int(shards_N[places[0]])
            part = np.empty((len(places), values_NT1.shape[1]), dtype=dtype)
            copy(self._shard(index), ids_N[places] - self._firsts[index], part)
            values_NT1[places] = part
        return values_NT1

    def fetch_ahead(self, sample_ids: Sequence[int] | np.ndarray) -> None:
        """Has the shards of these samples fetched meanwhile, where the dataset is elsewhere.

        What fails there fails again, and is told, when a sample of the shard is asked for.
        """
        mirror = self.manifest.mirror
        if mirror is None:
            return
        wanted = {int(index) for index in self._placed(sample_ids)[1]} - self._open.keys()

        def fetch() -> None:
            for shard in (self._shards[index] for index in sorted(wanted)):
                with suppress(ValueError):
                    mirror.shard(self.manifest.folder, shard.name, shard.bytes, shard.sha256).close()

        threading.Thread(target=fetch, daemon=True).start()

    def spans(self, sample_id: int) -> list[Span]:
        """The stretches of documents that this sample is made of, in order."""
        (number,), (index,) = self._placed([sample_id])
        return self._shard(int(index)).spans(int(number - self._firsts[index]))

    def _placed(self, sample_ids) -> tuple[np.ndarray, np.ndarray]:
        """The numbers as int64 [N], and which shard each is in. ValueError for one that is in none."""
        ids_N = np.asarray(sample_ids, dtype=np.int64)
        shards_N = np.searchsorted(self._firsts, ids_N, side="right") - 1
        outside_N = (ids_N < 0) | (ids_N >= (self._firsts + self._sizes)[shards_N])
        if outside_N.any():
            raise ValueError(
                f"there is no sample {ids_N[outside_N][0]} in split {self.split} of {self.manifest.folder}: "
                f"it has samples {self._firsts[0]} to {self._firsts[-1] + self._sizes[-1] - 1}"
                + (
                    ", less those of shards that were dropped"
                    if self._firsts[-1] + self._sizes[-1] > self.samples
                    else ""
                )
            )
        return ids_N, shards_N

    def _shard(self, index: int) -> OpenShard:
        if index not in self._open:
            shard = OpenShard(self.manifest, self._shards[index], self._signatures.get(index))
            self._open[index], self._signatures[index] = shard, shard.signature
            if len(self._open) > self._open_shards:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index]


def plain(marked_NT1: np.ndarray, manifest: Manifest) -> np.ndarray:
    """The tokens of what `marked` gave, in the stored type."""
    return np.where(marked_NT1 < 0, ~marked_NT1, marked_NT1).astype(manifest.dtype) if manifest.masked else marked_NT1


def trimmed(marked_NT1: torch.Tensor | np.ndarray, manifest: Manifest) -> torch.Tensor:
    """What `marked` gave of a batch, [N, T1'] without the columns at its end that hold no target of any sample.

    A model that sees no token after the one it predicts says the same of the rest. Asked of tokens on the host, before
    they move to the device, so the device need not be waited for. Widths are multiples of WIDTH: what is compiled or
    kept in memory by shape comes in few shapes, and kernels like such numbers.
    """
    tokens = torch.as_tensor(marked_NT1)
    if manifest.packing == "concat":  # no padding
        return tokens
    if manifest.packing == "conversation":
        targets_T = (tokens[:, 1:] >= 0).any(0)
    else:
        targets_T = (tokens[:, :-1] != manifest.end_of_text).any(0)
    width = int(targets_T.nonzero().max()) + 1 if targets_T.any() else 1
    return tokens[:, : -(-width // WIDTH) * WIDTH + 1]


def inputs_and_targets(tokens_NT1: torch.Tensor | np.ndarray, manifest: Manifest) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of what `marked` gave, both int64 [N, T]; a target is the token after its input, or -1.

    Packings `document` and `conversation` pad, with <|endoftext|>. In `document` that token only ever ends a document,
    so whatever would be predicted from it is padding; the one that ends the document is itself predicted. In
    `conversation` the marks tell.
    """
    tokens = torch.as_tensor(tokens_NT1)
    if manifest.packing == "conversation":
        assert tokens.dtype.is_signed, "plain tokens do not tell which of them are targets"
        tokens = tokens.to(torch.int64)
        return torch.where(tokens < 0, ~tokens, tokens)[..., :-1].contiguous(), tokens[..., 1:].clamp(min=-1)
    tokens = tokens.to(torch.int64)
    inputs, targets = tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()
    if manifest.packing == "document":
        targets = targets.masked_fill(inputs == manifest.end_of_text, -1)
    return inputs, targets
