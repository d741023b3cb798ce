import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from scripts.report.format import WIDTH, number, one_line, printable
from scripts.report.plot import plot
from scripts.report.run import Texts
from scripts.train.__main__ import main as train
from selection.log.reader import read_log
from selection.log.writer import SelectionLog
from tests.helpers.run_example import HTML, MARKUP, STEPS, K, N, ask, ask_json, make_dataset, make_run


@pytest.fixture(scope="module")
def odd_dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("odd") / "dataset")


@pytest.fixture(scope="module")
def run(odd_dataset, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "topk", odd_dataset[0])


def test_the_report_says_what_the_run_did(run, capsys):
    code, out, err = ask(capsys, run)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for name, value in {
        "method": "topk",
        "steps": str(STEPS),
        "candidates": str(STEPS * N),
        "picks": str(STEPS * K),
        "seconds": str(2 * STEPS),
        "first val loss": "5.0000",
        "final val loss": "4.2000",
        "final test loss": "4.7000",
    }.items():
        assert any(line.split() == [*name.split(), value] for line in lines), name
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


@pytest.mark.parametrize("packing", ["concat", "document"])
def test_text_comes_back_exactly(tmp_path, packing):
    dataset, documents = make_dataset(tmp_path / "dataset", packing)
    texts = Texts(dataset)
    compared = 0
    for sample_id in range(texts.reader.samples):
        spans, pieces = texts.spans(sample_id), texts.pieces(sample_id)
        assert len(spans) == len(pieces) > 0
        for span, piece in zip(spans, pieces, strict=True):
            source = documents[span.document]["text"][span.first : span.last]
            if "\ufffd" in piece:  # only a letter of several bytes, at either end, may have been cut
                inner = piece.strip("\ufffd")
                assert "\ufffd" not in inner
                assert source[:1] + inner + source[-1:] in (source, source[:1] + source, source + source[-1:])
            else:
                assert piece == source
                compared += len(piece)
    assert compared > 5000


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


