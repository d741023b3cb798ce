"""Which Python the Makefile makes the environment with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")
# Stands in for a Python: is of a version or has no venv (asked by -c), and makes an environment whose pip does nothing.
STUB = """#!/bin/sh
if [ "$1" = -c ]; then exec {python} -c "{trick}; $2"; fi
mkdir -p .venv/bin
echo "{name} $*" > .venv/made-by
printf '#!/bin/sh\\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""
NO_VENV = "import sys; sys.modules['ensurepip'] = None"


@pytest.fixture
def make(tmp_path):
    """make(pythons, *arguments): `make env` where these are all the Pythons there are, by name; and what it made."""

    def run(pythons, *arguments, **environment):
        for name, trick in pythons.items():
            if isinstance(trick, tuple):
                trick = f"import sys; sys.version_info = {trick}"
            path = tmp_path / "bin" / name
            path.write_text(STUB.format(python=sys.executable, name=name, trick=trick))
            path.chmod(0o755)
        environment |= {"PATH": str(tmp_path / "bin")}
        told = subprocess.run(
            [MAKE, "env", *arguments], cwd=tmp_path / "checkout", env=environment, capture_output=True, text=True
        )
        made = tmp_path / "checkout" / ".venv" / "made-by"
        return told, made.read_text() if made.exists() else None

    (tmp_path / "bin").mkdir()
    for tool in ("touch", "mkdir", "chmod", "sh"):
        os.symlink(shutil.which(tool), tmp_path / "bin" / tool)
    (tmp_path / "checkout").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(Path(__file__).parents[1] / name, tmp_path / "checkout")
    return run


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3": (3, 12, 1)}, "python3"),
        ({"python3": (3, 15, 0), "python3.11": (3, 11, 0)}, "python3"),
        ({"python3": (3, 9, 2), "python3.13": (3, 13, 0)}, "python3.13"),
        ({"python3": NO_VENV, "python3.11": (3, 10, 9), "python3.14": (3, 14, 0)}, "python3.14"),
    ],
)
def test_the_first_python_that_will_do_is_taken(make, pythons, taken):
    told, made = make(pythons)
    assert (told.returncode, told.stderr) == (0, "")
    assert made == f"{taken} -m venv .venv\n"


def test_another_one_can_be_named(make):
    pythons = {"python3": (3, 12, 1), "mine": (3, 11, 0)}
    assert make(pythons, "PYTHON=mine")[1] == "mine -m venv .venv\n"
    assert make({}, "-B", PYTHON="mine")[1] == "mine -m venv .venv\n"


@pytest.mark.parametrize(
    ("pythons", "arguments", "which"),
    [
        ({}, [], "no python3 here"),
        ({"python3": (3, 10, 13), "python3.12": NO_VENV}, [], "no python3 here"),
        ({"python3": (3, 12, 1), "old": (3, 10, 0)}, ["PYTHON=old"], "old"),
        ({"python3": (3, 12, 1)}, ["PYTHON=/nowhere/python"], "/nowhere/python"),
    ],
)
def test_without_one_a_sentence_says_what_is_needed(make, pythons, arguments, which):
    told, made = make(pythons, *arguments)
    assert told.returncode != 0
    assert made is None
    sentence, *rest = told.stderr.splitlines()
    assert sentence == (
        f"error: Python 3.11 or newer with its venv module is needed, which {which} is not: "
        "install one, or name it by make PYTHON=..."
    )
    assert all(line.startswith("make: ***") for line in rest)
