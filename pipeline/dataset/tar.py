"""The small part of the tar format that shards use: plain files, fixed metadata, no compression.

Written here and not by `tarfile` for two reasons: a shard's bytes must depend on nothing but its content, and
the reader must find tens of thousands of members in a few milliseconds when a shard is opened.
"""

import struct
from dataclasses import dataclass

import numpy as np

BLOCK = 512
END = bytes(2 * BLOCK)

# POSIX ustar: name, mode, uid, gid, size, mtime, checksum, type, link name, magic, version, user, group,
# device numbers, name prefix, padding.
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_SIZE = slice(124, 135)
_CHECKSUM = slice(148, 156)
_CHECKSUM_DIGITS = slice(148, 154)
_TYPE = 156
_MAGIC = slice(257, 262)


def member(name: str, data: bytes) -> bytes:
    """The bytes of one file `name` with content `data`: header, data, padding to a whole block.

    mtime, uid and gid are 0 and the mode is 0644, so equal input gives equal bytes. `name` is ASCII, at most
    100 characters.
    """
    encoded = name.encode("ascii")
    assert len(encoded) <= 100, name
    fields = [
        encoded,
        b"0000644",
        b"0000000",
        b"0000000",
        b"%011o" % len(data),
        b"0" * 11,
        b" " * 8,
        b"0",
        b"",
    ]
    fields += [b"ustar", b"00", b"", b"", b"0000000", b"0000000", b""]
    fields[6] = b"%06o\0 " % sum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields) + data + bytes(-len(data) % BLOCK)


def room(size: int) -> int:
    """The bytes that `member` takes for so many bytes of content."""
    return BLOCK + size + (-size % BLOCK)


@dataclass(frozen=True)
class Members:
    """Where the M files of one archive lie: the bytes of file i are data[starts[i] : starts[i] + sizes[i]]."""

    names: np.ndarray  # [M] of bytes
    starts: np.ndarray  # [M] int64
    sizes: np.ndarray  # [M] int64


def scan(data) -> Members:
    """Find every member of the archive in `data` (an mmap or bytes) and check all headers.

    Raises ValueError, as the end of a sentence that begins with the archive's name, when the archive is cut,
    has bytes after its end, or holds anything but plain files with sound headers.
    """
    headers, sizes = _walk(data)
    starts_M = np.array(headers, dtype=np.int64) + BLOCK
    sizes_M = np.array(sizes, dtype=np.int64)
    if not headers:
        return Members(np.empty(0, dtype="S100"), starts_M, sizes_M)
    blocks = np.frombuffer(data, dtype=np.uint8).reshape(-1, BLOCK)
    headers_MB = blocks[starts_M // BLOCK - 1]
    digits = headers_MB[:, _CHECKSUM_DIGITS].astype(np.int64) - ord("0")
    stated_M = digits @ (8 ** np.arange(5, -1, -1))
    # The checksum is taken with its own field full of spaces.
    summed_M = headers_MB.sum(axis=1, dtype=np.int64) - headers_MB[:, _CHECKSUM].sum(axis=1, dtype=np.int64)
    sound_M = stated_M == summed_M + 8 * ord(" ")
    sound_M &= (headers_MB[:, _MAGIC] == np.frombuffer(b"ustar", dtype=np.uint8)).all(axis=1)
    sound_M &= headers_MB[:, _TYPE] == ord("0")
    if not sound_M.all():
        raise ValueError(f"has a damaged header at byte {headers[int(sound_M.argmin())]}")
    names_M = np.ascontiguousarray(headers_MB[:, :100]).view("S100")[:, 0]
    return Members(names_M, starts_M, sizes_M)


def _walk(data) -> tuple[list[int], list[int]]:
    """The byte positions of all headers and the sizes they state, up to the two empty blocks at the end."""
    headers, sizes = [], []
    position, end = 0, len(data)
    while position + BLOCK <= end and data[position] != 0:
        try:
            size = int(data[position + _SIZE.start : position + _SIZE.stop], 8)
        except ValueError:
            size = -1
        if size < 0:
            raise ValueError(f"has a damaged header at byte {position}")
        headers.append(position)
        sizes.append(size)
        position += room(size)
    if data[position:] != END:
        raise ValueError("does not end as a whole archive does: it is cut or has been written over")
    return headers, sizes
