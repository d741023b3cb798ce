"""From files and the command line to a configuration, and back to a file."""

import dataclasses
import json
import sys
import tomllib
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import tyro

from model.settings import SHAPE, Model
from scripts.train.config import Config, flat
from selection.settings import idle, unread, why_unread, without_unread

# Tables of a config file that set nothing: a run's own facts, and what scripts.compare reads.
NO_SETTINGS = ("run", "compare", "arms")


def parse(arguments: list[str] | None = None) -> Config:
    """Defaults, then the files named by --config, the last of which wins, then the other options.

    ValueError names an unknown key of a file, a value of the wrong type, or one that does nothing; a wrong option ends
    the process with exit code 2 and a sentence, as tyro does it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    files = []
    while "--config" in arguments:
        position = arguments.index("--config")
        end = next((i for i in range(position + 1, len(arguments)) if arguments[i].startswith("-")), len(arguments))
        if end == position + 1:
            raise ValueError("--config needs the path of a TOML file")
        files += map(Path, arguments[position + 1 : end])
        del arguments[position:end]
    config, tables = read_files(files)
    config = tyro.cli(Config, args=arguments, default=config, prog="scripts.train [--config FILE.toml ...]")
    flags = (argument.partition("=")[0].removeprefix("--").replace("-", "_") for argument in arguments)
    return without_idle(config, tables, frozenset(flags), "the command line")


def read_config(path: Path) -> Config:
    """A Config from a TOML file; keys that are not given keep their defaults, what is no setting is skipped."""
    config, tables = read_files([path])
    return without_idle(config, tables)


def read_files(paths: Sequence[Path]) -> tuple[Config, dict[str, dict]]:
    """The files' values over the defaults, the last file's over the others'; and what each file gives, by its name."""
    config, tables = Config(), {}
    for path in paths:
        table = load_toml(path)
        for name in NO_SETTINGS:
            table.pop(name, None)
        config = fill(config, table, str(path))
        tables[str(path)] = flat(table)
    return config, tables


def without_idle(
    config: Config, tables: dict[str, dict], strict: frozenset[str] = frozenset(), where: str = ""
) -> Config:
    """The configuration without the values of `selection` that its method does not read, and without a shape of model
    for one that brings its own.

    tables: the keys that each file gives, in the order of the files; strict: those that were given `where`, beside
    which nothing idle may be. ValueError names a value that was given there, or by the last file that gives it where
    that file names this very method: it was meant for it. Another method's values are of no concern.
    """
    chosen = config.selection
    for key, value in unread(chosen).items():
        name = f"selection.{key}"
        source = next((file for file in reversed(tables) if name in tables[file]), "")
        if name in strict:
            source = where
        elif not source or tables[source].get("selection.method") != chosen.method:
            continue
        raise ValueError(f"{name} = {json.dumps(value)} of {source} does nothing: {why_unread(chosen, key)}")
    model = config.model
    if model.kind != "gpt2":
        model = dataclasses.replace(model, **{k: getattr(Model(), k) for k in SHAPE if f"model.{k}" not in strict})
    return dataclasses.replace(config, model=model, selection=without_unread(chosen))


def load_toml(path: Path) -> dict:
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
    """The configuration, and a [run] table of facts about the run, as TOML.

    Without the keys of the selection that nothing reads: another default of theirs would make them look chosen.
    """
    known = config.as_dict()
    for key in idle(config.selection):
        *sections, name = key.split(".")
        del reduce(dict.__getitem__, sections, known["selection"])[name]
    return "\n".join(_lines({**known, "run": run})) + "\n"


def _lines(table: dict, name: str = "") -> list[str]:
    values = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    lines = [*(["", f"[{name}]"] if name else []), *values] if values else []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{name}.{key}".lstrip("."))
    return lines
