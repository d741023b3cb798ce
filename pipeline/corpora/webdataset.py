"""Documents from anybody's WebDataset shards, read by `webdataset` itself.

A record is the members of one name: its text is `.txt` or a field of `.json`, either of them perhaps in `.gz`. Shards
are files, or elsewhere: http(s), any place fsspec knows, and shell commands (`pipe:`) where they are allowed. They are
opened here and not by `webdataset`, which would run a shell command for http too.

A cut or damaged archive is an error. Python's `tarfile` takes it for a shorter, whole one.
"""

import gzip
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..dataset.remote import PIPE, Failed, arriving, is_remote
from .corpus import RECORD, Asked, Corpus
from .document import Document
from .files import expand
from .taken_up import taken_up

_ELSEWHERE = 200_000_000  # characters of a shard elsewhere, as a guess
_GZIP = b"\x1f\x8b"
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


def _read(asked: Asked) -> Iterator[Document]:
    return _documents(asked, _expand(asked))


def _documents(asked: Asked, shards: list[str]) -> Iterator[Document]:
    # Ids name a shard from the place that all shards share, so two of one name keep different ids.
    folders = [shard.rpartition("/")[0] + "/" for shard in shards]
    shared = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071 -- of addresses too
    for shard in shards:
        name = shard.removeprefix(shared + "/")
        source = re.sub(r"[-_.]?\d+$", "", Path(shard).name.split(".")[0]) or "webdataset"
        for record in _records(shard):
            where = f"{shard}, record {record['__key__']}"
            yield asked.fields.document(
                _content(record, where, asked.text_field), where, f"{name}:{record['__key__']}", source
            )


def _expand(asked: Asked) -> list[str]:
    """The shards that paths, globs, addresses and commands name, braces expanded, each once, sorted."""
    from webdataset.shardlists import expand_urls  # takes some seconds: it imports torch

    local, elsewhere = [], set()
    for pattern in asked.data_files:
        expanded = expand_urls(pattern)
        if pattern.startswith(PIPE) and not asked.pipe:
            raise ValueError(f"{pattern} would run a command: allow that with --pipe if you trust it")
        if is_remote(pattern):
            elsewhere.update(expanded)
        else:
            local += expanded
    if local or not elsewhere:
        elsewhere.update(os.path.abspath(path) for path in expand("webdataset", local))
    return sorted(elsewhere)


def _records(shard: str) -> Iterator[dict]:
    """The records of a shard. What comes from elsewhere is begun again where the connection is lost."""
    if not is_remote(shard):
        with open(shard, "rb") as file:
            yield from _grouped(shard, file)
        return

    def records_from(number: int) -> Iterator[dict]:
        return islice(_grouped(shard, io.BufferedReader(_Arriving(arriving(shard)))), number, None)

    yield from taken_up(shard, records_from, lambda error: isinstance(error, Failed))


def _grouped(shard: str, file: io.BufferedReader) -> Iterator[dict]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    unpacked = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
    archive = _Archive(unpacked)
    try:
        yield from group_by_keys(tar_file_expander([{"url": shard, "stream": archive}]))
        archive.finish()
    except (Failed, tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        # `webdataset` adds the stream and the shard to what an error says.
        said = getattr(error, "strerror", None) or str(error.args[0]).partition(" @ ")[0]
        raise Failed(said) if isinstance(error, Failed) else ValueError(f"{shard} cannot be read: {said}") from error


class _Arriving(io.RawIOBase):
    """Chunks of bytes as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._left = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        self._left = self._left or next(self._chunks, b"")
        n = min(len(into), len(self._left))
        into[:n], self._left = self._left[:n], self._left[n:]
        return n


class _Archive:
    """The bytes of a tar for whoever reads them, its headers checked as they pass."""

    def __init__(self, file: io.BufferedIOBase):
        self._file, self._header, self._content, self._at, self._ended = file, b"", 0, 0, False

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        position = 0
        while position < len(data) and not self._ended:
            if self._content:
                step = min(self._content, len(data) - position)
                self._content -= step
            else:
                step = min(tarfile.BLOCKSIZE - len(self._header), len(data) - position)
                self._header += data[position : position + step]
                if len(self._header) == tarfile.BLOCKSIZE:
                    self._check()
            position += step
        return data

    def _check(self):
        block, self._header = self._header, b""
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:
            self._ended = True
            return
        except tarfile.HeaderError:
            raise ValueError(f"it has a damaged header at byte {self._at}") from None
        if member.type not in _WITHOUT_DATA:
            self._content = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._at += tarfile.BLOCKSIZE + self._content

    def finish(self) -> None:
        """Read what is left: a checksum or an exit code may stand at its end. ValueError for a cut archive."""
        while self.read(1 << 16):
            pass
        if not self._ended:
            raise ValueError("it is cut: it has not the empty block that ends an archive")


def _content(record: dict, where: str, text_field: str) -> dict:
    """The fields of a record: those of its `.json`, and its `.txt` as the text."""
    members = [name for name in record if not name.startswith("__")]
    found = {kind: [name for name in members if _kind(name) == kind] for kind in ("txt", "json")}
    if not any(found.values()):
        raise ValueError(f"{where} has no .txt and no .json (it has {', '.join(members)})")
    for kind, names in found.items():
        if len(names) > 1:
            raise ValueError(f"{where} has more than one .{kind}: {', '.join(names)}")
    content = {}
    for name in found["json"]:
        try:
            content = json.loads(_text(record[name], name, where))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: .{name} is no JSON ({error})") from None
        if not isinstance(content, dict):
            raise ValueError(f"{where}: .{name} is no JSON object")
    for name in found["txt"]:
        content[text_field] = _text(record[name], name, where)
    return content


def _kind(member: str) -> str:
    return member.removesuffix(".gz").rpartition(".")[2]


def _text(data: bytes, member: str, where: str) -> str:
    try:
        return (gzip.decompress(data) if member.endswith(".gz") else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: .{member} cannot be read: {error}") from error


def _characters(asked: Asked) -> int:
    shards = _expand(asked)
    packed = (".gz", ".tgz")
    return sum(
        _ELSEWHERE if is_remote(shard) else os.path.getsize(shard) * (3 if shard.endswith(packed) else 1)
        for shard in shards
    )


# Shards are commonly mixed when they are made: their beginning is taken for a fair sample.
WEBDATASET = Corpus(_read, _characters, reads=("data_files", "pipe", *RECORD), mixed=True)
