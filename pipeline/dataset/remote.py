"""Datasets that are not on this disk, through a bounded local cache that all ranks of a node share.

A dataset's place is one of

    https://host/data                 http(s), read with the standard library
    s3://bucket/data                  any other scheme, through fsspec (and its package for that scheme, as s3fs)
    pipe:aws s3 cp s3://b/data/{} -   a shell command that writes file {} to its output; only where it is allowed

What arrives is compared with the manifest's checksum before it gets its name, so a file in the cache is always whole:
a crash leaves at most a `.partial`, which the next fetch writes anew. A lock on each shard makes two ranks fetch it
once; the operating system frees it when its holder dies.
"""

import fcntl
import hashlib
import http.client
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_whole

ATTEMPTS = 6
FIRST_PAUSE = 0.5  # seconds before the second attempt, twice as long before each further one: 15.5 s in all
STALL = 30.0  # seconds without a byte after which an attempt is given up
_CHUNK = 1 << 20
_TOLD_EVERY = 10.0  # seconds between progress lines of one file
_LATER = (408, 425, 429)  # HTTP answers under 500 that another attempt may change
PIPE = "pipe:"


def is_remote(place: str) -> bool:
    """Whether `place` names a dataset elsewhere rather than a folder."""
    return place.startswith(PIPE) or re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


class Failed(Exception):
    """An attempt that failed for a reason which may pass."""


@dataclass(frozen=True)
class Mirror:
    """A dataset elsewhere and the local folder `cache` that its files pass through.

    `limit`: bytes of shards the cache may hold, over all datasets; least recently opened ones go first. A shard that
    is removed while a process reads it stays readable there, and its space is freed when that process closes it.
    `pipe`: whether `place` may be a shell command.
    """

    place: str
    cache: Path
    limit: int
    pipe: bool = False

    def __post_init__(self):
        if self.place.startswith(PIPE) and not self.pipe:
            raise ValueError(f"{self.place} would run a command: allow that with --data.pipe if you trust it")
        if self.place.startswith(PIPE) and "{}" not in self.place:
            raise ValueError(f"{self.place} must have {{}} where the name of the file goes")
        if self.limit < 1:
            raise ValueError(f"the cache of {self.place} may hold {self.limit} bytes; it must be at least 1")

    def __str__(self) -> str:
        return self.place

    def open(self) -> Path:
        """Fetches manifest and tokenizer; returns the folder of the cache that holds them, for this manifest alone."""
        manifest = self._read("manifest.json")
        folder = self.cache / hashlib.sha256(manifest).hexdigest()[:16]
        try:
            expected = json.loads(manifest)["tokenizer"]["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.place} holds a manifest.json that is none of ours ({error!r})") from error
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
        with self._writing(), _locked(folder / ".tokenizer.json.lock"):
            path = folder / "tokenizer.json"
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                write_whole(path, self._read("tokenizer.json"))
            write_whole(folder / "manifest.json", manifest)
        return folder

    def shard(self, folder: Path, name: str, size: int, sha256: str) -> io.BufferedReader:
        """The shard as an open file, from `folder` of the cache or fetched into it. ValueError where it cannot be had.

        size: its bytes. A file that another process has fetched is opened and not fetched again.
        """
        if size > self.limit:
            raise ValueError(
                f"{name} of {self.place} has {size} bytes, more than the cache {self.cache} may hold ({self.limit}): "
                "raise data.cache_gb"
            )
        path = folder / name
        with self._writing(), _locked(folder / f".{name}.lock"):
            try:
                file = open(path, "rb")  # noqa: SIM115 -- handed to the caller
            except FileNotFoundError:
                self._fetch(path, size, sha256)
                file = open(path, "rb")  # noqa: SIM115 -- nobody removes it while we hold its lock
            os.utime(path)  # opened last, removed last
            return file

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(f"the cache {self.cache} of {self.place} cannot be used: {error}") from error

    def _fetch(self, path: Path, size: int, sha256: str) -> None:
        partial = path.with_name(f".{path.name}.partial")
        self._reserve(partial, size)
        try:
            self._persist(path.name, lambda: self._download(path.name, partial, size, sha256))
        except BaseException:
            with _locked(self.cache / ".lock"):
                partial.unlink(missing_ok=True)
            raise
        with _locked(self.cache / ".lock"):  # nobody counts the files in the middle of this
            os.replace(partial, path)

    def _download(self, name: str, partial: Path, size: int, sha256: str) -> None:
        """One attempt at writing a shard to `partial`; Failed when what comes is not what it should be."""
        digest, arrived = hashlib.sha256(), 0
        started = told = time.monotonic()
        with open(partial, "r+b") as file, closing(self._bytes(name)) as chunks:
            for chunk in chunks:
                arrived += len(chunk)
                if arrived > size:
                    raise Failed(f"it has more than the {size} bytes that the manifest says")
                file.write(chunk)
                digest.update(chunk)
                if time.monotonic() - told > _TOLD_EVERY:
                    told = time.monotonic()
                    rate = arrived / 1e6 / (told - started)
                    _tell(f"{name}: {arrived / 1e6:.0f} of {size / 1e6:.0f} MB, {rate:.1f} MB/s")
            if arrived < size:
                raise Failed(f"it ended after {arrived} of {size} bytes")
            if digest.hexdigest() != sha256:
                raise Failed("its sha256 is not the one in the manifest")
            file.flush()
            os.fsync(file.fileno())
        seconds = max(time.monotonic() - started, 1e-9)
        _tell(f"{name}: {size / 1e6:.1f} MB in {seconds:.1f} s, {size / 1e6 / seconds:.1f} MB/s")

    def _read(self, name: str) -> bytes:
        """A small file, whole."""

        def attempt() -> bytes:
            with closing(self._bytes(name)) as chunks:
                return b"".join(chunks)

        return self._persist(name, attempt)

    def _persist(self, name: str, attempt: Callable[[], Any]) -> Any:
        """What `attempt` returns, tried again after growing pauses while it raises Failed; then ValueError."""
        pause = FIRST_PAUSE
        for number in range(2, ATTEMPTS + 1):
            try:
                return attempt()
            except Failed as error:
                _tell(f"{name}: {error}; attempt {number} of {ATTEMPTS} in {pause:.1f} s")
            time.sleep(pause)
            pause *= 2
        try:
            return attempt()
        except Failed as error:
            raise ValueError(
                f"{name} of {self.place} cannot be had: {error} (attempt {ATTEMPTS}); mend that and resume"
            ) from None

    def _reserve(self, partial: Path, size: int) -> None:
        """Makes `partial` at its full size, so that it counts, once there is room for it under the limit."""
        while True:
            with _locked(self.cache / ".lock"):
                partial.unlink(missing_ok=True)  # of a process that died
                if self._make_room(size):
                    with open(partial, "wb") as file:
                        file.truncate(size)
                    return
            time.sleep(0.2)  # other ranks are fetching as much as the cache holds: they will be done

    def _make_room(self, size: int) -> bool:
        """Removes what was opened longest ago until `size` more bytes fit; False when what is left is in use."""
        files = [(path, path.stat()) for pattern in ("*/*.tar", "*/.*.partial") for path in self.cache.glob(pattern)]
        held = sum(found.st_size for _, found in files)
        for path, found in sorted(files, key=lambda file: file[1].st_mtime):
            if held + size <= self.limit:
                break
            name = path.name.removeprefix(".").removesuffix(".partial")
            with _locked(path.with_name(f".{name}.lock"), wait=False) as free:
                if free:
                    path.unlink()
                    held -= found.st_size
        return held + size <= self.limit

    def _bytes(self, name: str) -> Iterator[bytes]:
        pipe = self.place.startswith(PIPE)
        return arriving(self.place.replace("{}", name) if pipe else f"{self.place.rstrip('/')}/{name}")


