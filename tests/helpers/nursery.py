"""Starts the ranks of runs as forks of one process that has imported everything, and kills them as told.

    python -m tests.helpers.nursery        # one order a line on standard input, one answer a line on standard output

As torchrun does, it ends the other ranks when one is gone (by SIGTERM, or by SIGKILL where all are to be killed), but
a rank starts in milliseconds. A rank can be killed at its n-th change to the disk, or after some seconds.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

CHANGES = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


class Nursery:
    """The nursery as its user sees it. Leaving it ends it and every rank."""

    def __enter__(self) -> "Nursery":
        command = [sys.executable, "-m", "tests.helpers.nursery"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def run(self, arguments: list[str], log: Path, size: int = 2, **told) -> dict:
        """{"codes": exit codes by rank (negative: a signal), "seconds": from the first end to the last, "changes"}.

        told: rank, and with it `at` (the change to the disk before which it is killed) or `after` (seconds), `signal`
        (by default SIGKILL), `all` (the others are killed with it); `setup`, code run in every rank before it starts.
        """
        order = {"arguments": arguments, "log": str(log), "size": size, **told}
        for rank in range(size):
            Path(f"{log}-{rank}-changes").unlink(missing_ok=True)
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@functools.cache
def shared_nursery() -> Nursery:
    """One for all tests; it ends when they do."""
    nursery = Nursery().__enter__()
    atexit.register(nursery.__exit__)
    return nursery


def _serve() -> None:
    import torch

    from scripts.train.__main__ import main

    with suppress(ImportError):  # the extra `peers`: a run of such a network would load them in every rank
        import peft  # noqa: F401
        from transformers import LlamaForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        order = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = {}
        for rank in range(order["size"]):
            pid = os.fork()
            if pid == 0:
                _be(rank, port, order, main)
            ranks[pid] = rank
        answers.write(json.dumps(_watch(ranks, order)) + "\n")


def _be(rank: int, port: int, order: dict, main) -> None:
    log = os.open(f"{order['log']}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(order["size"])}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    count = _count_changes(order["at"] if rank == order.get("rank") and "at" in order else 0)
    code = 3
    try:
        exec(order.get("setup", ""), {"rank": rank})
        code = main(order["arguments"])
        Path(f"{order['log']}-{rank}-changes").write_text(str(count[0]))
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _count_changes(fatal: int) -> list[int]:
    count = [0]

    def counting(change):
        def counted(*arguments, **options):
            count[0] += 1
            if count[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **options)

        return counted

    for name in CHANGES:
        setattr(os, name, counting(getattr(os, name)))
    return count


def _watch(ranks: dict[int, int], order: dict) -> dict:
    started, ended, codes = time.monotonic(), None, {}
    while len(codes) < len(ranks):
        if "after" in order and time.monotonic() - started > order["after"]:
            del order["after"]
            for pid, rank in ranks.items():
                if rank not in codes and (order.get("all") or rank == order["rank"]):
                    os.kill(pid, order.get("signal", signal.SIGKILL))
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            time.sleep(0.002)
            continue
        codes[ranks[pid]] = os.waitstatus_to_exitcode(status)
        if ended is None and codes[ranks[pid]] != 0:
            for other, rank in ranks.items():
                if rank not in codes:
                    os.kill(other, signal.SIGKILL if order.get("all") else signal.SIGTERM)
        ended = ended or time.monotonic()
    changes = [Path(f"{order['log']}-{rank}-changes") for rank in range(order["size"])]
    return {
        "codes": [codes[rank] for rank in range(order["size"])],
        "seconds": time.monotonic() - ended,
        "changes": [int(path.read_text()) if path.exists() else None for path in changes],
    }


if __name__ == "__main__":
    _serve()
