"""The folder that a dataset grows in: whole under its name, or not there; what a run had finished is kept beside it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..interrupted import Interrupted

KEPT = "encoded"  # the folder of what the next run may take over


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """`<out>.partial`, ours alone and empty but for KEPT; renamed to `out`, without KEPT, at the end.

    KEPT holds what an interrupted run had finished. After a ValueError, which blames the input, the whole folder is
    removed. After anything else KEPT stays, and of OSErrors a sentence is made. A run that is still going on holds a
    lock on the folder.
    """
    if (out / "manifest.json").exists():
        raise ValueError(f"--out {out} is a finished dataset: remove it or choose another folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is no empty folder: choose another one")
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"--out {out}: {partial} cannot be made there ({error.strerror})") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another prepare is writing {out} at this moment (it holds {partial})") from None
        _clear(partial)
        with _leaving_what_is_finished(partial):
            (partial / KEPT).mkdir(exist_ok=True)
            yield partial
            shutil.rmtree(partial / KEPT)
            os.replace(partial, out)
    finally:
        os.close(lock)


@contextmanager
def _leaving_what_is_finished(partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error.filename or partial} cannot be read or written ({error.strerror or error})"
        raise Interrupted(f"{what}: mend that and run the same command again{_leave(partial)}") from error
    except Interrupted as error:
        raise Interrupted(f"{error}{_leave(partial)}") from error
    except ValueError:
        shutil.rmtree(partial)
        raise
    except BaseException as error:
        error.add_note(f"interrupted{_leave(partial)}")
        raise


def _leave(partial: Path) -> str:
    """Removes all that is not finished; the end of a sentence about what is."""
    _clear(partial)
    parts = len(list((partial / KEPT).glob("*.part")))
    if parts or any((partial / KEPT).glob("tokenizer-*.json")):
        finished = f"{parts} encoded parts stay" if parts else "the trained tokenizer stays"
        return f" ({finished} in {partial}, and the same command goes on from there)"
    shutil.rmtree(partial)
    return ""


def _clear(partial: Path) -> None:
    for path in partial.iterdir():
        if path.name != KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
