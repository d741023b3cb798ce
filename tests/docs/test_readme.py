"""The recipes of the README's section on the log run as they are written."""

import json
import re
from pathlib import Path

import duckdb
import pytest

from scripts.report.__main__ import main
from selection.log.reader import read_log
from selection.log.schema import SCHEMA
from tests.helpers.run_example import make_cascade_run, make_dataset, make_run

README = Path(__file__).parents[2] / "README.md"
SECTION = "## Reading the log"


def section() -> str:
    text = README.read_text()
    assert text.count(SECTION) == 1
    return re.split(r"^## ", text.partition(SECTION)[2], flags=re.MULTILINE)[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(), re.DOTALL)


@pytest.fixture(params=[make_run, make_cascade_run])
def demo(request, tmp_path, monkeypatch):
    """A folder with runs/demo and its spans, and a run with a prefilter, as the current one."""
    dataset, _ = make_dataset(tmp_path / "dataset")
    (tmp_path / "runs").mkdir()
    run = request.param(tmp_path / "runs" / "demo", dataset)
    make_cascade_run(tmp_path / "runs" / "mine", dataset)
    assert main([str(run), "--ask", "sources"]) == 0
    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_recipes_run(demo, number, capsys):
    capsys.readouterr()
    exec(compile(blocks("python")[number], f"README python block {number}", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_the_pandas_recipe_agrees_with_the_report(demo, capsys):
    capsys.readouterr()
    assert main([str(demo), "--ask", "sources", "--json"]) == 0
    expected = {row["source"]: row["pick_rate"] for row in json.loads(capsys.readouterr().out)["sources"]}
    found = {}
    exec(blocks("python")[0], found)
    rates = (found["sources"]["picked"] / found["sources"]["share"]).to_dict()
    assert rates == pytest.approx(expected)


def test_sql_recipes_run_and_agree_with_the_log(demo):
    contributions, offers = (duckdb.sql(query).fetchall() for query in blocks("sql"))
    values = [row[3] for row in contributions]
    assert values == sorted(values, reverse=True)
    rows = read_log(demo / "selection").to_pylist()
    picks = [row for row in rows if row["pick"] >= 0 and row["first_order"] is not None]
    assert picks
    total = sum(row["learning_rate"] / 2 * row["first_order"] for row in picks)
    everything = duckdb.sql(blocks("sql")[0].replace("LIMIT 20", "")).fetchall()
    assert sum(row[3] for row in everything) == pytest.approx(total)
    assert offers == []  # no sample came twice
    offers = duckdb.sql(blocks("sql")[1].replace("> 1", "> 0")).fetchall()
    assert [sample_id for sample_id, _ in offers] == list(range(20))
    for (_, found), row in zip(offers, sorted(rows, key=lambda row: row["sample_id"]), strict=False):
        assert found == [(row["step"], row["group"], row["pick"], row["first_order"])]


def test_the_columns_of_the_log_are_explained():
    for name in SCHEMA.names:
        assert f"`{name}`" in section()


def test_the_command_lines_are_accepted(demo, capsys):
    """Every command line of the section, on a run that has what it names."""
    commands = re.findall(r"^    python -m scripts\.report (.*)$", section(), re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        words = command.split("#")[0].split(">")[0].replace("1234", "12").replace("NAME", "plain").split()
        assert main(words) == 0, command
