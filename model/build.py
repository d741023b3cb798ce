"""From [model] to a sharded module with its weights: the one place that knows which kinds of model there are.

All kinds keep one contract: `losses_N = model(tokens_NT, targets_NT)` with targets of -1 ignored, `model(tokens_NT)`
gives logits, `model.blocks` are the modules to shard, and `model.is_block(name)` tells their parameters.
"""

import functools
from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import checkpoint

from .compiled import compile_blocks
from .gpt2 import GPT2, GPT2Config
from .hf import CausalLM, check_fit, network_of, read_network
from .settings import Model
from .sharding import DTYPES, shard
from .weights import from_transformers


def build_model(
    settings: Model,
    vocabulary: Mapping[str, int],
    sequence_length: int,
    mesh: DeviceMesh,
    dtype: str,
    seed: int,
    compiled: bool = False,
) -> nn.Module:
    """The sharded model of [model] for samples of `sequence_length` tokens of this vocabulary (token -> number).

    compiled: whether its blocks are, see compile_blocks. ValueError where the model cannot be had, or does not fit to
    the data.
    """
    if settings.kind == "hf":
        model = build_hf(settings, vocabulary, sequence_length, mesh, dtype, seed)
    else:
        sizes = 1 + max(vocabulary.values()), settings.n_layer, settings.n_head, settings.n_embd, sequence_length
        model = build_gpt2(GPT2Config(*sizes), mesh, dtype, seed)
    if compiled:
        compile_blocks(model)
    if settings.recompute:
        recompute(model)
    return model


def recompute(model: nn.Module) -> None:
    """Has every block make its activations again in the backward pass, by the same dropout, instead of keeping them."""
    for block in model.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def build_gpt2(config: GPT2Config, mesh: DeviceMesh, dtype: str, seed: int) -> GPT2:
    """A sharded GPT-2, initialised as a function of (config, seed) alone, at any number of ranks.

    Parameters are kept in float32 (float64 for dtype "float64"); the passes compute in `dtype`, and gradients
    are reduced in the parameters' own precision.
    """
    with torch.device("meta"):
        model = GPT2(config)
    if dtype == "float64":
        model.double()
    model = shard(model, mesh, DTYPES[dtype])
    model.to_empty(device=mesh.device_type)
    model.tie()
    model.initialise(seed)
    return model


def build_hf(
    settings: Model, vocabulary: Mapping[str, int], sequence_length: int, mesh: DeviceMesh, dtype: str, seed: int
) -> CausalLM:
    """A sharded model of `transformers` with the weights of its folder, which every rank reads.

    What is trained is kept as in build_gpt2; frozen weights, those beside adapters, stay as they are stored.
    """
    kept = torch.float64 if dtype == "float64" else torch.float32
    model = CausalLM(network_of(settings, kept, seed))
    check_fit(model.network, settings, vocabulary, sequence_length)
    return shard(model, mesh, DTYPES[dtype]).to(mesh.device_type).train()


def begin_from_folder(
    model: nn.Module, folder: str, vocabulary: Mapping[str, int], sequence_length: int, where: str
) -> None:
    """Gives our GPT-2 the weights of a GPT-2 of `transformers`, which every rank reads.

    ValueError, which names the key `where` the folder is from, for another kind of model, shape or vocabulary.
    """
    if not isinstance(model, GPT2):
        raise ValueError(f"{where} {folder} is a folder of `transformers`, which model.kind hf takes as model.path")
    source = Model("hf", folder)
    network = read_network(source, torch.float32, where=where)
    check_fit(network, source, vocabulary, sequence_length, where)
    from_transformers(network, model, f"{where} {folder}")
