"""From [model] to a sharded module with its weights: the one place that knows which kinds of model there are.

All kinds keep one contract: `losses_N = model(tokens_NT, targets_NT)` with targets of -1 ignored, `model(tokens_NT)`
gives logits, `model.blocks` are the modules to shard, and `model.is_block(name)` tells their parameters.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from .gpt2 import GPT2, GPT2Config
from .hf import CausalLM, check_fit, read_network
from .settings import Model
from .sharding import DTYPES, shard


def build_model(
    settings: Model, vocabulary: Mapping[str, int], sequence_length: int, mesh: DeviceMesh, dtype: str, seed: int
) -> nn.Module:
    """The sharded model of [model] for samples of `sequence_length` tokens of this vocabulary (token -> number).

    ValueError where the model cannot be had, or does not fit to the data.
    """
    if settings.kind == "hf":
        return build_hf(settings, vocabulary, sequence_length, mesh, dtype, seed)
    shape = GPT2Config(
        1 + max(vocabulary.values()), settings.n_layer, settings.n_head, settings.n_embd, sequence_length
    )
    return build_gpt2(shape, mesh, dtype, seed)


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
    network = read_network(settings, kept, seed)
    check_fit(network, settings, vocabulary, sequence_length)
    return shard(CausalLM(network), mesh, DTYPES[dtype]).to(mesh.device_type).train()
