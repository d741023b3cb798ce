"""The manifest of a dataset folder: what stands in manifest.json, and whether it is ours.

A dataset folder holds `tokenizer.json`, tar shards (`train-000000.tar`, ...) and `manifest.json`, which is
written last. A manifest without a broken shard (`prepare verify --drop`) leaves a gap in the numbers: a sample keeps
its number.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .remote import Mirror

FORMAT = 3
SPLITS = ("train", "target", "val", "test")
HELD_OUT = SPLITS[1:]
PACKINGS = ("concat", "document", "conversation")
DTYPES = ("uint16", "uint32")
_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-[0-9]{{6,}}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One tar file of a split; `first_sample` is the number of its first sample, `tokens` counts targets."""

    name: str
    samples: int
    tokens: int
    bytes: int
    sha256: str
    first_sample: int


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. `sha256` is that of its bytes and stands for the whole dataset.

    `mirror` is where the shards come from when they are not in `folder`, which then is a local cache of them.
    """

    folder: Path
    sha256: str
    corpora: list[dict]  # what it is made of, and what was taken of each: {"documents", "tokens"}
    sequence_length: int
    packing: str
    dtype: np.dtype
    vocab_size: int
    end_of_text: int
    tokenizer_sha256: str
    split_rule: dict
    duplicates: dict  # what was done about them, and how many there were
    shards: dict[str, list[Shard]]
    sources: dict[str, dict[str, dict[str, int]]]  # split -> source -> {"documents", "tokens"}
    dropped_tokens: dict[str, int]
    document_tokens: dict[str, list[int]]  # split -> at i: documents of 2**i to 2**(i + 1) - 1 tokens
    conversations: dict[str, dict[str, int]]  # split -> how many were {"truncated", "dropped"}, in their packing
    mirror: Mirror | None = None

    @classmethod
    def load(cls, dataset: str | Path | Mirror) -> "Manifest":
        """Read the manifest.json of a folder, or of a dataset elsewhere, and check the tokenizer beside it.

        Raises ValueError when there is none, when it is not one of ours, or when tokenizer.json is not the
        tokenizer that the shards were made with.
        """
        mirror = dataset if isinstance(dataset, Mirror) else None
        folder = mirror.open() if mirror else Path(dataset)
        path = folder / "manifest.json"
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no manifest.json, so it is no finished dataset: make one with "
                f"'python -m scripts.prepare --corpus ... --out {folder}'"
            )
        content = path.read_bytes()
        try:
            manifest = cls._parse(folder, mirror, content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read as a manifest of format {FORMAT} ({error}): prepare the dataset again"
            ) from error
        manifest._check_tokenizer()
        return manifest

    @classmethod
    def _parse(cls, folder: Path, mirror: Mirror | None, content: bytes) -> "Manifest":
        told = json.loads(content)
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}")
        if told["packing"] not in PACKINGS:
            raise ValueError(f"its packing is {told['packing']}")
        if told["dtype"] not in DTYPES:
            raise ValueError(f"its tokens are of type {told['dtype']}")
        splits = {split: told["splits"][split] for split in SPLITS}
        shards = {split: [Shard(**shard) for shard in part["shards"]] for split, part in splits.items()}
        for split, listed in shards.items():
            first = 0
            for shard in listed:
                # A name is joined to the folder's path: nothing but our own names may come through here.
                if not _SHARD_NAME.fullmatch(shard.name) or not shard.name.startswith(split):
                    raise ValueError(f"shard name {shard.name!r}")
                if not _SHA256.fullmatch(shard.sha256):
                    raise ValueError(f"the sha256 of shard {shard.name}")
                gap = shard.first_sample > first and told.get("dropped_shards")
                if (shard.first_sample != first and not gap) or shard.samples < 1:
                    raise ValueError(f"the sample numbers of shard {shard.name}")
                first = shard.first_sample + shard.samples
        return cls(
            folder=folder,
            sha256=hashlib.sha256(content).hexdigest(),
            corpora=told["corpora"],
            sequence_length=told["sequence_length"],
            packing=told["packing"],
            dtype=np.dtype(told["dtype"]).newbyteorder("<"),
            vocab_size=told["tokenizer"]["vocab_size"],
            end_of_text=told["tokenizer"]["end_of_text"],
            tokenizer_sha256=told["tokenizer"]["sha256"],
            split_rule=told["split_rule"],
            duplicates=told["duplicates"],
            shards=shards,
            sources={split: part["sources"] for split, part in splits.items()},
            dropped_tokens={split: part["dropped_tokens"] for split, part in splits.items()},
            document_tokens={split: part.get("document_tokens", []) for split, part in splits.items()},
            conversations={split: part.get("conversations", {}) for split, part in splits.items()},
            mirror=mirror,
        )

    def _check_tokenizer(self):
        path = self.folder / "tokenizer.json"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != self.tokenizer_sha256:
            raise ValueError(
                f"{path} is not the tokenizer that the shards were made with (its sha256 differs from "
                "manifest.json's): put the right file back or prepare the dataset again"
            )

    @property
    def masked(self) -> bool:
        """Whether a mask beside the tokens says which of them are targets."""
        return self.packing == "conversation"

    def samples(self, split: str) -> int:
        """How many samples `split` holds."""
        return sum(shard.samples for shard in self.shards[split])

    def sample_ids(self, split: str, places: np.ndarray) -> np.ndarray:
        """The numbers of the samples at these places of the split, counted from 0 without gaps: int64 [N]."""
        sizes = np.array([shard.samples for shard in self.shards[split]])
        begins = np.cumsum(sizes) - sizes
        firsts = np.array([shard.first_sample for shard in self.shards[split]])
        shards_N = np.searchsorted(begins, places, side="right") - 1
        return (firsts - begins)[shards_N] + places
