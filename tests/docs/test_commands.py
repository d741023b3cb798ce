"""Every command line of the README and of docs/ is accepted by the command's own parser, and runs, or is listed.

A page's commands run in its order in a folder of their own, with what entries.py appends to make them small.
"""

import inspect
import json
import os
import sys
from importlib import import_module
from unittest import mock

import pytest

from pipeline.dataset.manifest import Manifest
from scripts.prepare.__main__ import main as prepare
from selection.log import read_log
from tests.docs.blocks import PAGES, ROOT, blocks_of, command_lines, read_page
from tests.docs.entries import NOT_RUN, RUN, SMALL
from tests.docs.parsers import check, command_of
from tests.docs.texts import write_repository, write_shards, write_talks, write_tasks, write_texts
from tests.helpers.networks import write_network
from tests.helpers.run_example import make_cascade_run, make_dataset, make_run
from tests.pipeline.corpora.conversations.examples import write_chat_tokenizer


def entry_of(page: str, command: str) -> str | None:
    """The entry that stands for a command line: the longest that is part of it."""
    entries = [*RUN.get(page, {}), *NOT_RUN.get(page, {})]
    return max((entry for entry in entries if entry in command), key=len, default=None)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_has_its_entry_and_every_entry_its_command_line(page):
    listed = [*RUN.get(page, {}), *NOT_RUN.get(page, {})]
    found = [entry_of(page, command) for command in command_lines(read_page(page))]
    assert sorted(found, key=str) == sorted(listed)
    assert all(NOT_RUN.get(page, {"": "none"}).values())


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_accepted_by_its_parser(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for command in command_lines(read_page(page)):
        try:
            check(command)
        except (SystemExit, Exception) as error:
            told = capsys.readouterr()
            pytest.fail(f"{page}: {command}\n{error!r}\n{told.out}{told.err}")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the texts that the pages speak of, and the project's configurations."""
    for folder in ("scripts", "docs"):
        os.symlink(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "news", ["news", "other"])
    write_texts(tmp_path / "parts", ["plays", "verse", "manual-pages"])
    parts = sorted((tmp_path / "parts").glob("*.gz"))
    write_repository(tmp_path / "web")
    write_shards(tmp_path)
    write_talks(tmp_path)
    write_tasks(tmp_path)
    write_chat_tokenizer(tmp_path / "models" / "chat", "ChatML")
    (tmp_path / "mix.toml").write_text(*blocks_of("docs/data.md", "toml"))
    (tmp_path / "mixed.jsonl.gz").write_bytes(b"".join(path.read_bytes() for path in parts))
    return tmp_path


def prepare_dataset(out: str) -> None:
    """A dataset that a page's commands read, and that is made by a command in NOT_RUN."""
    options = f"--corpus json --data-files news/*.jsonl.gz --source-field source --target-sources news {SMALL}"
    options += " --target-fraction 0.1"
    assert prepare([*options.split(), "--out", out]) == 0


def run_commands(page: str, replaced: dict[str, str]) -> list[str]:
    """Runs the page's command lines that have an entry in RUN, in their order; the entries."""
    ran = []
    for command in command_lines(read_page(page)):
        entry = entry_of(page, command)
        if entry in RUN[page]:
            name, words = command_of(command)
            words = [replaced.get(word, word) for word in words] + RUN[page][entry].split()
            folder = (ROOT / "scripts" / name).is_dir()
            main = import_module(f"scripts.{name}.__main__" if folder else f"scripts.{name}").main
            with mock.patch.object(sys, "argv", [name, *words]):
                code = main(words) if inspect.signature(main).parameters else main()
            assert code == 0, f"{page}: {command}"
            ran.append(entry)
    return ran


def steps_of(run) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "train_loss" in line]


def null_share(run, column: str) -> float:
    values = read_log(run / "selection")[column]
    return values.null_count / len(values)


def test_the_readmes_three_commands(workplace, capsys):
    assert run_commands("README.md", {}) == list(RUN["README.md"])
    assert steps_of(workplace / "runs" / "news") == [0, 1]
    assert null_share(workplace / "runs" / "news", "predicted") == 0
    assert "news" in capsys.readouterr().out


