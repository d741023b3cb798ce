"""The groups of duplicates that a dataset lists, read back; and a file that is not as it was written."""

import json

import pytest

from pipeline.dataset.duplicates import FILE, duplicates_of, problem_of
from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe

WORDS = [f"w{i}" for i in range(400)]


@pytest.fixture
def dataset(tmp_path):
    """80 texts; text 5 is there three times, text 6 twice."""
    rows = [{"text": " ".join(WORDS[i : i + 60]), "id": f"d{i}"} for i in range(80)]
    rows += [{"text": rows[i]["text"].replace(" ", "\n"), "id": name} for i, name in ((5, "x"), (6, "y"), (5, "z"))]
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = (str(tmp_path / "made.jsonl"),)
    fractions = {"target_fraction": 0.2, "val_fraction": 0.2, "test_fraction": 0.2}
    return prepare(Recipe("json", tmp_path / "data", files, id_field="id", vocab_size=300, seq_len=16, **fractions))


def test_the_groups_of_documents(dataset):
    assert (dataset.duplicates["exact"], dataset.duplicates["groups"]) == (3, 2)
    rows = duplicates_of(dataset, ["d1", "x"]).to_pylist()
    assert [row["document"] for row in rows] == ["d5", "x", "z"]
    assert len({row["group"] for row in rows}) == len({row["split"] for row in rows}) == 1
    assert {row["source"] for row in rows} == {"made"}
    both = duplicates_of(dataset, ["z", "d6"]).to_pylist()
    assert sorted(row["document"] for row in both) == ["d5", "d6", "x", "y", "z"]
    assert [row["group"] for row in both] == sorted(row["group"] for row in both)
    assert duplicates_of(dataset, ["d1", "none"]).num_rows == 0


def test_a_file_that_is_not_as_it_was_written(dataset):
    path = dataset.folder / FILE
    assert problem_of(dataset) is None
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert problem_of(dataset).startswith(f"{path} has other bytes than it was written with: restore it")
    path.unlink()
    with pytest.raises(ValueError, match=f"^{path} is missing: restore it or prepare the dataset again"):
        duplicates_of(dataset, ["d5"])


def test_a_dataset_without_duplicates_has_no_file(dataset, make_dataset, tmp_path):
    other = make_dataset(tmp_path / "made", samples=10, per_shard=5)
    assert problem_of(other) is None
    assert duplicates_of(other, ["doc-1"]).num_rows == 0
