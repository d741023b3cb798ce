"""Every key of [selection] is read by a method, and then changes what it does, or is refused beside it."""

import dataclasses
import re

import pytest
import torch

from scripts.train.options import parse
from selection.methods import METHODS
from selection.settings import Selection, keys, read_by, replaced, without_unread
from tests.helpers.selecting import build, take_steps

# A value that is not the default, for every key.
OTHER = {
    "method": "",  # given by every pair itself
    "picks": 3,
    "candidates": 9,
    "pool": "step",
    "direction.samples": 2,
    "direction.rank": 2,
    "direction.decay": 0.5,
    "direction.preconditioner": "adam",
    "direction.targets": 9,
    "direction.contrast": 4,
    "scoring.parameters": "blocks",
    "scoring.prefix": 3,
    "scoring.memory": "streamed",
    "interaction.curvature": 1e4,
    "interaction.sketch": 3,
    "filter.temperature": 1.0,
    "filter.when": "always",
    "reference.file": "known.npz",
    "need.clusters": 2,
    "need.samples": 8,
    "need.every": 2,
    "need.window": 48,
    "auto.block": 3,
    "amortise.drawn": 20,
    "amortise.every": 2,
    "amortise.by": "importance",
    "amortise.explore": 0.75,
}
AMORTISED = {"amortise.drawn": 12}
# So that a few steps hear of the shares, and see a turn of each arm.
OFTEN = {"need": {"need.every": 1, "need.window": 4}, "auto": {"need.every": 1, "need.window": 4, "auto.block": 4}}
BASES = [
    *((method, OFTEN.get(method, {})) for method in METHODS),
    *((name, AMORTISED) for name, method in METHODS.items() if method.passes != "none"),
    ("topk", AMORTISED | {"amortise.by": "need"} | OFTEN["need"]),
]
STEPS = {"need": 6, "auto": 16, "topk": 6}  # and of the others, 3
# What a script does with these is tested where it does it: tests/scripts/train/test_train.py and
# tests/scripts/prepare/test_known.py. What the judge would not allow: tests/selection/prefilters/test_auto.py.
READ_ELSEWHERE = {"method", "direction.targets", "reference.file", "filter.when"}


def test_every_key_has_another_value():
    assert OTHER.keys() == keys().keys()
    assert all(OTHER[key] != value for key, value in keys().items())


def settings(method: str, changes: dict) -> Selection:
    chosen = Selection(method=method, picks=2, candidates=6)
    chosen = replaced(chosen, "direction.samples", 4) if METHODS[method].aims else chosen
    chosen = replaced(chosen, "reference.file", "known.npz") if METHODS[method].knows else chosen
    for key, value in changes.items():
        chosen = replaced(chosen, key, value)
    return dataclasses.replace(chosen, candidates=keys()["candidates"]) if method == "regular" else chosen


def fingerprint(chosen: Selection) -> list:
    """All that a few steps leave: what was picked, by which scores, findings, weights."""
    selector, model, optimizer = build(chosen)
    found = []
    for choices in take_steps(selector, model, optimizer, range(STEPS.get(chosen.method, 3))):
        for choice in choices:
            found += [choice.measured.tolist(), choice.picks.tolist(), None if choice.score is None else choice.score]
    return [*found, str(selector.findings()), *(parameter.detach() for parameter in model.parameters())]


def same(one: list, other: list) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("method", "base"), BASES, ids=lambda part: part if isinstance(part, str) else "-".join(part))
def test_a_key_is_read_and_acts_or_is_refused(method, base):
    plain = settings(method, base)
    reference = fingerprint(plain)
    assert same(reference, fingerprint(plain))
    for key, value in OTHER.items():
        if key in READ_ELSEWHERE:
            continue
        changed = settings(method, base | {key: value})
        if key in read_by(changed):
            # Another prefilter leaves keys of the one before unread.
            assert not same(reference, fingerprint(without_unread(changed))), key
        elif method != "regular" or key != "candidates":
            with pytest.raises(ValueError, match=rf"selection\.{key} = .* does nothing: method {method} "):
                changed.check()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [key for key in OTHER if key != "method"])
def test_an_idle_key_is_refused_on_the_command_line_and_in_a_file_of_its_method(tmp_path, method, key):
    table, _, name = key.rpartition(".")
    value = f'"{OTHER[key]}"' if isinstance(OTHER[key], str) else OTHER[key]
    own, others, base = tmp_path / "own.toml", tmp_path / "others.toml", ["--data.path", "x", "--out", "y"]
    given = f"[selection{'.' * bool(table)}{table}]\n{name} = {value}\n"
    own.write_text(f'selection.method = "{method}"\n{given}' if table else f'{given}method = "{method}"\n')
    other = next(other for other in METHODS if other != method)
    others.write_text(own.read_text().replace(f'"{method}"', f'"{other}"', 1))
    command = ["--selection.method", method, f"--selection.{key}", str(OTHER[key]), *base]
    commands = [command, ["--config", str(own), *base]]
    neutral = ["--config", str(others), "--selection.method", method, *base]
    if key in read_by(replaced(Selection(method=method), key, OTHER[key])):
        for arguments in [*commands, neutral]:
            assert keys(parse(arguments).selection)[key] == OTHER[key]
        return
    for arguments, where in zip(commands, ("the command line", str(own)), strict=True):
        with pytest.raises(ValueError, match=rf"selection\.{key} = .* of {where} does nothing: method {method} "):
            parse(arguments)
    assert keys(parse(neutral).selection)[key] == keys()[key]


@pytest.mark.parametrize(
    ("method", "changes", "why"),
    [
        ("topk", {}, "reads it only with selection.amortise.by = need"),
        ("topk", AMORTISED, "reads it only with selection.amortise.by = need"),
        ("importance", {}, "does not read it (read by need, auto): leave it out"),
    ],
)
def test_why_a_key_of_need_does_nothing_is_told(method, changes, why):
    told = re.escape(f"selection.need.clusters = 2 does nothing: method {method} {why}")
    with pytest.raises(ValueError, match=told):
        settings(method, changes | {"need.clusters": 2}).check()