def test_the_commands_of_data(workplace):
    assert sorted(run_commands("docs/data.md", {})) == sorted(RUN["docs/data.md"])
    made = {path.name: Manifest.load(path) for path in (workplace / "data").iterdir()}
    talks = {"talks", "task", "chat", "mmlu", "tydiqa", "samsum"}
    assert made.keys() == talks | {"news", "web", "shards", "aimed", "mixed", "once"}
    assert {name for name, manifest in made.items() if manifest.packing == "conversation"} == talks
    for name in ("web", "shards"):
        assert set(made[name].sources["train"]) == {name}
    mixed = made["mixed"]
    held_out = {split: {"mine"} for split in ("target", "val", "test")}
    assert {split: set(sources) for split, sources in mixed.sources.items()} == held_out | {"train": {"web", "pages"}}
    tokens = {name: counts["tokens"] for name, counts in mixed.sources["train"].items()}
    assert tokens["web"] / tokens["pages"] == pytest.approx(2, rel=0.05)


def test_the_commands_of_running(workplace):
    prepare_dataset("data/demo")
    assert sorted(run_commands("docs/running.md", {})) == sorted(RUN["docs/running.md"])
    runs = workplace / "runs"
    assert steps_of(runs / "demo") == [0, 1, 2]  # begun by one command, and gone on with by the other
    assert steps_of(runs / "one-process") == [0, 1]
    assert null_share(runs / "one-process", "first_order") > 0.5  # a prefilter dropped most of what was drawn
    assert null_share(runs / "exact", "interaction") == 0  # all candidates were scored, at every step
    assert null_share(runs / "regular", "score") == 1
    assert {json.loads((run / "ended.json").read_text())["how"] for run in runs.iterdir()} == {"finished"}


def test_the_commands_of_models(workplace):
    prepare_dataset("data/demo")
    prepare_dataset("data/llama")
    write_network(workplace / "models" / "llama", "Llama", workplace / "data" / "llama", vocabulary=300, positions=32)
    assert run_commands("docs/models.md", {}) == list(RUN["docs/models.md"])
    runs = workplace / "runs"
    assert steps_of(runs / "llama") == steps_of(runs / "lora") == steps_of(runs / "second") == [0, 1]
    assert {path.name for path in (workplace / "models" / "adapters").iterdir()} >= {"adapter_model.safetensors"}
    assert (workplace / "models" / "merged" / "model.safetensors").stat().st_size > 30_000


def test_the_commands_of_results(workplace, capsys):
    prepare_dataset("data/mix")
    assert sorted(run_commands("docs/results.md", {})) == sorted(RUN["docs/results.md"])
    assert steps_of(workplace / "runs" / "plays-3") == [0, 1]
    assert null_share(workplace / "runs" / "scored", "first_order") == 0  # all that were drawn, at every step
    assert "importance" in capsys.readouterr().out


def test_the_commands_of_pools(workplace):
    prepare_dataset("data/two-wanted")
    assert run_commands("docs/pools.md", {}) == list(RUN["docs/pools.md"])
    assert steps_of(workplace / "runs" / "stages-need") == steps_of(workplace / "runs" / "need-48") == [0, 1]


def test_the_commands_of_costs(workplace):
    prepare_dataset("data/demo")
    assert run_commands("docs/costs.md", {}) == list(RUN["docs/costs.md"])
    assert len(list((workplace / "runs" / "stages" / "checkpoints").iterdir())) == 3


@pytest.mark.parametrize("make", [make_run, make_cascade_run])
def test_the_commands_of_log(workplace, make, capsys):
    dataset, _ = make_dataset(workplace / "dataset")
    runs = workplace / "runs"
    runs.mkdir()
    make(runs / "demo", dataset)
    make_run(runs / "other", dataset)
    make_cascade_run(runs / "mine", dataset)
    replaced = {"1234": "12", "100": "9", "NAME": "plain", "ID": "plain-3"}
    assert run_commands("docs/log.md", replaced) == list(RUN["docs/log.md"])
    assert (runs / "demo" / "report.html").stat().st_size > 10_000
    assert "contribution" in capsys.readouterr().out
