"""Measures a model on the held-out splits of a dataset: perplexity and bits per byte, by split and by source.

    python -m scripts.evaluate runs/demo --data data/demo
    python -m scripts.evaluate models/llama --data data/llama --splits test --samples 1000 --json

The model is that of a run's newest checkpoint or of a folder of `transformers`. Perplexity is e to the mean loss of the
tokens. Bits per byte leaves out what stands for no text, as <|endoftext|>; it compares models of different tokenizers.

N samples, T tokens a sample, V vocabulary.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from torch import Tensor, nn

from model.world import choose_device
from pipeline.dataset.manifest import HELD_OUT, Manifest
from pipeline.dataset.reader import SplitReader, inputs_and_targets, trimmed
from pipeline.dataset.sampling import evaluation_samples
from scripts.export import Opened, open_model
from scripts.report.format import printable

ALL = "all"  # the row of a split's sources together


@dataclass(frozen=True)
class Evaluate:
    model: tyro.conf.Positional[Path]
    """Run folder, or folder of `transformers` or `peft`."""
    data: Path
    """Dataset folder, prepared with the model's tokenizer."""
    splits: tuple[Literal[HELD_OUT], ...] = ("val", "test")  # type: ignore[valid-type]
    """Splits to measure on."""
    samples: int = 0
    """Samples of each split, evenly spread; 0 takes all."""
    batch: int = 8
    """Samples in one pass."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass
class Sums:
    """Over tokens that are predicted: how many, their loss in nats; of those that stand for text its bytes and loss."""

    tokens: int = 0
    nats: float = 0.0
    bytes: int = 0
    nats_of_text: float = 0.0

    def add(self, losses: np.ndarray, lengths: np.ndarray) -> None:
        self.tokens += len(losses)
        self.nats += float(losses.sum())
        self.bytes += int(lengths.sum())
        self.nats_of_text += float(losses[lengths > 0].sum())

    def as_row(self) -> dict:
        """A quantity that there is nothing to measure for is None."""
        loss = self.nats / self.tokens if self.tokens else None
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "loss": loss,
            "perplexity": None if loss is None else math.exp(loss),
            "bits_per_byte": self.nats_of_text / math.log(2) / self.bytes if self.bytes else None,
        }


def evaluate(opened: Opened, chosen: Evaluate, console: Console) -> dict[str, dict[str, dict]]:
    """split -> source, or ALL -> the row of Sums. ValueError where model and dataset do not fit."""
    manifest = Manifest.load(chosen.data)
    tokenizer = Tokenizer.from_file(str(manifest.folder / "tokenizer.json"))
    _check_fit(opened, tokenizer, manifest, chosen.data)
    lengths_V = bytes_of_tokens(tokenizer)
    device = torch.device(choose_device("auto")[0])
    opened.network.to(device)
    measured = {}
    for split in chosen.splits:
        reader = SplitReader(manifest, split)
        ids = evaluation_samples(manifest, split, chosen.samples or sys.maxsize)
        sums: dict[str, Sums] = defaultdict(Sums)
        batches = [ids[start : start + chosen.batch] for start in range(0, len(ids), chosen.batch)]
        for batch in track(batches, description=split, console=console, transient=True):
            inputs_NT, targets_NT = inputs_and_targets(trimmed(reader.marked(batch), manifest), manifest)
            losses_NT = token_losses(opened.network, inputs_NT.to(device), targets_NT.to(device)).cpu().numpy()
            for sample, inputs_T, targets_T, losses_T in zip(
                batch, inputs_NT.numpy(), targets_NT.numpy(), losses_NT, strict=True
            ):
                for source, valid_T in _by_source(reader, int(sample), inputs_T, targets_T, manifest.end_of_text):
                    for name in (ALL, source):
                        sums[name].add(losses_T[valid_T], lengths_V[targets_T[valid_T]])
        measured[split] = {name: sums[name].as_row() for name in sorted(sums, key=lambda name: (name != ALL, name))}
    return measured


def _check_fit(opened: Opened, tokenizer: Tokenizer, manifest: Manifest, data: Path) -> None:
    if opened.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"the tokenizer of {data} is not the model's: prepare the dataset with the model's own tokenizer.json as "
            "--tokenizer"
        )
    positions = getattr(opened.network.config.get_text_config(), "max_position_embeddings", manifest.sequence_length)
    if manifest.sequence_length > positions:
        raise ValueError(
            f"the samples of {data} have {manifest.sequence_length} tokens and the model takes {positions}: prepare "
            "the dataset with a smaller --seq-len"
        )


@torch.no_grad()
def token_losses(network: nn.Module, inputs_NT: Tensor, targets_NT: Tensor) -> Tensor:
    """Cross-entropy of every token in nats, [N, T]; 0 where the target is -1."""
    logits_NTV = network(input_ids=inputs_NT, use_cache=False).logits.float()
    return F.cross_entropy(logits_NTV.transpose(1, 2), targets_NT, ignore_index=-1, reduction="none")


def bytes_of_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes of text every token stands for, [V]; 0 for special tokens."""
    vocabulary = tokenizer.get_vocab()
    lengths_V = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    added = tokenizer.get_added_tokens_decoder()
    bytewise = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])
    for token, number in vocabulary.items():
        if number in added:
            lengths_V[number] = 0 if added[number].special else len(token.encode())
        elif bytewise or (len(token) == 6 and token.startswith("<0x")):
            lengths_V[number] = len(token) if bytewise else 1  # a character for every byte; or <0x0A>
        else:
            lengths_V[number] = len(token.replace("▁", " ").encode())
    return lengths_V


