"""From files and the command line to a configuration, and back to a file."""

import dataclasses
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import tyro

from scripts.train.config import Config

# Tables of a config file that set nothing: a run's own facts, and what scripts.compare reads.
NO_SETTINGS = ("run", "compare", "arms")


def parse(arguments: list[str] | None = None) -> Config:
    """Defaults, then the file named by --config, then the other options.

    ValueError names an unknown key of the file or a value of the wrong type; a wrong option ends the process with
    exit code 2 and a sentence, as tyro does it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    default = Config()
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 == len(arguments):
            raise ValueError("--config needs the path of a TOML file")
        default = read(Path(arguments[position + 1]))
        del arguments[position : position + 2]
    return tyro.cli(Config, args=arguments, default=default, prog="scripts.train [--config FILE.toml]")


def read(path: Path) -> Config:
    """A Config from a TOML file; keys that are not given keep their defaults, what is no setting is skipped."""
    table = load(path)
    for name in NO_SETTINGS:
        table.pop(name, None)
    return fill(Config(), table, str(path))


def load(path: Path) -> dict:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"no config file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def fill(section: Any, table: dict, where: str, prefix: str = "") -> Any:
    """The section with the table's values; ValueError names an unknown key or a wrong type, and where it was read."""
    known = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
    changes = {}
    for key, value in table.items():
        name = prefix + key
        if key not in known:
            raise ValueError(f"unknown key {name} in {where}: known are {', '.join(prefix + k for k in known)}")
        current = known[key]
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ValueError(f"{name} in {where} must be a section, [{name}]")
            changes[key] = fill(current, value, where, prefix=f"{name}.")
            continue
        if isinstance(current, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(current):
            raise ValueError(
                f"{name} in {where} must be a {type(current).__name__}, not {value!r} ({type(value).__name__})"
            )
        _check_choice(section, key, value, name, where)
        changes[key] = value
    return dataclasses.replace(section, **changes)


def _check_choice(section: Any, key: str, value: Any, name: str, where: str) -> None:
    allowed = getattr(type(section).__annotations__[key], "__args__", None)
    if allowed and value not in allowed:
        raise ValueError(f"{name} in {where} must be one of {', '.join(allowed)}, not {value!r}")


def to_toml(config: Config, run: dict[str, str | int]) -> str:
    """The whole configuration, and a [run] table of facts about the run, as TOML."""
    sections = config.as_dict()
    lines = [f"out = {json.dumps(sections.pop('out'))}"]
    for name, table in {**sections, "run": run}.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"
