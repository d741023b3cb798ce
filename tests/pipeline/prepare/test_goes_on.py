"""Interrupted, begun anew, by more processes: the same bytes; after bad input nothing."""

import dataclasses
import resource
from pathlib import Path

import pytest

from pipeline.encoding import parts
from pipeline.encoding.documents import Encoder
from pipeline.interrupted import Interrupted
from pipeline.prepare.build import prepare

DOCUMENTS = 300  # of the corpus in conftest.py


def _bytes(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_empty_folder_and_leftovers_are_no_obstacle(recipe, dataset, tmp_path):
    (tmp_path / "data").mkdir()
    left = tmp_path / "data.partial"
    (left / "shuffle").mkdir(parents=True)
    (left / "shuffle" / "000").write_text("of an interrupted run")
    (left / "train-000000.tar").write_text("of an interrupted run")
    prepare(dataclasses.replace(recipe, out=tmp_path / "data"))
    assert _bytes(tmp_path / "data") == _bytes(dataset.folder)
    assert not left.exists()


def test_two_at_once_do_not_mix(recipe, tmp_path):
    def second(what, things, total):
        with pytest.raises(ValueError, match="another prepare is writing"):
            prepare(dataclasses.replace(recipe, out=tmp_path / "data"))
        tried.append(what)
        return iter(things)

    tried = []
    prepare(dataclasses.replace(recipe, out=tmp_path / "data"), second)
    assert tried == ["reading text for the tokenizer", "encoding documents", "writing train shards"]


@pytest.mark.parametrize("at", [("reading text", 100), ("encoding", 295), ("writing", 100)])
def test_after_an_interruption_the_same_command_goes_on(recipe, dataset, tmp_path, monkeypatch, at):
    """Ctrl-C in the tokenizer's pass, while text is encoded, and while shards are written."""
    monkeypatch.setattr(parts, "PART", 2_000)

    def watch(what, things, total):
        for number, thing in enumerate(things):
            if what.startswith(at[0]) and number == at[1]:
                raise KeyboardInterrupt
            yield thing

    again = dataclasses.replace(recipe, out=tmp_path / "data", workers=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(again, watch)
    finished = list(tmp_path.glob("data.partial/encoded/*.part"))
    assert bool(finished) == tmp_path.joinpath("data.partial").exists() == (at[0] != "reading text")
    made = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, some: (made.append(some), encode(self, some))[1])
    prepare(again)
    assert _bytes(tmp_path / "data") == _bytes(dataset.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    # Six in ten documents of the code wait for the end: their text could be held out.
    assert sum(len(some) for some in made) <= DOCUMENTS - 140 * bool(finished)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bytes(recipe, dataset, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(parts, "PART", 5_000)
    prepare(dataclasses.replace(recipe, out=tmp_path / "data", workers=workers))
    assert _bytes(tmp_path / "data") == _bytes(dataset.folder)


def test_a_bad_record_after_finished_parts_leaves_nothing(recipe, corpus, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2_000)
    (tmp_path / "verse.jsonl").write_text("{")
    changed = {"data_files": (*recipe.data_files, str(tmp_path / "verse.jsonl")), "workers": 2, "vocab_size": None}
    changed |= {"tokenizer": str(dataset.folder / "tokenizer.json"), "out": tmp_path / "data"}
    with pytest.raises(ValueError, match=r"verse.jsonl, line 1 is no JSON"):
        prepare(dataclasses.replace(recipe, **changed))
    assert [path.name for path in tmp_path.iterdir()] == ["verse.jsonl"]


DISKS = [(2_000, 2_000, False), (10**6, 30_000, True), (2_000, 30_000, True)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("part", "most", "stays"), DISKS)
def test_a_full_disk_is_one_sentence_and_leaves_what_is_finished(
    recipe, dataset, tmp_path, monkeypatch, part, most, stays, workers
):
    """At the tokenizer, at a part and at a shard: files may not grow further. Then there is room again."""
    monkeypatch.setattr(parts, "PART", part)
    again = dataclasses.replace(recipe, out=tmp_path / "data", workers=workers)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(Interrupted, match=r"^\S+ cannot be read or written .File too large.: mend that and run"):
            prepare(again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent.name for path in left} == ({"encoded"} if stays else set())
    assert any(path.suffix == ".part" for path in left) == (part < 10**6 and stays)
    prepare(again)
    assert _bytes(tmp_path / "data") == _bytes(dataset.folder)