def arriving(place: str) -> Iterator[bytes]:
    """The bytes of a file elsewhere; `pipe:` runs its command. Failed where another attempt may help, or ValueError."""
    if place.startswith(PIPE):
        return _from_command(place.removeprefix(PIPE))
    return _from_http(place) if place.startswith(("http://", "https://")) else _from_fsspec(place)


def _from_http(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=STALL) as answer:
            while chunk := answer.read(_CHUNK):
                yield chunk
            if answer.length:  # http.client says nothing when a body ends early
                raise Failed(f"the connection ended {answer.length} bytes early")
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in _LATER:
            raise ValueError(f"{url} cannot be had: {error.code} {error.reason}") from None
        raise Failed(f"the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{getattr(error, 'reason', None) or error or type(error).__name__}") from None


def _from_fsspec(url: str) -> Iterator[bytes]:
    import fsspec  # takes a moment, and only these places need it

    try:
        with fsspec.open(url, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (ImportError, ValueError, FileNotFoundError, PermissionError) as error:
        raise ValueError(f"{url} cannot be had: {error}") from error
    except OSError as error:
        raise Failed(str(error)) from None


def _from_command(command: str) -> Iterator[bytes]:
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True)
    try:
        while True:
            if not select.select([process.stdout], [], [], STALL)[0]:
                raise Failed(f"no byte for {STALL:g} s from: {command}")
            chunk = os.read(process.stdout.fileno(), _CHUNK)
            if not chunk:
                break
            yield chunk
        if code := process.wait():
            raise Failed(f"exit code {code} of: {command}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the shell and what it started
        process.wait()
        process.stdout.close()


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock file `path`, for other processes and threads; False without it where `wait` is not asked for."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
