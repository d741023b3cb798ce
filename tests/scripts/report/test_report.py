"""Every question to a run written by hand."""

import csv
import io
import subprocess
import sys

import pytest

from scripts.report.format import WIDTH
from scripts.report.texts import Texts
from selection.log.reader import read_log
from tests.helpers.run_example import STEPS, K, N, ask, ask_json, make_run


def test_the_report_says_what_the_run_did(run, capsys):
    code, out, err = ask(capsys, run)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for name, value in {
        "method": "topk",
        "ended": f"finished after {STEPS} steps",
        "steps": str(STEPS),
        "candidates": str(STEPS * N),
        "picks": str(STEPS * K),
        "seconds": str(2 * STEPS),
        "first val loss": "5.0000",
        "final val loss": "4.2000",
        "final test loss": "4.7000",
    }.items():
        assert any(line.split() == [*name.split(), *value.split()] for line in lines), name
    for heading in ("Loss: dots train", "Sources, by pick rate", "Documents of highest", "Documents of lowest"):
        assert heading in out
    assert "⠀" in out  # the curve's braille


def test_sources_by_csv_and_json(run, odd_dataset, capsys):
    rows = ask_json(capsys, run, "--ask", "sources")["sources"]
    texts = Texts(odd_dataset[0])
    offered, picked = {}, {}
    for row in read_log(run / "selection").to_pylist():
        spans = texts.spans(row["sample_id"])
        characters = sum(span.last - span.first for span in spans)
        for span in spans:
            share = (span.last - span.first) / characters
            offered[span.source] = offered.get(span.source, 0) + share
            picked[span.source] = picked.get(span.source, 0) + share * (row["pick"] >= 0)
    assert {row["source"]: row["offered"] for row in rows} == pytest.approx(offered)
    assert {row["source"]: row["picked"] for row in rows} == pytest.approx(picked)
    _, out, _ = ask(capsys, run, "--ask", "sources", "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["pick_rate"]) for row in table] == [row["pick_rate"] for row in rows]
    assert [row["source"] for row in table] == [row["source"] for row in rows]


def test_every_question_answers_in_every_form(run, capsys):
    other = ["--ask", "samples", "--order", "mean_score", "--lowest", "--top", "3"]
    questions = [["--ask", name] for name in ("documents", "time", "early-late", "returning", "bias", "gaps")]
    for question in [*questions, other, ["--step", "3"], ["--source", "plain"], ["--against", run]]:
        code, out, err = ask(capsys, run, *question)
        assert (code, err) == (0, ""), question
        assert max(map(len, out.splitlines())) <= WIDTH, question
        answers = ask_json(capsys, run, *question)
        code, out, _ = ask(capsys, run, *question, "--csv")
        for name, rows in reversed(answers.items()):  # several tables are headed by their names
            out, _, table = out.rpartition(f"# {name}\n") if len(answers) > 1 else ("", "", out)
            found = list(csv.DictReader(io.StringIO(table)))
            assert [list(row) for row in found] == [list(row) for row in rows], (question, name)
        assert out == ""
    assert [row["sample_id"] for row in ask_json(capsys, run, *other)["samples"]] == sorted(
        (r["sample_id"] for r in read_log(run / "selection").to_pylist() if r["first_order"] < 0), reverse=True
    )[:3]


def test_a_sample_its_text_and_what_it_lost_to(run, odd_dataset, capsys):
    texts = Texts(odd_dataset[0])
    rejected = [row["sample_id"] for row in read_log(run / "selection").to_pylist() if row["pick"] < 0]
    answers = ask_json(capsys, run, "--sample", rejected[0])
    assert [row["text"] for row in answers["text"]] == texts.pieces(rejected[0])
    (offer,) = answers["history"]
    assert offer["margin"] < 0
    assert len(offer["lost_to"]) == K
    assert [row["text"] for row in answers["lost_to"]] == [texts.text(winner) for winner in offer["lost_to"]]


def test_a_document_is_found_by_its_id(run, odd_dataset, capsys):
    name = Texts(odd_dataset[0]).spans(0)[0].document
    (rows,) = ask_json(capsys, run, "--document", name).values()
    text = odd_dataset[1][name]["text"]
    for row in rows:
        assert row["text"].strip("\ufffd") in text


@pytest.mark.parametrize(
    ("method", "score"),
    [
        ("topk", "the first-order score <g_i, v>"),
        ("maxloss", "the loss before the step"),
        ("importance", "what the filter predicts from the n-grams"),
    ],
)
def test_every_answer_with_scores_says_what_they_are(odd_dataset, tmp_path, capsys, method, score):
    folder = make_run(tmp_path / method, odd_dataset[0], method=method)
    questions = [["--ask", name] for name in ("samples", "documents", "sources", "early-late", "bias")]
    for question in [[], *questions, ["--sample", "3"], ["--step", "3"], ["--source", "plain"], ["--against", folder]]:
        code, out, err = ask(capsys, folder, *question)
        assert (code, err) == (0, "")
        assert f"score: {score}" in " ".join(out.split()), question
        assert max(map(len, out.splitlines())) <= WIDTH, question
    for question in ([], ["--ask", "samples"], ["--ask", "sources"]):
        out = " ".join(ask(capsys, folder, *question)[1].split())
        assert (f"Contributions are unknown: method {method} measures none." in out) == (method != "topk")
        assert ("contribution: how much the picks lowered the loss" in out) == (method == "topk")
    assert ask(capsys, folder, "--html")[0] == 0
    page = (folder / "report.html").read_text().replace("&lt;", "<").replace("&gt;", ">")
    assert f"{score} (ends: and beyond)" in page
    assert f"score: {score}." in page


def test_samples_are_ordered_by_what_is_known(odd_dataset, tmp_path, capsys):
    """By contribution where a method measures any, else by what it ranks by; a pick of maxloss has none."""
    for method, column in (("topk", "contribution"), ("maxloss", "mean_score")):
        folder = make_run(tmp_path / method, odd_dataset[0], method=method)
        rows = read_log(folder / "selection").to_pylist()
        found = ask_json(capsys, folder, "--ask", "samples", "--top", "5")["samples"]
        score = {row["sample_id"]: row["score"] for row in rows}
        worth = {row["sample_id"]: 0.01 / K * row["score"] if row["pick"] >= 0 else 0 for row in rows}
        values = worth if method == "topk" else score
        assert [row[column] for row in found] == pytest.approx(sorted(values.values(), reverse=True)[:5])
        assert [row["contribution"] for row in found if row["picked"]] == [
            pytest.approx(worth[row["sample_id"]]) if method == "topk" else None for row in found if row["picked"]
        ]
        assert all(row["picked_unknown"] == (method == "maxloss") * row["picked"] for row in found)


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (None, "still going or killed"),
        ({"how": "stopped", "step": 7, "why": "SIGTERM"}, "stopped after 7 steps by SIGTERM"),
        (
            {"how": "failed", "step": 7, "why": "word " * 30 + "\x1b[31m"},
            "failed after 7 steps: " + "word " * 30 + r"\x1b[",
        ),
    ],
)
def test_how_the_run_ended(odd_dataset, tmp_path, capsys, ended, sentence):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=8, ended=ended)
    code, out, _ = ask(capsys, folder)
    assert code == 0
    assert sentence in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= WIDTH
    assert ask(capsys, folder, "--html")[0] == 0
    assert f"<dt>ended</dt><dd>{sentence}" in (folder / "report.html").read_text()


