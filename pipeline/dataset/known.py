"""What is known of every sample of split `train` beforehand: one number each, in a file of its own.

The file is an .npz archive of three arrays: `kind`, `manifest` (the sha256 of the dataset's manifest.json), and
`values`, float32, by sample number; a number that no sample has (of a shard that was dropped) is NaN there.
"""

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from ..atomic import write_whole
from .manifest import Manifest

# What the numbers are: the loss by another model, or the likeness to the target text.
Kind = Literal["loss", "likeness"]
COMMANDS: dict[Kind, str] = {"loss": "losses", "likeness": "likeness"}  # of scripts.prepare, that makes such a file


def write_known(path: Path, kind: Kind, sample_ids_N: np.ndarray, values_N: np.ndarray, manifest: Manifest) -> None:
    """Writes the values [N] of all samples of `train`, these being their numbers."""
    assert len(sample_ids_N) == manifest.samples("train")
    values = np.full(int(sample_ids_N.max()) + 1, np.nan, dtype=np.float32)
    values[sample_ids_N] = values_N
    content = io.BytesIO()
    np.savez(content, kind=np.array(kind), manifest=np.array(manifest.sha256), values=values)
    write_whole(path, content.getvalue())


def read_known(path: Path, kind: Kind, manifest: Manifest) -> np.ndarray:
    """The values, float32, by sample number. ValueError where the file is none, or of another kind or dataset."""
    make = f"make one with 'python -m scripts.prepare {COMMANDS[kind]} {manifest.folder} ...'"
    try:
        with np.load(path, allow_pickle=False) as found:
            of, sha256, values = str(found["kind"]), str(found["manifest"]), found["values"]
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}: {make}") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read as values of samples ({error}): {make}") from error
    if of != kind:
        raise ValueError(f"{path} holds the kind '{of}', where '{kind}' is read: {make}")
    if sha256 != manifest.sha256:
        raise ValueError(
            f"{path} is of another dataset: its manifest's sha256 is {sha256[:12]}, that of {manifest.folder} is "
            f"{manifest.sha256[:12]}; {make}"
        )
    return values
