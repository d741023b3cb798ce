"""What preparing a dataset costs, beside the tokenizer alone, `datasets.map` and nanoGPT's way.

    python -m scripts.bench prepare --text corpus.jsonl.gz

The documents of the file (JSON Lines with a field `text`) are repeated up to --megabytes, each time turned at another
place. Every way encodes them with the same tokenizer, of --vocab-size, that learnt from the file. The ways take turns,
each time in a fresh process; the figures are medians over the rounds, with the least and the most. MB/s is by the
clock, from the file to what the way writes; MB a core-second is by the CPU time of all its processes, and holds on a
machine that others use too. Memory is that of all processes, without the pages of mapped files.

The tables after it: memory at a sixteenth, a quarter and all of the text; bytes on the disk for a byte of tokens.
"""

import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer

from pipeline.corpora.document import Document
from pipeline.dataset.manifest import Manifest
from pipeline.encoding.documents import BATCH, batches
from pipeline.encoding.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer
from pipeline.mixture.registry import read_corpus
from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe

PARTS_OF_TEXT = (16, 4, 1)  # one over the share of the text that memory is told of
LENGTHS = (128, 256, 1024)


@dataclass(frozen=True)
class PrepareOptions:
    text: Path
    """JSON Lines with the field text (.gz too): what is encoded."""
    megabytes: float = 200.0
    """Text that it is repeated to."""
    seq_len: int = 1024
    """T."""
    vocab_size: int = 8192
    """Of the tokenizer, which learns from the file."""
    rounds: int = 3
    """Measurements of each way."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of processes."""


def write_text(documents: list[Document], path: Path, megabytes: float) -> None:
    size, turn = 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            for document in documents:
                text = document.text
                at = random.Random(f"{turn} {document.id}").randrange(len(text)) if turn else 0
                file.write(json.dumps({"text": text[at:] + text[:at]}, ensure_ascii=False) + "\n")
                size += len(text.encode())
                if size >= megabytes * 1e6:
                    break
            turn += 1


def _texts(folder: Path, part: int) -> Path:
    return folder / f"text-{part}.jsonl"


def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder / "tokenizer.json")


def _alone(folder: Path, out: Path, processes: int, seq_len: int) -> None:
    tokenizer = _tokenizer(folder)
    with open(_texts(folder, 1), encoding="utf-8") as lines:
        for batch in batches((json.loads(line)["text"] for line in lines), len, BATCH):
            tokenizer.encode_batch(batch, add_special_tokens=False)


def _ours(folder: Path, out: Path, processes: int, seq_len: int, part: int = 1) -> None:
    recipe = {"data_files": (str(_texts(folder, part)),), "tokenizer": str(folder / "tokenizer.json")}
    prepare(Recipe(corpus="json", out=out, seq_len=seq_len, workers=processes, **recipe))


def _load(folder: Path, out: Path):
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset("json", data_files=str(_texts(folder, 1)), split="train", cache_dir=str(out))


