"""Every block of Python, SQL and TOML in the README and docs/ runs as it stands, and does what the text says of it."""

import inspect
import json

import duckdb
import pytest
import torch

from pipeline.corpora.corpus import Asked
from pipeline.mixture.registry import CORPORA
from scripts.report.__main__ import main as report
from scripts.train.options import parse
from selection.ghost.layers import RULES
from selection.log.reader import read_log
from selection.methods import METHODS, Method
from selection.settings import unread
from tests.docs.blocks import PAGES, blocks_of, read_page
from tests.helpers.oracle import flat, gradients_of_samples, mean
from tests.helpers.run_example import make_cascade_run, make_dataset, make_run

# The blocks of each page that this file runs, in their order; shell blocks are for test_commands.py.
BLOCKS = {
    "README.md": ["python"],
    "docs/method.md": ["text", "python"],  # the text is a formula
    "docs/data.md": ["toml"],  # test_commands.py writes it where a command reads it
    "docs/settings.md": ["toml"],
    "docs/log.md": ["python", "python", "sql", "sql", "python"],
    "docs/extending.md": ["python"] * 5,
}


def run(page: str, number: int, names: dict | None = None) -> dict:
    """Runs a page's Python block among these names; what it leaves among them."""
    names = {} if names is None else names
    exec(compile(blocks_of(page, "python")[number], f"{page}, Python block {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_here_or_by_the_commands(page):
    languages = [block.language for block in read_page(page).blocks if block.language != "shell"]
    assert languages == BLOCKS.get(page, [])


def holds_gradient_of(model, tokens, targets, picks) -> None:
    """Whether .grad is that of the mean loss over the picks."""
    assembled = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(tokens[picks], targets[picks]).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(assembled[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_readmes_library_example_picks_what_autograd_would():
    torch.manual_seed(0)
    names = run("README.md", 0)
    model, tokens, targets, picks = (names[name] for name in ("model", "tokens", "targets", "picks"))
    holds_gradient_of(model, tokens[8:], targets[8:], picks)
    gradients = [flat(gradient) for gradient in gradients_of_samples(model, tokens, targets)]
    scores = torch.stack(gradients[8:]) @ torch.stack(gradients[:8]).mean(0)
    assert set(picks.tolist()) == set(scores.topk(8).indices.tolist())
    code = [line for line in blocks_of("README.md", "python")[0].splitlines() if line]
    assert len(code) <= 14


def test_the_engine_example_assembles_the_gradient_of_its_picks():
    torch.manual_seed(0)
    names = run("docs/method.md", 0)
    assert len(set(names["picks"].tolist())) == 8
    assert (names["gains"].diff() <= 0).all()  # eta is far too small for the interactions to reorder anything
    holds_gradient_of(names["model"], names["tokens"], names["targets"], names["picks"])
    with pytest.raises(ValueError, match="nothing is recorded"):  # it was released
        names["recorder"].gram()


def test_the_configuration_is_one(tmp_path):
    (text,) = blocks_of("docs/settings.md", "toml")
    (tmp_path / "run.toml").write_text(text)
    config = parse(["--config", str(tmp_path / "run.toml"), "--out", "runs/news"])
    config.check()
    assert config.data.path == "data/news"
    assert (config.selection.method, config.selection.drawn, config.selection.amortise.every) == ("topk", 64, 8)
    assert not unread(config.selection)


@pytest.fixture
def registries():
    """What the pages add to registries is taken out again."""
    tables = (METHODS, RULES, CORPORA)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def test_a_new_method_chooses_by_its_own_score(registries):
    torch.manual_seed(0)
    names = run("docs/extending.md", 0)
    setting_up, _, rest = blocks_of("docs/extending.md", "python")[1].partition("optimizer.step()\n")
    exec(compile(setting_up, "docs/extending.md", "exec"), names)
    model, choice, batch = names["model"], names["choice"], names["batch"]
    assembled = {name: p.grad.clone() for name, p in model.named_parameters()}
    direction = flat(mean(gradients_of_samples(model, *batch(names["target_tokens"]))))
    gradients = [flat(gradient) for gradient in gradients_of_samples(model, *batch(names["candidates"][0]))]
    cosines = torch.stack([gradient @ direction / gradient.norm() for gradient in gradients])
    torch.testing.assert_close(choice.score, cosines, rtol=1e-3, atol=1e-5)
    assert set(choice.picks.tolist()) == set(cosines.topk(4).indices.tolist())
    for name, parameter in model.named_parameters():
        parameter.grad = assembled[name]
    before = model.wte.weight.clone()
    exec(compile("optimizer.step()\n" + rest, "docs/extending.md", "exec"), names)
    assert not torch.equal(before, model.wte.weight)
    assert model.wte.weight.grad is None


def test_a_new_layer_rule_equals_autograd(registries):
    names = run("docs/extending.md", 2)  # it compares the two itself
    assert names["gram_NN"].shape == (5, 5)
    assert "assert_close" in blocks_of("docs/extending.md", "python")[2]


def test_a_new_corpus_becomes_a_dataset(registries, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for name in ("wanted", "other"):
        sections = [f"section {number} of {name} says {number * 7 % 11} " * 8 for number in range(80)]
        (tmp_path / "notes" / f"{name}.md").write_text("\n# ".join(sections))
    names = run("docs/extending.md", 3)
    assert len(list(names["sections"](Asked(("notes/wanted.md",))))) == 80
    manifest = run("docs/extending.md", 4)["manifest"]
    assert manifest.samples("train") > 100
    assert set(manifest.sources["target"]) == {"wanted"}
    assert set(manifest.sources["train"]) == {"wanted", "other"}
    assert str(manifest.samples("train")) in capsys.readouterr().out


@pytest.fixture(params=[make_run, make_cascade_run])
def demo(request, tmp_path, monkeypatch):
    """A folder with runs/demo and its spans as the current one."""
    dataset, _ = make_dataset(tmp_path / "dataset")
    (tmp_path / "runs").mkdir()
    folder = request.param(tmp_path / "runs" / "demo", dataset)
    assert report([str(folder), "--ask", "sources"]) == 0
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_recipes_agree_with_the_report_and_the_log(demo, capsys):
    for number in range(3):
        capsys.readouterr()
        names = run("docs/log.md", number)
        assert len(capsys.readouterr().out.splitlines()) > 3
        if number == 0:
            rates = (names["sources"]["picked"] / names["sources"]["share"]).to_dict()
    assert report([str(demo), "--ask", "sources", "--json"]) == 0
    expected = {row["source"]: row["pick_rate"] for row in json.loads(capsys.readouterr().out)["sources"]}
    assert rates == pytest.approx(expected)
    check_sql(read_log(demo / "selection").to_pylist())


def check_sql(rows: list[dict]) -> None:
    contributions, offers = (duckdb.sql(query).fetchall() for query in blocks_of("docs/log.md", "sql"))
    values = [row[3] for row in contributions]
    assert values == sorted(values, reverse=True)
    picks = [row for row in rows if row["pick"] >= 0 and row["first_order"] is not None]
    assert picks
    total = sum(row["learning_rate"] / 2 * row["first_order"] for row in picks)
    everything = duckdb.sql(blocks_of("docs/log.md", "sql")[0].replace("LIMIT 20", "")).fetchall()
    assert sum(row[3] for row in everything) == pytest.approx(total)
    assert offers == []  # no sample came twice
    offers = duckdb.sql(blocks_of("docs/log.md", "sql")[1].replace("> 1", "> 0")).fetchall()
    assert [sample_id for sample_id, _ in offers] == list(range(20))
    for (_, found), row in zip(offers, sorted(rows, key=lambda row: row["sample_id"]), strict=False):
        assert found == [(row["step"], row["group"], row["pick"], row["first_order"])]


def test_a_method_of_the_page_reads_what_the_base_class_says():
    """The names that docs/extending.md gives for what a method says of itself."""
    text = read_page("docs/extending.md").prose
    declared = [name for name in inspect.get_annotations(Method) if not name.startswith("_")]
    assert all(f"`{name}`" in text for name in declared)
    assert all(f"`{name}`" in text for name in ("measure", "score", "pick"))
