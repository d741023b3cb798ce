"""Losses on the held-out splits of a dataset: perplexity and bits per byte, by split and by source.

Bits per byte leaves out what stands for no text, as <|endoftext|>; it compares models of different tokenizers.

N samples, T tokens a sample, V vocabulary.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from torch import Tensor, nn

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader, inputs_and_targets, trimmed
from pipeline.dataset.sampling import evaluation_samples
from scripts.export import Opened
from scripts.report.format import printable

ALL = "all"  # the row of all sources together


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


def losses(
    opened: Opened, data: Path, splits: Sequence[str], samples: int, batch_size: int, console: Console
) -> dict[str, dict[str, dict]]:
    """split -> source, or ALL -> the row of Sums; of so many samples a split (0: all).

    The network is on the device it is to be measured on. ValueError where model and dataset do not fit.
    """
    manifest = Manifest.load(data)
    tokenizer = Tokenizer.from_file(str(manifest.folder / "tokenizer.json"))
    _check_fit(opened, tokenizer, manifest, data)
    lengths_V = bytes_of_tokens(tokenizer)
    device, measured = opened.network.device, {}
    for split in splits:
        reader = SplitReader(manifest, split)
        ids = evaluation_samples(manifest, split, samples or sys.maxsize)
        sums: dict[str, Sums] = defaultdict(Sums)
        batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
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