def _map(folder: Path, out: Path, processes: int, seq_len: int):
    tokenizer, dataset = _tokenizer(folder), _load(folder, out)
    size = max(BATCH * len(dataset) // _texts(folder, 1).stat().st_size, 1)

    def encode(texts: list[str]) -> dict:
        return {"ids": [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]}

    return dataset.map(
        encode, batched=True, batch_size=size, num_proc=processes, input_columns="text", remove_columns=["text"]
    )


def _nanogpt(folder: Path, out: Path, processes: int, seq_len: int) -> None:
    """Its data/openwebtext/prepare.py: a document at a time, then all into one array of uint16."""
    tokenizer, dataset = _tokenizer(folder), _load(folder, out)
    end = tokenizer.token_to_id(END_OF_TEXT)

    def encode(text: str) -> dict:
        ids = [*tokenizer.encode(text, add_special_tokens=False).ids, end]
        return {"ids": ids, "len": len(ids)}

    encoded = dataset.map(encode, num_proc=processes, input_columns="text", remove_columns=["text"])
    tokens = np.memmap(out / "train.bin", dtype=np.uint16, mode="w+", shape=(int(np.sum(encoded["len"])),))
    at, shards = 0, min(1024, len(encoded))
    for index in range(shards):
        ids = np.concatenate(encoded.shard(shards, index, contiguous=True).with_format("numpy")["ids"])
        tokens[at : at + len(ids)] = ids
        at += len(ids)
    tokens.flush()


WAYS: dict[str, Callable] = {"prepare": _ours, "datasets.map": _map, "nanoGPT's way": _nanogpt}


def _own_bytes(process: str) -> int:
    """Memory of a process and of all that it started; pages of mapped files are the system's to take back."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        children = " ".join(path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")).split()
    except OSError:
        return 0  # it has ended
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return own + sum(map(_own_bytes, children))


@contextmanager
def _watching_memory(most: list[int]) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            most.append(_own_bytes("self"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure(way: Callable, folder: Path, processes: int, *more: int) -> dict[str, float]:
    """Seconds, core-seconds and memory in MB of one way, with `tokenizers` on one thread a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    out = folder / "out"
    if way in (_map, _nanogpt):
        import datasets  # noqa: F401 -- our own imports are not in the time either

        out.mkdir()
    most: list[int] = [_own_bytes("self")]
    with _watching_memory(most):
        began, before = time.perf_counter(), sum(os.times()[:4])
        way(folder, out, processes, *more)
        told = {"seconds": time.perf_counter() - began, "cores": sum(os.times()[:4]) - before}
    shutil.rmtree(out, ignore_errors=True)
    return told | {"memory": max(most) / 1e6}


def alone(function, *arguments):
    """The function's result, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def spread(values: list[float], digits: int = 0) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def speed(folder: Path, options: PrepareOptions, console: Console) -> None:
    ways = [("tokenizer alone", _alone, 1), *((name, way, n) for n in options.workers for name, way in WAYS.items())]
    measured: dict[tuple[str, int], list] = {}
    turns = [way for _ in range(options.rounds) for way in ways]
    for name, way, processes in track(turns, "measuring", console=console, transient=True):
        told = alone(measure, way, folder, processes, options.seq_len)
        measured.setdefault((name, processes), []).append(told)
    size = _size(folder, 1)
    plain = [size / one["cores"] for one in measured["tokenizer alone", 1]]
    columns = ("way", "processes", "MB/s", "MB a core-second", "of the tokenizer's", "memory, MB")
    table = Table(*columns, title=f"{size:.0f} MB of text, T = {options.seq_len}: median (least-most)")
    for (name, processes), found in measured.items():
        rates = [size / one["cores"] for one in found]
        cells = [spread([size / one["seconds"] for one in found], 2), spread(rates, 2)]
        cells += [f"{median(rates) / median(plain):.2f}x", spread([one["memory"] for one in found])]
        table.add_row(name, str(processes), *cells)
    console.print(table)


def memory(folder: Path, options: PrepareOptions, console: Console) -> None:
    table = Table("text, MB", *(f"MB of {n} processes" if n > 1 else "MB of 1 process" for n in options.workers))
    for part in PARTS_OF_TEXT:
        told = [alone(measure, _ours, folder, n, options.seq_len, part)["memory"] for n in options.workers]
        table.add_row(f"{_size(folder, part):.1f}", *(f"{most:.0f}" for most in told))
    console.print(table)


def disk(folder: Path, options: PrepareOptions, console: Console) -> None:
    table = Table("T", "bytes on the disk a byte of tokens")
    for seq_len in LENGTHS:
        _ours(folder, folder / "out", max(options.workers), seq_len, PARTS_OF_TEXT[0])
        manifest = Manifest.load(folder / "out")
        tokens = manifest.samples("train") * (seq_len + 1) * manifest.dtype.itemsize
        table.add_row(str(seq_len), f"{sum(shard.bytes for shard in manifest.shards['train']) / tokens:.2f}")
        shutil.rmtree(folder / "out")
    console.print(table)


def _size(folder: Path, part: int) -> float:
    """MB of text, without the JSON around it."""
    with open(_texts(folder, part), encoding="utf-8") as lines:
        return sum(len(json.loads(line)["text"].encode()) for line in lines) / 1e6


def main(arguments: list[str]) -> int:
    console = Console(width=120)
    options = tyro.cli(PrepareOptions, args=arguments, prog="scripts.bench prepare", description=__doc__)
    documents = [document for document in read_corpus("json", data_files=(str(options.text),)) if document.text]
    if not documents:
        raise ValueError(f"{options.text} holds no document")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer((document.text for document in documents), options.vocab_size)
        tokenizer.save(str(Path(folder) / "tokenizer.json"))
        for part in PARTS_OF_TEXT:
            write_text(documents, _texts(Path(folder), part), options.megabytes / part)
        speed(Path(folder), options, console)
        memory(Path(folder), options, console)
        disk(Path(folder), options, console)
    return 0
