"""Encode a corpus in parts, by several processes; what a run that was interrupted has finished is taken over.

A part is neighbouring documents, whole ones, of about PART characters. Its tokens are a file whose name says which
tokenizer made them of which text, so a file that is there need not be made again, and one made of anything else is
never taken. Text is cut into parts and parts come back in the order of the documents: how many processes there are
changes nothing.

`tokenizers` can encode on threads of its own. Here it has one thread in each process: the rest of the work, Python's,
does not run on threads, and N processes take N cores.
"""

import hashlib
import io
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Tokenizer

from ..atomic import write_whole
from ..corpora.document import Document
from ..interrupted import Interrupted
from ..processes import end_with_parent
from .documents import Encoded, Encoder, Tokens, batches
from .tokenizer import read_tokenizer

PART = 2_000_000  # characters
_SHA256 = 64
_THREADS = "TOKENIZERS_PARALLELISM"


class PartEncoder:
    """Makes the files of parts in `folder`. `tokenizer` is the text of a tokenizer.json."""

    def __init__(self, folder: Path, tokenizer: str):
        self._folder = folder
        self._made_by = hashlib.sha256(f"{tokenizers.__version__} {tokenizer}".encode()).digest()
        self._encoder = Encoder(read_tokenizer(tokenizer))

    def part(self, number: int, documents: list[Document]) -> tuple[Path, bool]:
        """Makes the file of part `number`, or finds it whole; which it is comes second."""
        digest = hashlib.sha256(self._made_by)
        for document in documents:
            text = document.text.encode()
            digest.update(b"%d " % len(text) + text)
            if document.loss is not None:  # its edges are those of tokens
                digest.update(repr(document.loss).encode())
            if document.templated:  # special tokens are found in it
                digest.update(b"templated")
        path = self._folder / f"{number:06d}-{digest.hexdigest()[:32]}.part"
        if path.exists() and _read(path) is not None:
            return path, True
        content = io.BytesIO()
        for array in self._encoder.encode(documents):
            np.save(content, array, allow_pickle=False)
        data = content.getvalue()
        write_whole(path, hashlib.sha256(data).hexdigest().encode() + data)
        return path, False

    def read(self, path: Path, documents: list[Document]) -> Iterator[Encoded]:
        """The documents of a part and their tokens."""
        tokens = _read(path)
        if tokens is None:
            raise Interrupted(f"{path} has changed since it was written: run the same command again")
        return self._encoder.encoded(documents, tokens)


def _read(path: Path) -> Tokens | None:
    """What a part's file holds; None if it is damaged."""
    data = path.read_bytes()
    if data[:_SHA256] != hashlib.sha256(data[_SHA256:]).hexdigest().encode():
        return None
    content = io.BytesIO(data[_SHA256:])
    return Tokens(*(np.load(content, allow_pickle=False) for _ in Tokens._fields))


def encode_documents(
    tokenizer: Tokenizer, documents: Iterable[Document], folder: Path, workers: int
) -> Iterator[Encoded]:
    """The documents, encoded, in their order. The parts stay in `folder`, which must be there.

    Raises Interrupted when a worker process dies.
    """
    content = tokenizer.to_str()
    encoder = PartEncoder(folder, content)
    parts = batches(documents, lambda document: len(document.text), PART)
    first = list(islice(parts, 2))
    several = workers > 1 and len(first) > 1  # to start a process takes longer than to encode one part
    taken = total = 0
    numbered = enumerate(chain(first, parts))
    made = _in_processes(folder, content, numbered, workers) if several else _here(encoder, numbered)
    with _one_thread(), closing(made):  # an error's traceback would keep the processes
        for path, found, part in made:
            yield from encoder.read(path, part)
            taken, total = taken + found, total + 1
    if taken:
        print(f"{taken} of {total} parts of the text were encoded by an earlier run", file=sys.stderr, flush=True)


_Made = Generator[tuple[Path, bool, list[Document]]]


def _here(encoder: PartEncoder, numbered: Iterable[tuple[int, list[Document]]]) -> _Made:
    for number, part in numbered:
        yield *encoder.part(number, part), part


def _in_processes(folder: Path, tokenizer: str, numbered: Iterable[tuple[int, list[Document]]], workers: int) -> _Made:
    # Not fork: `tokenizers` may have threads by now, whose locks a forked child would inherit locked.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (folder, tokenizer))
    waiting: deque[tuple[Future, list[Document]]] = deque()
    try:
        for number, part in numbered:
            with _deaf_to_interrupts():
                waiting.append((pool.submit(_part, number, part), part))
            if len(waiting) > 2 * workers:
                done, part = waiting.popleft()
                yield *done.result(), part
        for done, part in waiting:
            yield *done.result(), part
    except BrokenProcessPool:
        raise Interrupted(
            "a process that encodes was killed, by hand or for want of memory: run the same command again, with fewer "
            "--workers if it was memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile never hear of Ctrl-C, from their first moment on. It reaches all processes
    of a terminal, and the first one ends the others: here, when they have been started whole."""
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if heard:
        raise KeyboardInterrupt


def _begin(folder: Path, tokenizer: str) -> None:
    global _encoder
    end_with_parent()
    _encoder = PartEncoder(folder, tokenizer)


def _part(number: int, documents: list[Document]) -> tuple[Path, bool]:
    return _encoder.part(number, documents)


@contextmanager
def _one_thread() -> Iterator[None]:
    """`tokenizers` reads this at every call, and processes that are started meanwhile inherit it."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "false"
    try:
        yield
    finally:
        os.environ.pop(_THREADS) if before is None else os.environ.update({_THREADS: before})