def test_text_is_data(run, odd_dataset, capsys):
    texts = Texts(odd_dataset[0])
    odd = next(i for i in range(STEPS * N) if "[bold]" in texts.text(i) and "\x1b" in texts.text(i))
    for question in ([], ["--sample", odd], ["--step", odd // N], ["--ask", "documents"], ["--ask", "sources"]):
        _, out, err = ask(capsys, run, *question)
        assert not set(out + err) & set("\x1b\x07\x9b\u202e"), question
    _, out, _ = ask(capsys, run, "--sample", odd)
    assert r"\x1b[31mred\x1b[0m" in out
    assert "[bold]not bold[/bold]" in out  # shown as it is, not read as rich's markup
    assert "odd[red]" in out
    # In JSON every character survives, in ASCII.
    _, out, _ = ask(capsys, run, "--sample", odd, "--json")
    assert out.isascii()
    assert texts.pieces(odd)[0] == json.loads(out)["text"][0]["text"]


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


def test_trained_runs_are_reported(dataset, tmp_path, capsys):
    """What the training loop writes is what the report reads, for a run that scores and one that does not."""
    options = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --train.steps 4 --train.warmup-steps 1"
    options += " --train.eval-every 2 --train.eval-samples 8 --data.workers 0 --selection.candidates 6"
    options += f" --selection.picks 2 --selection.validation 4 --data.path {dataset}"
    for method in ("greats", "regular"):
        folder = tmp_path / method
        assert train([*options.split(), "--selection.method", method, "--out", str(folder)]) == 0
        (numbers,) = ask_json(capsys, folder)["numbers"]
        assert (numbers["method"], numbers["steps"], numbers["picks"]) == (method, 4, 4 * 2 * 2)
        assert numbers["final_val_loss"] < numbers["first_val_loss"]
        rows = ask_json(capsys, folder, "--ask", "sources")["sources"]
        assert {row["source"] for row in rows} == {"words", "noise"}
        assert sum(row["picked"] for row in rows) == pytest.approx(16)


def test_a_trained_run_behind_a_prefilter_is_reported(dataset, tmp_path, capsys):
    """What the log says of the predictions is what the judge of the run heard."""
    options = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --train.steps 7 --train.warmup-steps 1"
    options += " --train.eval-samples 8 --data.workers 0 --selection.candidates 6 --selection.drawn 8"
    options += " --selection.picks 2 --selection.validation 4"
    predictor = [*options.split(), "--selection.every", "3", "--selection.prefilter", "predictor"]
    assert train([*predictor, "--data.path", str(dataset), "--out", str(tmp_path / "run")]) == 0
    answers = ask_json(capsys, tmp_path / "run", "--ask", "predictor")
    found = [row["correlation"] for row in answers["predictions"] if row["scored_steps"]]
    heard = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    heard = {line["step"]: line["prefilter_correlation"] for line in heard if "train_loss" in line}
    # Steps 0, 3 and 6 are scored; after step 6 no later one tells.
    assert found[0] == pytest.approx(heard[1], rel=1e-4)
    assert np.mean(found[:2]) == pytest.approx(heard[4], rel=1e-4)
    (numbers,) = ask_json(capsys, tmp_path / "run")["numbers"]
    groups = numbers["groups"]
    assert (numbers["candidates"], numbers["scored"], numbers["picks"]) == (56 * groups, 18 * groups, 14 * groups)
    assert answers["ngrams"]

    options += " --selection.method regular --selection.prefilter importance"
    assert train([*options.split(), "--data.path", str(dataset), "--out", str(tmp_path / "importance")]) == 0
    _, out, err = ask(capsys, tmp_path / "importance", "--ask", "predictor")
    assert err == ""
    assert "Nothing was scored, so nothing can be compared." in out
    assert "100.0 % of the picks were made without scores." in " ".join(out.split())


def test_a_damaged_file_is_named_and_the_rest_is_reported(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    broken = folder / "selection" / "000000050-rank00001.parquet"
    broken.write_bytes(b"PAR1 half a file")
    code, out, err = ask(capsys, folder)
    assert code == 0
    assert f"note: {broken.name} is damaged and left out" in err
    assert len(err.splitlines()) == 1
    assert "Sources, by pick rate" in out
    assert ask(capsys, folder, "--html")[0] == 0
    assert broken.name in (folder / "report.html").read_text()


def test_steps_without_rows_are_told(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=5)
    later = SelectionLog(folder / "selection", rank=0)
    later.append(9, 0, [0], [0], learning_rate=1.0)
    later.close()
    assert ask_json(capsys, folder)["gaps"] == [{"first_step": 5, "last_step": 8, "groups": [0]}]


def test_a_run_still_going_is_reported_and_its_spans_grow(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=5)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "train_lo')  # being written
    first = ask_json(capsys, folder)["numbers"][0]
    assert (first["steps"], first["planned_steps"]) == (5, STEPS)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('ss": 4.5, "seconds": 12.0}\n')
    make_run(folder, odd_dataset[0], first=5)
    assert ask_json(capsys, folder)["numbers"][0]["steps"] == STEPS
    parts = sorted((folder / "spans").iterdir())
    assert [path.name for path in parts] == ["000000.parquet", "000001.parquet"]
    ids = [set(pq.read_table(path)["sample_id"].to_pylist()) for path in parts]
    assert ids[0] | ids[1] == set(read_log(folder / "selection")["sample_id"].to_pylist())
    assert not ids[0] & ids[1]


def test_spans_that_were_damaged_are_looked_up_again(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    before = ask_json(capsys, folder, "--ask", "sources")
    (folder / "spans" / "000000.parquet").write_bytes(b"PAR1 half a file")
    assert ask_json(capsys, folder, "--ask", "sources") == before


def test_a_folder_that_cannot_be_written_gets_a_sentence(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    (folder / "spans").write_text("in the way")
    code, out, err = ask(capsys, folder)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: cannot write {folder / 'spans' / '000000.parquet'}")
    assert len(err.splitlines()) == 1


def test_a_run_before_its_first_flush(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=0)
    (folder / "metrics.jsonl").unlink()
    code, out, err = ask(capsys, folder)
    assert code == 0
    assert "nothing measured yet" in out
    assert "there is no metrics.jsonl" in err
    assert ask(capsys, folder, "--html")[0] == 0


def test_a_dataset_that_moved_or_changed(odd_dataset, dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(str(odd_dataset[0]), "/nowhere"))
    code, out, err = ask(capsys, folder)
    assert code == 0
    assert "note: no texts: /nowhere" in err
    assert "Sources" not in out
    code, out, err = ask(capsys, folder, "--data", odd_dataset[0])
    assert (code, err) == (0, "")
    assert "Sources" in out
    shutil.rmtree(folder / "spans")
    _, out, err = ask(capsys, folder, "--data", dataset)
    assert "is not the dataset of this run" in err
    assert "Sources" not in out


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


def test_folders_that_are_no_runs_get_a_sentence(tmp_path, capsys):
    def error():
        code, out, err = ask(capsys, tmp_path)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        return err

    assert "holds no config.toml, so it is no run folder" in error()
    config = tmp_path / "config.toml"
    config.write_text("[data")
    assert f"{config} is not valid TOML" in error()
    config.write_text('[data]\npath = "x"\n')
    assert f"{config} has no key 'selection'" in error()
    config.write_text('[data]\npath = "x"\n[selection]\nmethod = "greats"\n')
    assert "selection is not a folder" in error()


def test_it_runs_as_the_documented_command(run):
    command = [sys.executable, "-m", "scripts.report", str(run), "--ask", "sources"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0
    assert "Sources, by pick rate" in finished.stdout


def test_the_plot_puts_points_where_they_belong():
    lines = [line.plain for line in plot([(0, 4.0), (10, 2.0)], {"v": [(5, 3.0)]}, width=30, height=5, label="step")]
    assert len(lines) == 7
    assert {len(line) for line in lines[:6]} == {30}
    assert lines[0].startswith("4.00 │⠁")
    assert lines[4].endswith("⢀"), lines[4]
    assert lines[2].index("v") == pytest.approx(6 + 23 / 2, abs=1)
    assert lines[6].split() == ["0", "step", "10"]


def test_the_plot_leaves_out_what_is_not_finite():
    points = [(0, float("nan")), (1, 1.0), (2, None), (3, float("inf"))]
    lines = [line.plain for line in plot(points, {"v": []}, width=20, height=3, label="step")]
    assert sum(character > "⠀" and character <= "⣿" for line in lines for character in line) == 1
    assert [line.plain.strip() for line in plot([], {"v": []}, 20, 3, "step")] == ["nothing measured yet"]


def test_text_shown_in_a_terminal_cannot_act_on_it():
    assert printable("a\x1b]0;title\x07b\r\x9b1mc\u202ed\u200be\nf\tg") == (
        r"a\x1b]0;title\x07b\r\x9b1mc\u202ed\u200be" + "\nf\tg"
    )
    assert printable("żółć 漢字 🎈 [red]") == "żółć 漢字 🎈 [red]"
    assert one_line("a\n\n  b\tc" + " x" * 100, 8) == "a b c x…"


@pytest.mark.parametrize(
    ("value", "column", "shown"),
    [
        (0.1234567, "mean_score", "0.1235"), (0.5, "pick_rate", "50.0 %"), (12345, "sample_id", "12345"),
        (12345, "candidates", "12,345"), (5.0, "offered", "5"), (2.5, "val_loss", "2.5000"), (None, "loss", "–"),
        (float("nan"), "loss", "nan"), (-0.05, "change", "-5.0 pp"), (1.5, "seconds_per_step", "1.5"),
    ],
)  # fmt: skip
def test_numbers_are_shown_as_their_column_wants(value, column, shown):
    assert number(value, column) == shown


def test_rarity_is_the_mean_of_unigram_bits(odd_dataset):
    texts = Texts(odd_dataset[0])
    tokens = texts.reader.tokens(range(texts.reader.samples))
    counts = np.bincount(tokens.ravel(), minlength=texts.manifest.vocab_size) + 1
    ids = [0, 5, 7]
    for sample_id, rarity in zip(ids, texts.rarity(np.array(ids)), strict=True):
        own = [token for token in tokens[sample_id] if token != texts.manifest.end_of_text]
        assert rarity == pytest.approx(np.mean([-np.log2(counts[token] / counts.sum()) for token in own]))


def test_the_page_holds_no_markup_of_documents(run, capsys):
    code, out, _ = ask(capsys, run, "--html")
    assert (code, out.strip()) == (0, str(run / "report.html"))
    page = (run / "report.html").read_text()
    assert HTML not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert MARKUP in page
    assert "\x1b" not in page
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http-equiv", "").replace("[link=http://x]", "")
