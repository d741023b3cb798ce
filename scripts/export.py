"""Makes a folder of `transformers` of a run's newest checkpoint, with the tokenizer.

    python -m scripts.export runs/demo models/demo
    python -m scripts.export runs/lora models/lora              # the adapters alone, as `peft` keeps them
    python -m scripts.export runs/lora models/merged --merge    # the whole model with the adapters in its weights

Any number of ranks may have written the checkpoint; one process reads it. `AutoModelForCausalLM.from_pretrained` opens
what comes out, and `peft.PeftModel.from_pretrained` the adapters.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from model import checkpoint
from model.gpt2 import GPT2, GPT2Config
from model.hf import CausalLM, as_tokenizer, need, network_of, read_network, read_tokenizer
from model.settings import Model
from model.weights import to_transformers
from pipeline.dataset.manifest import Manifest
from scripts.train.config import Config
from scripts.train.record import RunRecord, is_run, read_run


@dataclass(frozen=True)
class Export:
    run: tyro.conf.Positional[Path]
    """Run folder."""
    out: tyro.conf.Positional[Path]
    """Folder to be made."""
    merge: bool = False
    """Of a run with LoRA: the whole model, with the adapters added to its weights, in the precision it is stored in."""


@dataclass(frozen=True)
class Opened:
    """A model of `transformers` (or a PeftModel around one) in one process, on the CPU, and its tokenizer."""

    network: nn.Module
    tokenizer: Any

    def save(self, out: Path) -> None:
        """Writes the folder under a hidden name first. ValueError where `out` is there already."""
        if out.exists():
            raise ValueError(f"{out} exists already: choose another folder to export to")
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir(parents=True)
        try:
            self.network.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            os.replace(partial, out)
        except BaseException:
            shutil.rmtree(partial)
            raise


def open_model(path: Path) -> Opened:
    """The model of a run folder's newest checkpoint, or of a folder of `transformers` or `peft`.

    ValueError where there is none, or no tokenizer with it.
    """
    need("transformers")
    if is_run(path):
        return open_run(path)
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}: give a run folder, or one of `transformers`")
    settings = Model("hf", str(path))
    network, tokenizer = read_network(settings, "auto", where="the folder"), read_tokenizer(settings)
    if tokenizer is None:
        raise ValueError(f"{path} has no tokenizer: put the model's tokenizer.json there")
    return Opened(network.eval(), tokenizer)


def open_run(folder: Path, merge: bool = False) -> Opened:
    """The model of a run's newest checkpoint; with LoRA a PeftModel, or the merged model."""
    record = read_run(folder)
    config = record.settings
    if merge and not config.model.lora.rank:
        raise ValueError(f"{folder} has no adapters to merge: leave --merge out")
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise ValueError(f"{folder} has no checkpoint yet")
    manifest = _dataset_of(record)
    if config.model.kind == "gpt2":
        network, theirs = _gpt2(config, manifest, newest), None
    else:
        network, theirs = _hf(config, newest), read_tokenizer(config.model)
    tokenizer = theirs or as_tokenizer(manifest.folder / "tokenizer.json", manifest.end_of_text)
    return Opened((network.merge_and_unload() if merge else network).eval(), tokenizer)


def _dataset_of(record: RunRecord) -> Manifest:
    """ValueError unless it is the one that the run was trained on: it has the tokenizer."""
    data = record.settings.data
    manifest = Manifest.load(data.dataset())
    if record.facts.get("manifest_sha256") != manifest.sha256:
        raise ValueError(
            f"{record.folder} was trained on another dataset than the one at {data.path}, whose tokenizer may be "
            "another one: put the dataset back"
        )
    return manifest


def _gpt2(config: Config, manifest: Manifest, newest: Path) -> nn.Module:
    """As a GPT2LMHeadModel in float32."""
    shape = config.model
    sizes = manifest.vocab_size, shape.n_layer, shape.n_head, shape.n_embd, manifest.sequence_length
    model = GPT2(GPT2Config(*sizes)).to(_kept(config))
    _fill(model, newest)
    return to_transformers(model, manifest.end_of_text)


def _hf(config: Config, newest: Path) -> nn.Module:
    """What was trained in float32; with LoRA a PeftModel, in which the rest is as it is stored."""
    network = network_of(config.model, _kept(config), seed=0)
    _fill(CausalLM(network), newest)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return network


def _kept(config: Config) -> torch.dtype:
    return torch.float64 if config.train.dtype == "float64" else torch.float32


def _fill(model: nn.Module, newest: Path) -> None:
    trained = {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    checkpoint.read_tensors(newest, trained)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input or a file is at fault."""
    chosen = tyro.cli(Export, args=arguments, description=__doc__, prog="scripts.export")
    try:
        open_run(chosen.run, chosen.merge).save(chosen.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{chosen.out} holds the model of {chosen.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
