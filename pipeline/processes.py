"""Worker processes that end when the process they work for does."""

import multiprocessing
import multiprocessing.connection
import os
import threading


def end_with_parent() -> None:
    """Ends this worker process when the one that started it is gone, however it went.

    multiprocessing itself leaves workers of a killed process waiting for ever, and DataLoader's own watchdog asks
    whether the worker's parent lives, which may be a fork server.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(0)
