"""Read a dataset folder: the manifest, and any sample of any split by its number.

A dataset folder holds `tokenizer.json`, tar shards (`train-000000.tar`, ...) and `manifest.json`, which is
written last. Sample number i of a split is two members of one of its shards: `<i>.tokens.npy` and `<i>.json`.
A manifest without a broken shard (`prepare verify --drop`) leaves a gap in the numbers: a sample keeps its number.

Nothing here can run code that a dataset brings: shards are mapped and compared, never unpacked, names come from the
manifest and must be ours, and arrays are read without pickle.
Shape suffixes: N samples, T1 = T + 1 tokens (T inputs and, one to the right, T targets).
"""

import hashlib
import io
import json
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.remote import Mirror
from pipeline.splits import SPLITS
from pipeline.tar import scan

FORMAT = 1
PACKINGS = ("concat", "document")
DTYPES = ("uint16", "uint32")
KEY = "{:09d}"
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
class Span:
    """A stretch of a sample: the characters [first, last) of the text of `document`."""

    document: str
    source: str
    first: int
    last: int


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. `sha256` is that of its bytes and stands for the whole dataset.

    `mirror` is where the shards come from when they are not in `folder`, which then is a local cache of them.
    """

    folder: Path
    sha256: str
    corpus: str
    sequence_length: int
    packing: str
    dtype: np.dtype
    vocab_size: int
    end_of_text: int
    tokenizer_sha256: str
    split_rule: dict
    shards: dict[str, list[Shard]]
    sources: dict[str, dict[str, dict[str, int]]]  # split -> source -> {"documents", "tokens"}
    dropped_tokens: dict[str, int]
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
            corpus=told["corpus"],
            sequence_length=told["sequence_length"],
            packing=told["packing"],
            dtype=np.dtype(told["dtype"]).newbyteorder("<"),
            vocab_size=told["tokenizer"]["vocab_size"],
            end_of_text=told["tokenizer"]["end_of_text"],
            tokenizer_sha256=told["tokenizer"]["sha256"],
            split_rule=told["split_rule"],
            shards=shards,
            sources={split: part["sources"] for split, part in splits.items()},
            dropped_tokens={split: part["dropped_tokens"] for split, part in splits.items()},
            mirror=mirror,
        )

    def _check_tokenizer(self):
        path = self.folder / "tokenizer.json"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != self.tokenizer_sha256:
            raise ValueError(
                f"{path} is not the tokenizer that the shards were made with (its sha256 differs from "
                "manifest.json's): put the right file back or prepare the dataset again"
            )

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


class OpenShard:
    """One shard, mapped into memory, its members found and compared with the manifest.

    Raises ValueError naming the shard when it is missing, cut, damaged or not the one of the manifest. The bytes are
    compared with the manifest's sha256, unless this is still the file that `trusted` is the signature of.
    """

    def __init__(self, manifest: Manifest, shard: Shard, trusted: tuple | None = None):
        self.manifest = manifest
        self.path = manifest.folder / shard.name
        self.width = manifest.sequence_length + 1
        self.dtype = manifest.dtype
        with self._open(shard) as file:
            found = os.fstat(file.fileno())
            self.signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if found.st_size != shard.bytes:
                raise self._error(f"has {found.st_size} bytes where the manifest says {shard.bytes}")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            members = scan(self.data)
        except ValueError as error:
            raise self._error(str(error)) from None
        if len(members.names) != 2 * shard.samples:
            raise self._error(f"has {len(members.names) // 2} samples where the manifest says {shard.samples}")
        keys = [KEY.format(shard.first_sample + i) for i in range(shard.samples)]
        expected = [name.encode() for key in keys for name in (f"{key}.tokens.npy", f"{key}.json")]
        if (members.names != np.array(expected, dtype="S100")).any():
            raise self._error("holds other samples than the manifest says")
        self._text_starts, self._text_sizes = members.starts[1::2], members.sizes[1::2]
        self._token_starts = self._check_arrays(members.starts[::2], members.sizes[::2])
        # After the cheaper checks, which say more precisely what is wrong. 64 MB take 40 ms.
        if self.signature != trusted and hashlib.sha256(self.data).hexdigest() != shard.sha256:
            raise self._error("has other bytes than it was written with (its sha256 differs)")

    def _open(self, shard: Shard) -> io.BufferedReader:
        mirror = self.manifest.mirror
        if mirror:
            return mirror.shard(self.manifest.folder, shard.name, shard.bytes, shard.sha256)
        try:
            return open(self.path, "rb")
        except FileNotFoundError:
            raise self._error("is missing") from None
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error

    def _error(self, what: str) -> ValueError:
        if self.manifest.mirror:
            return ValueError(
                f"shard {self.path}, a copy from {self.manifest.mirror}, {what}: remove it and it is fetched again"
            )
        return ValueError(
            f"shard {self.path} {what}: restore it or prepare the dataset again; 'python -m scripts.prepare verify "
            f"{self.path.parent}' checks every shard, and with --drop goes on without the broken ones"
        )

    def _check_arrays(self, starts_N, sizes_N) -> np.ndarray:
        """Every tokens.npy must begin with the same header, of the right type and shape. Returns where their
        tokens begin, [N] int64."""
        file = io.BytesIO(self.data[starts_N[0] : starts_N[0] + sizes_N[0]])
        try:
            first = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError:
            raise self._error("holds something else than arrays of tokens") from None
        if first.shape != (self.width,) or first.dtype != self.dtype:
            raise self._error(f"holds {first.dtype} {first.shape}, not {self.dtype} ({self.width},)")
        header = int(sizes_N[0]) - first.nbytes
        blocks = np.frombuffer(self.data, dtype=np.uint8).reshape(-1, 512)
        headers = blocks[:, :header][starts_N // 512]
        if (sizes_N != sizes_N[0]).any() or (headers != headers[0]).any():
            raise self._error("holds token arrays of different types or lengths")
        return starts_N + header

    def tokens(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the tokens of the samples at `rows` (numbered within this shard) into `out` [N, T+1]."""
        for row, start in enumerate(self._token_starts[rows].tolist()):
            out[row] = np.frombuffer(self.data, self.dtype, self.width, start)

    def spans(self, row: int) -> list[Span]:
        start, size = int(self._text_starts[row]), int(self._text_sizes[row])
        return [Span(**span) for span in json.loads(self.data[start : start + size])["spans"]]


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
        ids_N, shards_N = self._placed(sample_ids)
        tokens_NT1 = np.empty((len(ids_N), self.manifest.sequence_length + 1), dtype=self.manifest.dtype)
        # Shard by shard and, within one, from front to back, whatever the order asked for: each shard is
        # opened once, and the disk is read forwards.
        order = np.argsort(ids_N, kind="stable")
        edges = np.flatnonzero(np.diff(shards_N[order])) + 1
        for places in np.split(order, edges) if len(order) else ():
            index = int(shards_N[places[0]])
            part = np.empty((len(places), tokens_NT1.shape[1]), dtype=tokens_NT1.dtype)
            self._shard(index).tokens(ids_N[places] - self._firsts[index], part)
            tokens_NT1[places] = part
        return tokens_NT1

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


def inputs_and_targets(tokens_NT1: torch.Tensor | np.ndarray, manifest: Manifest) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, both int64 [N, T]; a target is the token after its input, or -1 on padding.

    Only packing `document` pads, with <|endoftext|>. In it that token only ever ends a document, so whatever
    would be predicted from it is padding; the one that ends the document is itself predicted.
    """
    tokens = torch.as_tensor(tokens_NT1).to(torch.int64)
    inputs, targets = tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()
    if manifest.packing == "document":
        targets = targets.masked_fill(inputs == manifest.end_of_text, -1)
    return inputs, targets
