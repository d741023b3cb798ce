"""From a shape to a sharded module with its weights: the one place that knows which kinds of model there are."""

import torch
from torch.distributed.device_mesh import DeviceMesh

from .gpt2 import GPT2, GPT2Config
from .sharding import DTYPES, shard


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
