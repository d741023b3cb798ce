"""A block: up to SAMPLES neighbouring samples of a shard, as files of its tar.

    <key>.tokens.npy    their tokens, an array [B, T+1]
    <key>.mask.npy      in packing `conversation` alone: which of them are targets, uint8 [B, T+1], 1 or 0
    <key>.json          {"spans": [...]}, a list for each of the B samples, each on a line of its own

The key is the number of the first of them. Files of one sample each would take 2 KB of headers and padding a sample,
eight times its tokens at T = 128.
"""

import json
import struct
from collections.abc import Sequence

import numpy as np

from .tar import member, room

SAMPLES = 64
FILES = ("tokens.npy", "json")
MASKED_FILES = ("tokens.npy", "mask.npy", "json")
MASK = np.dtype("u1")
ARRAY_HEADER = 128  # bytes

_BEFORE, _BETWEEN, _AFTER = b'{"spans":[\n', b",\n", b"\n]}"


def file_names(first_sample: int, masked: bool = False) -> list[str]:
    """The names of the files of the block that begins with this sample."""
    return [f"{first_sample:09d}.{file}" for file in (MASKED_FILES if masked else FILES)]


def array_header(dtype: np.dtype, samples: int, width: int) -> bytes:
    """What the .npy file of an array [samples, width] begins with.

    Written here and not by numpy, whose spacing is another from version to version.
    """
    told = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({samples}, {width}), }}"
    text = told.ljust(ARRAY_HEADER - 11) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode("ascii")


def files(
    first_sample: int, tokens: Sequence[bytes], spans: Sequence[bytes], dtype: np.dtype, masks: Sequence[bytes] = ()
) -> bytes:
    """The block's part of the tar, of samples with these tokens, spans (JSON texts without line ends) and masks."""
    contents = [_array(dtype, tokens), *([_array(MASK, masks)] if masks else [])]
    contents.append(_BEFORE + _BETWEEN.join(spans) + _AFTER)
    return b"".join(map(member, file_names(first_sample, bool(masks)), contents))


def _array(dtype: np.dtype, rows: Sequence[bytes]) -> bytes:
    return array_header(dtype, len(rows), len(rows[0]) // dtype.itemsize) + b"".join(rows)


def bytes_of(samples: int, token_bytes: int, span_bytes: int, mask_bytes: int = 0) -> int:
    """How many bytes `files` makes of so many samples with so many bytes of tokens, spans and masks in all."""
    text = len(_BEFORE) + len(_BETWEEN) * (samples - 1) + span_bytes + len(_AFTER)
    mask = room(ARRAY_HEADER + mask_bytes) if mask_bytes else 0
    return room(ARRAY_HEADER + token_bytes) + mask + room(text)


def spans_of(text: bytes, place: int) -> list[dict]:
    """The spans of the sample at `place` of a block, from its .json; those of the others are not parsed."""
    return json.loads(text.split(b"\n")[1 + place].removesuffix(b","))
