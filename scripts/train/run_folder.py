"""Writes the run folder: config.toml, metrics.jsonl, ended.json, and where selection/ and checkpoints/ are.

What it says is read by scripts.train.record.
"""

import dataclasses
import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pipeline.atomic import write_whole
from scripts.train.config import Config
from scripts.train.options import to_toml
from scripts.train.record import CONFIG, ENDED, METRICS, Ended, whole_lines


class RunFolder:
    """Paths of one run, and its metrics file. Only rank 0 calls what writes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.selection = self.path / "selection"
        self.checkpoints = self.path / "checkpoints"
        self._config, self._metrics, self._ended = (self.path / name for name in (CONFIG, METRICS, ENDED))
        self._stream = None

    def check(self, resume: str) -> None:
        """ValueError where a new run would write over another, or a resumed one finds nothing to resume.

        Every rank may ask: nothing is written before all of them have joined.
        """
        taken = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        begun = self._config.exists() or self._was_killed_before_it_began()
        if resume == "yes" and not begun:
            raise ValueError(f"{self.path} holds no run to resume: begin it by --train.resume auto, or no")
        if resume == "no" and taken:
            raise ValueError(
                f"{self.path} exists already: choose another --out, or go on with it by --train.resume yes"
            )
        if resume == "auto" and taken and not begun:
            raise ValueError(f"{self.path} exists already and holds no run: choose another --out")
        parent = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise ValueError(f"cannot make the run folder {self.path}: {parent} is not a folder")
        if not os.access(parent, os.W_OK):
            raise ValueError(f"cannot make the run folder {self.path}: no permission to write in {parent}")

    def _was_killed_before_it_began(self) -> bool:
        """Whether this is a run folder as `start` leaves it when it is killed before config.toml is there."""
        made = {self.selection, self.checkpoints, self._config.with_name(f".{CONFIG}.tmp")}
        return self.path.is_dir() and set(self.path.iterdir()) <= made

    def start(self, config: Config, run: dict) -> None:
        """Makes the folder and writes config.toml; how an earlier stretch of the run ended is no longer so."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.selection.mkdir(exist_ok=True)
        self._ended.unlink(missing_ok=True)
        write_whole(self._config, to_toml(config, {"code_version": code_version(), **run}))

    def drop_metrics_from(self, step: int) -> None:
        """Forgets what was measured at `step` or later, for a run that is taken up again from there."""
        if self._metrics.exists():
            # A kill may leave half a line at the end; what it measured is measured again.
            lines = whole_lines(self._metrics)
            write_whole(self._metrics, "".join(line + "\n" for line in lines if json.loads(line)["step"] < step))

    def end(self, how: Literal["finished", "stopped", "failed"], step: int, why: str | None = None) -> None:
        """Writes ended.json: how the run ended, after `step` steps, and in a sentence why."""
        write_whole(self._ended, json.dumps(dataclasses.asdict(Ended(how, step, why))) + "\n")

    def measure(self, **values) -> None:
        """Appends one line to metrics.jsonl, at once."""
        try:
            if self._stream is None:
                self._stream = open(self._metrics, "a", buffering=1)  # noqa: SIM115 -- lives as long as the run
            self._stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise ValueError(
                f"{self._metrics} cannot be written ({error.strerror}); the lines before are whole"
            ) from error


def code_version() -> str:
    """The package's version, with the commit where the code runs from a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    described = subprocess.run(command, capture_output=True, text=True)
    commit = f"+{described.stdout.strip()}" if described.returncode == 0 else ""
    return version("greats") + commit
