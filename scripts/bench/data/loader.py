"""What reading the data costs, beside plain webdataset, mosaicml-streaming and nanoGPT's memory map.

    python -m scripts.bench loader
    python -m scripts.bench loader --run runs/demo      # and the share of that run's time spent waiting for data

Every loader reads the same samples of T + 1 tokens from this disk (its cache, after the first round) and gives batches
of 16 as int64. The loaders take turns, each time in a fresh process; the figures are medians over the rounds, with the
least and the most. mosaicml-streaming takes part when it is installed.

The first batch of a large dataset: its manifest lists 10,000 shards of 64 MB, and those are on the disk that the first
batch, or the first after a resume in mid-epoch, reads. The time runs from the manifest to the batch.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from pipeline.dataset import block
from pipeline.dataset.manifest import FORMAT, SPLITS, Shard
from pipeline.prepare.writer import Sample, ShardWriter
from pipeline.stream.candidates import WINDOW, CandidateStream
from pipeline.stream.order import EpochOrder
from scripts.bench.data.prepare import alone, spread
from scripts.train.record import read_run

BATCH, GROUPS = 16, 2
SHARD_BYTES = 64_000_000
SHARDS = 10_000
VOCABULARY = 50_257


@dataclass(frozen=True)
class LoaderOptions:
    seq_len: int = 1024
    """T."""
    samples: int = 40_000
    """Samples of the dataset that throughput is measured on."""
    seconds: float = 2.0
    """Of one measurement."""
    rounds: int = 5
    """Measurements of each loader."""
    workers: int = 2
    """Processes in the second half of the table."""
    run: Path | None = None
    """Run folder whose waiting for data is to be told."""


def _samples(numbers: range, seq_len: int) -> Iterator[Sample]:
    """Random tokens, and spans such as packed documents of a few hundred tokens have."""
    draw = np.random.default_rng(0)
    for number in numbers:
        spans = [{"document": f"corpus:{number}-{i}", "source": "corpus", "first": 0, "last": 1800} for i in range(3)]
        tokens = draw.integers(VOCABULARY, size=seq_len + 1, dtype=np.uint16)
        yield Sample(tokens.tobytes(), json.dumps(spans).encode(), seq_len)


def _write_manifest(folder: Path, shards: list[Shard], seq_len: int) -> None:
    (folder / "tokenizer.json").write_text("{}")
    parts = {split: {"sources": {}, "dropped_tokens": 0, "shards": []} for split in SPLITS}
    parts["train"]["shards"] = [asdict(shard) for shard in shards]
    told = {"format": FORMAT, "corpus": "made", "sequence_length": seq_len, "packing": "concat", "dtype": "uint16"}
    told["tokenizer"] = {"sha256": hashlib.sha256(b"{}").hexdigest(), "vocab_size": VOCABULARY, "end_of_text": 0}
    (folder / "manifest.json").write_text(json.dumps(told | {"split_rule": {}, "splits": parts}, indent=1))


def make_dataset(folder: Path, options: LoaderOptions) -> None:
    """The samples as our shards, as one file of tokens, and in mosaicml-streaming's format where it is installed."""
    writer = ShardWriter(folder, "train", np.dtype("<u2"), SHARD_BYTES // 4)
    columns = {"tokens": f"ndarray:uint16:{options.seq_len + 1}"}
    mosaic = None
    if find_spec("streaming"):
        from streaming import MDSWriter

        mosaic = MDSWriter(out=str(folder / "mosaic"), columns=columns, size_limit=SHARD_BYTES // 4)
    with open(folder / "tokens.bin", "wb") as flat:
        for sample in _samples(range(options.samples), options.seq_len):
            writer.add(sample)
            flat.write(sample.tokens)
            if mosaic:
                mosaic.write({"tokens": np.frombuffer(sample.tokens, dtype=np.uint16)})
    if mosaic:
        mosaic.finish()
    _write_manifest(folder, writer.close(), options.seq_len)


def make_large_dataset(folder: Path, seq_len: int) -> int:
    """10,000 shards in the manifest, those on the disk that steps 0 and (the answer) in mid-epoch read."""
    sample = len(next(_samples(range(1), seq_len)).spans) + 2 * (seq_len + 1)
    size = SHARD_BYTES // sample // block.SAMPLES * block.SAMPLES
    stated = [Shard(f"train-{i:06d}.tar", size, size * seq_len, 1, "0" * 64, i * size) for i in range(SHARDS)]
    order = EpochOrder([size] * SHARDS, groups=GROUPS, drawn=BATCH // GROUPS, seed=0, window=WINDOW)
    middle = order.steps_per_epoch // 2
    for step in (0, middle):
        for lane in range(GROUPS):
            first = step * BATCH // GROUPS
            numbers = range(first // WINDOW, (first + BATCH // GROUPS - 1) // WINDOW + 1)
            for index in {int(i) for number in numbers for i in order.window(0, lane, number)[0] // size}:
                stated[index] = _write_shard(folder, stated[index], seq_len)
    _write_manifest(folder, stated, seq_len)
    return middle


def _write_shard(folder: Path, shard: Shard, seq_len: int) -> Shard:
    if (folder / shard.name).exists():
        return shard
    writer = ShardWriter(folder, "train", np.dtype("<u2"), 2 * SHARD_BYTES)
    # A writer numbers samples and shards from 0; this one begins in the middle of a dataset.
    writer._samples = shard.first_sample
    for sample in _samples(range(shard.samples), seq_len):
        writer.add(sample)
    (written,) = writer.close()
    (folder / written.name).rename(folder / shard.name)
    return Shard(**(asdict(written) | {"name": shard.name}))


def _ours(folder: Path, seq_len: int, workers: int, step: int = 0) -> Iterator[torch.Tensor]:
    stream = CandidateStream(
        folder, groups=GROUPS, drawn=BATCH // GROUPS, seed=0, lanes=range(GROUPS), step=step, workers=workers
    )
    return (candidates.tokens_GnT1.flatten(0, 1) for candidates in stream)


def _webdataset(folder: Path, seq_len: int, workers: int) -> Iterator[torch.Tensor]:
    import webdataset

    shards = sorted(str(path) for path in folder.glob("train-*.tar"))
    blocks = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).decode()
    return _batches(blocks.compose(_samples_of).shuffle(WINDOW).repeat(), workers, "tokens.npy")


def _samples_of(blocks: Iterator[dict]) -> Iterator[dict]:
    """webdataset gives blocks; its own shuffle and batches are of samples."""
    for one in blocks:
        for tokens in one["tokens.npy"]:
            yield {"tokens.npy": tokens}


def _mosaic(folder: Path, seq_len: int, workers: int) -> Iterator[torch.Tensor]:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder / "mosaic"), shuffle=True, batch_size=BATCH)
    return _batches(dataset, workers, "tokens")


def _batches(dataset, workers: int, field: str) -> Iterator[torch.Tensor]:
    context = "fork" if workers else None  # what DataLoader does by itself in a process that was not spawned
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, num_workers=workers, collate_fn=partial(_collate, field), multiprocessing_context=context
    )
    while True:
        yield from loader


def _collate(field: str, samples: list[dict]) -> torch.Tensor:
    return torch.from_numpy(np.stack([sample[field] for sample in samples]).astype(np.int64))


def _nanogpt(folder: Path, seq_len: int, workers: int) -> Iterator[torch.Tensor]:
    """Its get_batch: random places of one array of tokens, mapped anew for every batch. It has no workers."""
    while True:
        data = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
        places = torch.randint(len(data) - seq_len - 1, (BATCH,))
        yield torch.stack([torch.from_numpy(data[i : i + seq_len + 1].astype(np.int64)) for i in places])


LOADERS = {"ours": _ours, "webdataset": _webdataset, "mosaicml-streaming": _mosaic, "nanoGPT memmap": _nanogpt}


def _own_bytes() -> int:
    """Memory of this process that is its own; pages of mapped files are the system's to take back."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def throughput(loader: str, folder: Path, options: LoaderOptions, workers: int) -> dict[str, float]:
    """samples/s after the first 4 batches, seconds to the first one, and memory taken meanwhile, in MB."""
    torch.set_num_threads(1)
    before, began = _own_bytes(), time.perf_counter()
    batches = LOADERS[loader](folder, options.seq_len, workers)
    assert next(batches).shape == (BATCH, options.seq_len + 1)
    first = time.perf_counter() - began
    for _ in islice(batches, 3):
        pass
    count, most, began = 0, 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < options.seconds:
        next(batches)
        count += BATCH
        if count % 4096 == 0:
            most = max(most, _own_bytes())
    most = max(most, _own_bytes())
    return {"samples/s": count / passed, "first batch": first, "memory": (most - before) / 1e6}


def first_batch(folder: Path, seq_len: int, step: int, workers: int) -> dict[str, float]:
    before, began = _own_bytes(), time.perf_counter()
    next(_ours(folder, seq_len, workers, step))
    return {"first batch": time.perf_counter() - began, "memory": (_own_bytes() - before) / 1e6}


def _spread(measured: list[dict[str, float]], key: str, digits: int = 0) -> str:
    return spread([one[key] for one in measured], digits)


def compare(options: LoaderOptions, console: Console) -> None:
    loaders = [name for name in LOADERS if name != "mosaicml-streaming" or find_spec("streaming")]
    measured: dict[tuple[str, int], list] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), options)
        for _ in range(options.rounds):
            for workers in (0, options.workers):
                for name in loaders:
                    if workers and name == "nanoGPT memmap":
                        continue
                    result = alone(throughput, name, Path(folder), options, workers)
                    measured.setdefault((name, workers), []).append(result)
    title = f"T = {options.seq_len}, {options.samples:,} samples, {options.rounds} rounds of {options.seconds:g} s"
    columns = ("loader", "processes", "samples/s", "MB/s", "of webdataset", "first batch, s", "memory, MB")
    table = Table(*columns, title=f"{title}: median (least-most)")
    for (name, workers), results in sorted(measured.items(), key=lambda item: item[0][1]):
        rate = median(one["samples/s"] for one in results)
        plain = median(one["samples/s"] for one in measured["webdataset", workers])
        cells = [
            _spread(results, "samples/s"),
            f"{rate * 2 * (options.seq_len + 1) / 1e6:,.0f}",
            f"{rate / plain:.1f}x",
        ]
        cells += [_spread(results, "first batch", 2), _spread(results, "memory")]
        table.add_row(name, f"1 + {workers}" if workers else "1", *cells)
    console.print(table)


def large(options: LoaderOptions, console: Console) -> None:
    measured: dict[tuple[str, int], list] = {}
    with tempfile.TemporaryDirectory() as folder:
        middle = make_large_dataset(Path(folder), options.seq_len)
        for _ in range(options.rounds):
            for workers in (0, options.workers):
                for what, step in (("first batch", 0), (f"resume at step {middle:,}", middle)):
                    result = alone(first_batch, Path(folder), options.seq_len, step, workers)
                    measured.setdefault((what, workers), []).append(result)
    table = Table("ours", "processes", "seconds", "memory, MB", title=f"{SHARDS:,} shards of {SHARD_BYTES / 1e6:g} MB")
    for (what, workers), results in sorted(measured.items(), key=lambda item: item[0][1]):
        cells = [_spread(results, "first batch", 2), _spread(results, "memory")]
        table.add_row(what, f"1 + {workers}" if workers else "1", *cells)
    console.print(table)


def waiting(run: Path, console: Console) -> None:
    """The share of a run's training time spent waiting for candidates, without its first step."""
    lines = read_run(run).training
    if len(lines) < 2:
        raise ValueError(f"{run} tells of {len(lines)} training steps, and the first does not count")
    waited = sum(line["data_seconds"] for line in lines[1:])
    seconds = lines[-1]["seconds"] - lines[0]["seconds"]
    console.print(f"{run}: {100 * waited / seconds:.2f} % of {seconds:.1f} s waiting for data, {len(lines)} steps")


def main(arguments: list[str]) -> int:
    console = Console(width=120)
    options = tyro.cli(LoaderOptions, args=arguments, prog="scripts.bench loader", description=__doc__)
    if options.run:
        waiting(options.run, console)
    compare(options, console)
    large(options, console)
    return 0
