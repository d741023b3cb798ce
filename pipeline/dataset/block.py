"""A block: up to SAMPLES neighbouring samples of a shard, as two files of its tar.

    <key>.tokens.npy    their tokens, an array [B, T+1]
    <key>.json          {"spans": [...]}, a list for each of the B samples, each on a line of its own

The key is the number of the first of them. Files of one sample each would take 2 KB of headers and padding a sample,
eight times its tokens at T = 128. What else is known of every token (a mask) would be another file of the same key.
"""

import json
import struct
from collections.abc import Sequence

import numpy as np

from .tar import member, room

SAMPLES = 64
FILES = ("tokens.npy", "json")
ARRAY_HEADER = 128  # bytes

_BEFORE, _BETWEEN, _AFTER = b'{"spans":[\n', b",\n", b"\n]}"


def file_names(first_sample: int) -> list[str]:
    """The names of the files of the block that begins with this sample."""
    return [f"{first_sample:09d}.{file}" for file in FILES]


def array_header(dtype: np.dtype, samples: int, width: int) -> bytes:
    """What the .npy file of an array [samples, width] begins with.

    Written here and not by numpy, whose spacing is another from version to version.
    """
    told = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({samples}, {width}), }}"
    text = told.ljust(ARRAY_HEADER - 11) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode("ascii")


def files(first_sample: int, tokens: Sequence[bytes], spans: Sequence[bytes], dtype: np.dtype) -> bytes:
    """The block's part of the tar, of samples with these tokens and spans (JSON texts without line ends)."""
    array = array_header(dtype, len(tokens), len(tokens[0]) // dtype.itemsize) + b"".join(tokens)
    text = _BEFORE + _BETWEEN.join(spans) + _AFTER
    return b"".join(map(member, file_names(first_sample), (array, text)))


def bytes_of(samples: int, token_bytes: int, span_bytes: int) -> int:
    """How many bytes `files` makes of so many samples with so many bytes of tokens and spans in all."""
    text = len(_BEFORE) + len(_BETWEEN) * (samples - 1) + span_bytes + len(_AFTER)
    return room(ARRAY_HEADER + token_bytes) + room(text)


def spans_of(text: bytes, place: int) -> list[dict]:
    """The spans of the sample at `place` of a block, from its .json; those of the others are not parsed."""
    return json.loads(text.split(b"\n")[1 + place].removesuffix(b","))