def _by_source(
    reader: SplitReader, sample: int, inputs_T: np.ndarray, targets_T: np.ndarray, end_of_text: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(source, which targets are of it, bool [T]) of the documents that a sample is made of.

    A document's end is its own last target. The piece before the first end in a sample is the first span's, and so on;
    a piece without a token of text has no span.
    """
    spans = reader.spans(sample)
    pieces_T = np.cumsum(inputs_T == end_of_text)
    tokens_T1 = np.append(inputs_T, targets_T[-1])
    with_text = np.unique(np.append(0, pieces_T)[(tokens_T1 != end_of_text) & (tokens_T1 >= 0)])
    if len(spans) == 1:  # whatever ends there are in it
        yield spans[0].source, targets_T >= 0
        return
    if len(with_text) != len(spans):
        raise ValueError(f"sample {sample} of {reader.split} has {len(spans)} spans and {len(with_text)} documents")
    for span, piece in zip(spans, with_text, strict=True):
        yield span.source, (pieces_T == piece) & (targets_T >= 0)


def table(measured: dict[str, dict[str, dict]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("split", "source", "tokens", "bytes", "loss", "perplexity", "bits/byte"):
        shown.add_column(name, justify="left" if name in ("split", "source") else "right", overflow="fold")
    for split, rows in measured.items():
        for source, row in rows.items():
            numbers = [row[key] for key in ("loss", "perplexity", "bits_per_byte")]
            texts = ["" if number is None else f"{number:.4f}" for number in numbers]
            shown.add_row(split, printable(source), f"{row['tokens']:,}", f"{row['bytes']:,}", *texts)
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input or a file is at fault."""
    chosen = tyro.cli(Evaluate, args=arguments, description=__doc__, prog="scripts.evaluate")
    console = Console(stderr=chosen.json, width=None if Console().is_terminal else 100)
    try:
        for key, value, least in (("samples", chosen.samples, 0), ("batch", chosen.batch, 1)):
            if value < least:
                raise ValueError(f"--{key} must be at least {least}, not {value}")
        measured = evaluate(open_model(chosen.model), chosen, console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps({"model": str(chosen.model), "data": str(chosen.data), "splits": measured}))
    else:
        console.print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
