"""Ended by a signal at any stage, the command run again ends with the bytes of one that nothing happened to."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pipeline.dataset.manifest import Manifest
from scripts.prepare.__main__ import main

OPTIONS = ["--corpus", "json", "--vocab-size", "280", "--seq-len", "64", "--workers", "2", "--shard-size", "0.2"]
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Text of three parts, and the dataset that is made of it."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=5)) for _ in range(500)]
    with open(folder / "made.jsonl", "w") as file:
        for _ in range(6_000):
            file.write(json.dumps({"text": " ".join(draw.choices(words, k=150))}) + "\n")
    files = ["--data-files", str(folder / "made.jsonl")]
    assert main([*OPTIONS, *files, "--out", str(folder / "data")]) == 0
    return files, folder / "data"


def _begin(files, out):
    """In a session of its own, as from a terminal: signals go to all of it, and are heard."""
    command = [sys.executable, "-m", "scripts.prepare", *OPTIONS, *files, "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, start_new_session=True, preexec_fn=_as_from_a_terminal)


def _as_from_a_terminal():
    """A shell has what it starts in the background ignore Ctrl-C, such as these tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait_for(process, there):
    while not there():
        assert process.poll() is None
        time.sleep(0.002)


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_at_every_stage(whole, tmp_path):
    files, expected = whole
    out, partial = tmp_path / "data", tmp_path / "data.partial"
    for stage in (
        lambda: partial.exists(),
        lambda: list(partial.glob("encoded/tokenizer-*.json")),
        lambda: list(partial.glob("encoded/*.part")),
        lambda: (partial / "train-000000.tar").exists(),
        lambda: (partial / "train-000002.tar").exists(),
    ):
        process = _begin(files, out)
        _wait_for(process, stage)
        process.kill()
        process.communicate(timeout=60)  # the processes that encode have its output too: they are gone as well
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
        with pytest.raises(ValueError, match=r"no manifest.json"):
            Manifest.load(partial)
    process = _begin(files, out)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "3 of 3 parts of the text were encoded by an earlier run" in told
    assert _bytes(out) == _bytes(expected)
    assert os.listdir(tmp_path) == ["data"]


def _encodes(parent: int) -> bool:
    """Whether a process that encodes has been started, be it still at its imports."""
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        for child in children.read().split():
            with open(f"/proc/{child}/cmdline") as command:
                if "spawn_main" in command.read():
                    return True
    return False


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads /proc")
def test_ctrl_c_while_the_first_process_that_encodes_starts_is_one_sentence_too(whole, tmp_path):
    files, _ = whole
    process = _begin(files, tmp_path / "data")
    _wait_for(process, lambda: _encodes(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.startswith("interrupted (")
    assert len(told.splitlines()) == 1


def test_ctrl_c_is_one_sentence(whole, tmp_path):
    files, expected = whole
    out, partial = tmp_path / "data", tmp_path / "data.partial"
    process = _begin(files, out)
    _wait_for(process, lambda: list(partial.glob("encoded/*.part")))
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    parts = len(list(partial.glob("encoded/*.part")))
    assert told == (f"interrupted ({parts} encoded parts stay in {partial}, and the same command goes on from there)\n")
    assert {path.name for path in partial.iterdir()} == {"encoded"}
    assert _begin(files, out).wait() == 0
    assert _bytes(out) == _bytes(expected)
