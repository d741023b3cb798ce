"""Every command line of the README and of docs/ is accepted by the command's own parser, and runs, or is listed here.

A page's commands run in its order in a folder of their own, with what is appended here to make them small. An entry of
RUN or NOT_RUN stands for the one command line of its page that it is part of.
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
from tests.docs.parsers import check, command_of
from tests.docs.texts import write_repository, write_shards, write_texts
from tests.helpers.networks import write_network
from tests.helpers.run_example import make_cascade_run, make_dataset, make_run

NET = "--model.n-layer 1 --model.n-head 1 --model.n-embd 8 --train.groups 1"
TINY = f"{NET} --train.steps 2 --train.warmup-steps 1 --train.eval-samples 2 --train.eval-every 2"
HF = "--train.groups 1 --train.steps 2 --train.warmup-steps 1 --train.eval-samples 2 --train.eval-every 2"
SMALL = "--vocab-size 300 --seq-len 32"
REPORT = ""

# What is appended to a command line that runs. Options given twice take the later value.
RUN = {
    "README.md": {"--out data/news": SMALL, "--out runs/news": TINY, "report runs/news": REPORT},
    "docs/data.md": {
        "json --data-files": SMALL,
        "inspect data/news --html": "",
        "verify data/news": "",
        "verify data/news --drop": "",
        "--dataset ./web": SMALL,
        "'shards-{000..001}.tar'": SMALL,
        "--target-files 'news/news.jsonl.gz'": SMALL,
        "--recipe mix.toml": SMALL,
    },
    "docs/running.md": {
        "verify data/demo": "",
        "--data.path data/demo --out runs/demo": TINY,
        "--out runs/one-process": TINY,
        "--out runs/exact": TINY,
        "--out runs/regular": TINY,
        "scripts.taylor": "--pool 64 --targets 2 --batches 3 --walks 3 --steps 1 --checkpoints 2",
        "--data.path data/demo --out runs/demo --train.resume auto": TINY.replace("steps 2", "steps 3", 1),
    },
    "docs/models.md": {
        "--out runs/llama": HF,
        "--out runs/lora": HF,
        "export runs/llama": "",
        "export runs/lora models/adapters": "",
        "export runs/lora models/merged": "",
        "--out runs/first": TINY,
        "export runs/first": "",
        "--out runs/second": TINY,
        "evaluate runs/llama": "",
        "evaluate models/merged": "",
        "generate runs/llama": "",
        "generate models/merged": "",
    },
    "docs/results.md": {
        "--pool homogeneous": "",
        "--out data/plays": SMALL,
        "--out runs/plays-3": TINY,
        "--out runs/need-80": TINY,
        "--out runs/scored": f"{TINY} --train.steps 24 --train.eval-every 24 --train.checkpoint-every 8",
        "scripts.bench predictor": "--draws 1",
        "--out runs/stages": TINY,
        "scripts.taylor": "--pool 64 --targets 2 --batches 3 --walks 3 --steps 1",
    },
    "docs/costs.md": {"--out runs/stages": f"{TINY} --train.steps 3 --train.checkpoint-every 1"},
    "docs/log.md": {
        f"report runs/{rest}": REPORT
        for rest in (
            "demo",
            "demo --html",
            "demo --sample",
            "demo --document",
            "demo --source",
            "demo --step",
            "demo --ask bias",
            "mine --ask predictor",
            "demo --against runs/other",
            "demo --ask samples",
        )
    },
}

FRESH = "makes an environment and takes minutes; continuous integration runs it"
MINUTES = "takes minutes; the tests of its folder run it small"
GPUS = "needs GPUs, or takes weeks"
HUB = "needs the hub; tests/pipeline/corpora/test_hub.py streams from a stand-in"
AFAR = "needs a place elsewhere; tests/pipeline/dataset/test_remote.py has one on loopback"
SHARDS_AFAR = (
    "needs a place elsewhere; tests/pipeline/corpora/test_webdataset.py has one on loopback, and runs commands"
)
INSTALLED = "reads all that is installed here; tests/pipeline/corpora and tests/scripts/test_mix.py do it small"
KNOWN = "tests/scripts/prepare/test_known.py does it, and trains by what it made"
NOT_RUN = {
    "docs/method.md": {
        "--out data/wanted": KNOWN,
        "--out runs/reference": KNOWN,
        "scripts.prepare losses": KNOWN,
        "scripts.prepare likeness": KNOWN,
        "--out runs/rho-loss": KNOWN,
    },
    "README.md": {"make demo": FRESH, "make test": FRESH, "pip install .": "makes an installation"},
    "docs/data.md": {
        "installed-docs": INSTALLED,
        "--dataset owner/name": HUB,
        "openwebtext": HUB,
        "https://host/shards": SHARDS_AFAR,
        "pipe:aws s3 cp s3://bucket/shards": SHARDS_AFAR,
    },
    "docs/running.md": {
        "installed-docs": INSTALLED,
        "openwebtext": HUB,
        "--standalone --nproc-per-node 8": GPUS,
        "--nnodes 4": GPUS,
        "--data.path https": AFAR,
        "--data.path s3": AFAR,
        "--data.path 'pipe": AFAR,
        "scripts.mix": INSTALLED,
        "scripts.compare": MINUTES,
        "tests.soak": MINUTES,
        "make demo": FRESH,
    },
    "docs/results.md": {
        "--out data/mix.jsonl.gz": INSTALLED,
        "--data-files data/mix.jsonl.gz": INSTALLED,
        "--out runs/study": MINUTES,
        "--out runs/homogeneous": MINUTES,
        "--out runs/need": MINUTES,
        "--out runs/demo-regular": "docs/running.md has it too, and there it runs",
        "make demo": FRESH,
    },
    "docs/costs.md": {
        "bench step --rounds": MINUTES,
        "bench step --run": MINUTES,
        "bench log": MINUTES,
        "bench log --amortised": MINUTES,
        "bench loader --rounds": MINUTES,
        "bench loader --run": MINUTES,
    },
    "docs/guarantees.md": {"make test": FRESH, "tests.soak": MINUTES, "verify data/owt --drop": HUB},
}


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
    os.symlink(ROOT / "scripts", tmp_path / "scripts")
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "news", ["news", "other"])
    write_texts(tmp_path / "parts", ["plays", "verse", "manual-pages"])
    parts = sorted((tmp_path / "parts").glob("*.gz"))
    write_repository(tmp_path / "web")
    write_shards(tmp_path)
    (tmp_path / "mix.toml").write_text(*blocks_of("docs/data.md", "toml"))
    (tmp_path / "mixed.jsonl.gz").write_bytes(b"".join(path.read_bytes() for path in parts))
    return tmp_path


def prepare_dataset(out: str) -> None:
    """A dataset that a page's commands read, and that is made by a command in NOT_RUN."""
    options = f"--corpus json --data-files news/*.jsonl.gz --source-field source --target-sources news {SMALL}"
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
    assert {path.name for path in (workplace / "data").iterdir()} == {"news", "web", "shards", "aimed", "mixed"}
    for name in ("web", "shards"):
        assert set(Manifest.load(workplace / "data" / name).sources["train"]) == {name}
    mixed = Manifest.load(workplace / "data" / "mixed")
    assert {split: set(sources) for split, sources in mixed.sources.items()} == {
        "train": {"web", "pages"},
        "target": {"mine"},
        "val": {"mine"},
        "test": {"mine"},
    }
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
