"""Reads checkpoints of torch.distributed.checkpoint without letting them run code.

Its own reader unpickles a checkpoint's index and its single numbers without limits. Here the index may name nothing
but the classes an index is made of, and the numbers must pass torch.load(weights_only=True) first.
"""

import io
import pathlib
import pickle
from pathlib import Path

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},  # looks a name up in a table
    "torch": {"Size"} | {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath"},  # where newer Pythons say they come from
}


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if name not in _CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"its index names {module}.{name}, which no checkpoint of ours does")
        if module.startswith("pathlib"):
            return pathlib.PurePath
        return super().find_class(module, name)


class SafeReader(FileSystemReader):
    """FileSystemReader that raises pickle.UnpicklingError for an index which names anything unexpected."""

    def read_metadata(self, *args, **kwargs) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _IndexUnpickler(file).load()
        for stored in metadata.storage_data.values():
            if Path(stored.relative_path).name != stored.relative_path:
                raise pickle.UnpicklingError(f"its index names a file outside of it, {stored.relative_path}")
        metadata.storage_meta.load_id = self.load_id
        return metadata


class SafePlanner(DefaultLoadPlanner):
    """DefaultLoadPlanner that raises pickle.UnpicklingError for a value which is no plain number, text or list."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # whatever passes here, the parent's torch.load may load
        value.seek(0)
        super().load_bytes(read_item, value)
