"""Writing a file so that its name is only ever that of a whole one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name; it takes the place of `path` once the block is through and all of it is
    on the disk. After an error `path` is what it was before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes `content` so that `path` is never half of it."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
