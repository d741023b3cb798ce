"""What is known of every sample of split `train` beforehand: one number each, in a file of its own.

The file is an .npz archive of four arrays: `kind`; `by`, what the numbers were made by; `manifest`, the sha256 of the
dataset's manifest.json; and `values`, float32, by sample number. A number that no sample has (of a shard that was
dropped) is NaN there, as is what is not known yet.
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


def no_values(manifest: Manifest) -> np.ndarray:
    """NaN for every sample number of `train`."""
    last = manifest.shards["train"][-1]
    return np.full(last.first_sample + last.samples, np.nan, dtype=np.float32)


def write_known(path: Path, kind: Kind, by: str, values: np.ndarray, manifest: Manifest) -> None:
    """Writes the values, by sample number."""
    arrays = {"kind": np.array(kind), "by": np.array(by), "manifest": np.array(manifest.sha256), "values": values}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def read_known(path: Path, kind: Kind, manifest: Manifest, by: str | None = None) -> np.ndarray:
    """The values, float32, by sample number. ValueError where the file is none, or of another kind or dataset, or made
    by something else than `by` (None: by anything)."""
    make = f"make one with 'python -m scripts.prepare {COMMANDS[kind]} {manifest.folder} ...'"
    try:
        with np.load(path, allow_pickle=False) as found:
            of, maker, sha256, values = (found[name] for name in ("kind", "by", "manifest", "values"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}: {make}") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read as values of samples ({error}): {make}") from error
    if of != kind:
        raise ValueError(f"{path} holds the kind '{of}', where '{kind}' is read: {make}")
    if sha256 != manifest.sha256:
        raise ValueError(
            f"{path} is of another dataset: its manifest's sha256 is {str(sha256)[:12]}, that of {manifest.folder} is "
            f"{manifest.sha256[:12]}; {make}"
        )
    if by is not None and maker != by:
        raise ValueError(f"{path} was made by {maker}, not by {by}: remove it, or take another name")
    return values
