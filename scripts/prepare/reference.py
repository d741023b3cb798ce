"""A trained run as a reference: the losses of samples by its model.

N samples, T1 = T + 1 tokens.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from model import checkpoint
from model.world import World
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import inputs_and_targets, trimmed
from scripts.train.config import Config
from scripts.train.run import build_model


def loss_by(config: Config, path: Path, manifest: Manifest, world: World) -> Callable[[np.ndarray], np.ndarray]:
    """tokens [N, T1] of SplitReader.marked of this dataset -> mean token loss [N] by the checkpoint of a run of this
    configuration.

    ValueError where the model of the checkpoint does not fit, as one of another length of samples does not.
    """
    model = build_model(config, manifest, world)
    checkpoint.load_weights(path, model)
    model.eval()

    @torch.no_grad()
    def of_tokens(tokens_NT1: np.ndarray) -> np.ndarray:
        inputs_NT, targets_NT = inputs_and_targets(trimmed(tokens_NT1, manifest), manifest)
        return model(inputs_NT.to(world.device), targets_NT.to(world.device)).float().cpu().numpy()

    return of_tokens