def test_a_regular_run_is_reported_too(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "regular", odd_dataset[0], method="regular")
    code, out, err = ask(capsys, folder)
    assert (code, err) == (0, "")
    assert "Nothing was scored: method regular" in out
    assert "Sources, by pick rate" in out
    assert "Documents of highest" not in out
    assert ask(capsys, folder, "--html")[0] == 0
    for question in (["--ask", "bias"], ["--ask", "time"], ["--sample", "3"], ["--step", "0"], ["--against", folder]):
        assert ask(capsys, folder, *question)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sample", "99999"], "sample 99999 is not in the selection log: it was never offered"),
        (["--step", "500"], "step 500 is not in the selection log: it has steps 0 to 11"),
        (["--document", "nobody"], "document 'nobody' is in no candidate of this run"),
        (["--source", "news"], "source 'news' is in no candidate of this run; its sources are: "),
        (["--step", "1", "--sample", "2"], "--sample and --step are different questions: ask one at a time"),
        (["--html", "--step", "1"], "--step and --html are different questions"),
        (["--csv", "--json"], "--csv and --json exclude each other"),
        (["--top", "0"], "--top is 0; it must be at least 1"),
        (["--order", "loss"], "--order and --lowest belong to --ask samples"),
        (["--ask", "samples", "--order", "size"], "cannot order by 'size': the columns to order by are offered"),
        (["--against", "nowhere"], "nowhere holds no config.toml, so it is no run folder"),
    ],
)
def test_wrong_questions_get_a_sentence(run, capsys, arguments, sentence):
    code, out, err = ask(capsys, run, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}")
    assert len(err.splitlines()) == 1


def test_it_runs_as_the_documented_command(run):
    command = [sys.executable, "-m", "scripts.report", str(run), "--ask", "sources"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0
    assert "Sources, by pick rate" in finished.stdout
