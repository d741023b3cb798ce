"""How a run ends: asked to by a signal, because this rank or another one failed, or done; and how its process does."""

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

import torch.distributed as dist

# Under torchrun a rank that outlives the one at fault gets SIGTERM within a second or so, and ends by it. For so long
# it holds its tongue: what it could say is not what went wrong.
_PATIENCE = 5.0


class StopSignal:
    """Takes SIGTERM and SIGINT while it is entered; `name` is then that of the first one, else None.

    Several may come: a terminal sends its SIGINT to every rank, and torchrun passes its own on. Only one ends a run
    in the middle of a step, SIGKILL.
    """

    def __init__(self):
        self.name: str | None = None
        self._before: dict = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # nobody else may
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _) -> None:
        self.name = self.name or signal.Signals(number).name


def say_what_ended(error: Exception, rank: int, size: int, stop: StopSignal) -> int:
    """Says on standard error what ended the run; returns the exit code, 2 for bad input and files, else 1.

    ValueError and OSError are told in a sentence, others with their traceback. Where every rank may have met the same
    error rank 0 speaks first, and where another rank is the cause that one does; then this one is silent.
    """
    told = isinstance(error, ValueError | OSError)
    follows = size > 1 and (_lost_peer(error) or (told and rank > 0))
    if follows and stop.name is None:
        time.sleep(_PATIENCE)
    if not follows or stop.name is None:
        where = f" on rank {rank} of {size}" if size > 1 and (follows or not told) else ""
        if not told:
            traceback.print_exception(error)
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
    return 2 if told else 1


def _lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another rank went away."""
    return isinstance(error, dist.DistBackendError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def leave_process(code: int) -> NoReturn:
    """Ends the process with `code`, its output whole, and without taking the interpreter apart.

    A thread of gloo may still hold the tensors of the last collective. Letting go of them takes Python's lock, and a
    thread that asks for it while the interpreter is finalized is ended by force, which aborts the process:
    "terminate called without an active exception". destroy_process_group does not wait for that thread, and there is
    no call that does (pytorch issues 190489 and 179291). What finalizing would do for us is done here: what was
    registered to run at exit (multiprocessing ends its children there), and flushing.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a pipe whose reader has gone, or a closed stream: nobody is there to read it
            code = code or 1
    os._exit(code)
