"""Was this picked again and again? What became of the duplicates of a sample's documents."""

import json
from collections import Counter

import pytest

from pipeline.dataset.duplicates import FILE
from pipeline.dataset.reader import SplitReader
from scripts.prepare.__main__ import main as prepare
from selection.log import read_log
from tests.helpers.run_example import ask, ask_json, make_run

COPIED = ["d3", "d40", "d60", "d61"]  # the first, and its copies


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    rows = [{"id": f"d{i}", "text": " ".join(f"w{i * j % 997}" for j in range(1, 60))} for i in range(2, 80)]
    text = rows[1]["text"]
    rows = [row | ({"text": text + "\n"} if row["id"] in COPIED[1:] else {}) for row in rows]
    (folder / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "--corpus",
        "json",
        "--data-files",
        str(folder / "made.jsonl"),
        "--id-field",
        "id",
        "--vocab-size",
        "300",
    ]
    options += ["--seq-len", "128", "--packing", "document", "--seed", "1", "--out", str(folder / "data")]
    assert prepare(options) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "topk", dataset)


def test_a_sample_tells_its_duplicates_and_how_they_fared(dataset, run, capsys):
    reader = SplitReader(dataset)
    samples = {name: [] for name in COPIED}
    for number in range(reader.samples):
        (span,) = reader.spans(number)
        if span.document in samples:
            samples[span.document].append(number)
    assert all(samples.values())  # all copies are in the train split
    rows = read_log(run / "selection").to_pylist()
    offered = Counter(row["sample_id"] for row in rows)
    picked = Counter(row["sample_id"] for row in rows if row["pick"] >= 0)
    some = next(sample for sample in samples["d40"] if offered[sample])
    answers = ask_json(capsys, run, "--sample", some)
    assert [row["document"] for row in answers["duplicates"]] == COPIED
    assert {row["split"] for row in answers["duplicates"]} == {"train"}
    for row in answers["duplicates"]:
        of_document = samples[row["document"]]
        assert row["offered"] == sum(offered[sample] for sample in of_document)
        assert row["picked"] == sum(picked[sample] for sample in of_document)
        assert row["samples"] == sum(offered[sample] > 0 for sample in of_document)
    assert sum(row["offered"] for row in answers["duplicates"]) > 2
    code, out, _ = ask(capsys, run, "--sample", some)
    assert code == 0
    assert "Its documents that have duplicates, and these" in out
    assert "d61" in out


def test_a_sample_without_duplicates_says_nothing_of_them(dataset, run, capsys):
    reader = SplitReader(dataset)
    other = next(i for i in range(48) if reader.spans(i)[0].document not in COPIED)
    assert "duplicates" not in ask_json(capsys, run, "--sample", other)


def test_a_lost_list_gets_a_sentence(dataset, run, capsys):
    content = (dataset / FILE).read_bytes()
    (dataset / FILE).unlink()
    try:
        code, _, err = ask(capsys, run, "--sample", 0)
    finally:
        (dataset / FILE).write_bytes(content)
    assert (code, err) == (2, f"error: {dataset}/{FILE} is missing: restore it or prepare the dataset again\n")
