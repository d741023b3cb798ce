"""The text that was picked as a data set of its own: what `datasets` and `prepare` read of it."""

import json
from collections import Counter

import datasets
import pytest

from pipeline.dataset.manifest import Manifest
from scripts.prepare.__main__ import main as prepare
from scripts.report.texts import Texts
from selection.log import read_log
from tests.helpers.run_example import ask, make_run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_pick_is_there_with_its_text_and_scores_and_nothing_else(run, odd_dataset, tmp_path, capsys):
    path, texts = tmp_path / "picks.jsonl", Texts(odd_dataset[0])
    code, out, err = ask(capsys, run, "--export-picks", path)
    found = lines(path)
    assert (code, err) == (0, "")
    assert out == f"{path} holds {len(found)} pieces of text that were picked, by contribution\n"
    rows = read_log(run / "selection").to_pandas()
    picks = rows[rows["pick"] >= 0]
    assert {line["sample_id"] for line in found} == set(picks["sample_id"])
    by_sample = Counter(line["sample_id"] for line in found)
    for line in found:
        own = rows[rows["sample_id"] == line["sample_id"]]
        assert line["picked"] == (own["pick"] >= 0).sum()
        assert line["mean_score"] == pytest.approx(own["score"].mean())
        assert by_sample[line["sample_id"]] == len(texts.spans(line["sample_id"]))
        assert line["text"] in texts.pieces(line["sample_id"])
        assert line["id"].startswith(line["document"] + "[")
        assert line["source"] == ("plain" if line["document"].startswith("plain") else "odd[red]")
    contributions = [line["contribution"] for line in found]
    assert contributions == sorted(contributions, reverse=True)
    assert contributions[0] > contributions[-1]


def test_the_first_ones_by_another_column(run, tmp_path, capsys):
    more = ["--top", "3", "--order", "mean_score", "--lowest"]
    assert ask(capsys, run, "--export-picks", tmp_path / "few.jsonl", *more)[0] == 0
    assert ask(capsys, run, "--export-picks", tmp_path / "all.jsonl", *more[2:])[0] == 0
    few, every = lines(tmp_path / "few.jsonl"), lines(tmp_path / "all.jsonl")
    assert len({line["sample_id"] for line in few}) == 3
    assert few == every[: len(few)]
    scores = [line["mean_score"] for line in every]
    assert scores == sorted(scores)


def test_datasets_and_prepare_read_it_back(run, tmp_path, capsys):
    path = tmp_path / "picks.jsonl"
    assert ask(capsys, run, "--export-picks", path)[0] == 0
    read = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["text"] == [line["text"] for line in lines(path)]
    assert read.features["contribution"].dtype == "float64"
    command = ["--corpus", "json", "--data-files", str(path), "--source-field", "source", "--id-field", "id"]
    command += [
        "--vocab-size",
        "300",
        "--seq-len",
        "16",
        "--workers",
        "1",
        "--target-fraction",
        "0.2",
        "--out",
        str(tmp_path / "data"),
    ]
    command += ["--val-fraction", "0.2", "--test-fraction", "0.2"]
    assert prepare(command) == 0
    manifest = Manifest.load(tmp_path / "data")
    documents = sum(one["documents"] for split in manifest.sources.values() for one in split.values())
    assert documents == len(read)


def test_what_is_unknown_is_null(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], method="maxloss")
    assert ask(capsys, folder, "--export-picks", tmp_path / "picks.jsonl")[0] == 0
    assert {line["contribution"] for line in lines(tmp_path / "picks.jsonl")} == {None}


def test_what_cannot_be_exported_is_told(run, odd_dataset, tmp_path, capsys):
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    new = tmp_path / "new.jsonl"
    for arguments, sentence in [
        (["--export-picks", there], f"--export-picks {there} exists already: choose another file"),
        (["--export-picks", new, "--csv"], "--export-picks writes JSON Lines and prints no table: leave out --csv"),
        (["--export-picks", new, "--sample", "1"], "--sample and --export-picks are different questions"),
        (["--export-picks", new, "--data", tmp_path], "--export-picks needs the dataset of the run: no texts:"),
        (["--export-picks", new, "--order", "text"], "cannot order by 'text': the columns to order by are"),
    ]:
        code, _, err = ask(capsys, run, *arguments)
        assert (code, sentence in err) == (2, True), err
    assert there.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [there]
