"""What `datasets` loads, offline: local folders, a repository of plain files, and streams that are lost on the way."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset

from pipeline.corpora import taken_up
from pipeline.corpora.document import Document
from pipeline.mixture.registry import estimated_characters, read_corpus

CARD = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: data/part-0.jsonl
- config_name: all
  data_files:
  - split: train
    path: data/part-*.jsonl
  - split: validation
    path: data/held-out.jsonl
---
"""


@pytest.fixture
def repository(tmp_path):
    """A dataset as it lies on the hub, without a script: two subsets and a second split, by its card."""
    folder = tmp_path / "web"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for part in range(2):
        rows = [{"body": f"text {part}-{i}", "url": f"u{part}{i}", "site": "ab"[part]} for i in range(3)]
        (folder / "data" / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data" / "held-out.jsonl").write_text('{"body": "é", "url": "v", "site": "c"}\n')
    return str(folder)


def test_subsets_splits_and_fields(repository):
    asked = {"dataset": repository, "text_field": "body"}
    assert list(read_corpus("hub", **asked, subset="small")) == [
        Document(f"web:{i}", f"text 0-{i}", "web") for i in range(3)
    ]
    everything = list(read_corpus("hub", **asked, subset="all", id_field="url", source_field="site"))
    assert everything == [Document(f"u{p}{i}", f"text {p}-{i}", "ab"[p]) for p in range(2) for i in range(3)]
    assert list(read_corpus("hub", **asked, subset="all", split="validation")) == [Document("web:0", "é", "web")]


def test_a_folder_of_parquet(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    texts = [f"text {i}" for i in range(2_500)]
    pq.write_table(pa.table({"text": texts}), folder / "train-00000.parquet")
    expected = [Document(f"books:{i}", text, "books") for i, text in enumerate(texts)]
    assert list(read_corpus("hub", dataset=str(folder))) == expected
    size = (folder / "train-00000.parquet").stat().st_size
    assert estimated_characters("hub", dataset=str(folder)) == 3 * size


def test_estimated_characters_by_card_or_size(repository, tmp_path):
    sizes = [(tmp_path / "web" / "data" / f"part-{part}.jsonl").stat().st_size for part in range(2)]
    assert estimated_characters("hub", dataset=repository, subset="all") == sum(sizes)
    assert estimated_characters("hub", dataset=repository, subset="small") == sizes[0]
    card = CARD.replace("configs:", "dataset_info:\n- config_name: all\n  splits:\n  - name: train\n"
                        "    num_bytes: 12345\n    num_examples: 6\nconfigs:")  # fmt: skip
    (tmp_path / "web" / "README.md").write_text(card)
    assert estimated_characters("hub", dataset=repository, subset="all") == 12345


def _losing(monkeypatch, losses, rows=5, shards=2):
    """The hub holds `shards` x `rows` rows, and loses the connection when row losses[0] is asked for, then [1], ..."""
    asked, losses = [], list(losses)

    def generate(shards):
        for shard in shards:
            for row in range(rows):
                if losses and losses[0] == shard * rows + row:
                    losses.pop(0)
                    raise ConnectionResetError("reset by the hub")
                yield {"text": f"row {shard * rows + row}"}

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return IterableDataset.from_generator(generate, gen_kwargs={"shards": list(range(shards))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(taken_up, "FIRST_PAUSE", 0.001)
    return asked


@pytest.mark.parametrize("losses", [[], [3], [5], [7, 7, 8], [9] * 5])
def test_a_lost_connection_is_taken_up_where_it_was_lost(monkeypatch, capfd, losses):
    asked = _losing(monkeypatch, losses)
    documents = list(read_corpus("openwebtext"))
    assert documents == [Document(f"openwebtext:{i}", f"row {i}", "openwebtext") for i in range(10)]
    load = {"name": None, "split": "train", "revision": None, "streaming": True}
    assert asked == [(("Skylion007/openwebtext",), load)] * (1 + len(losses))
    told = capfd.readouterr().err.splitlines()
    assert len(told) == len(losses)
    if losses:
        assert told[0].startswith(
            f"Skylion007/openwebtext: the connection is lost after row {losses[0] - 1} (reset by the hub); attempt 2"
        )


def test_a_hub_that_stays_away_gets_a_sentence(monkeypatch, capfd):
    asked = _losing(monkeypatch, [4] * 20)
    documents = read_corpus("hub", dataset="me/mine", revision="v1")
    assert [next(documents).id for _ in range(4)] == [f"mine:{i}" for i in range(4)]
    sentence = (
        r"me/mine cannot be read after row 3: reset by the hub \(attempt 6\); run the same command when it is back"
    )
    with pytest.raises(ValueError, match=sentence):
        next(documents)
    assert len(asked) == 6
    assert asked[-1][1]["revision"] == "v1"
    assert "attempt 6 of 6 in 0.016 s" in capfd.readouterr().err


def test_what_never_came_is_not_waited_for(monkeypatch):
    asked = _losing(monkeypatch, [0] * 20)
    with pytest.raises(ValueError, match=r"^me/mine cannot be loaded: reset by the hub$"):
        list(read_corpus("hub", dataset="me/mine"))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "corpus hub needs --dataset: a name on the hub"),
        ({"data_files": ["a"], "dataset": "b"}, "hub reads no --data-files"),
        ({"subset": "none"}, "web cannot be loaded: BuilderConfig 'none' not found. Available: .'small', 'all'.$"),
        ({"subset": "small", "split": "test"}, "web cannot be loaded: Bad split: test. Available splits: .'train'."),
        ({}, "web cannot be loaded: Config name is missing. Please pick one among the available configs"),
        ({"subset": "small"}, r"web, row 0 has no field 'text' \(it has body, url, site\): see --text-field"),
    ],
)
def test_bad_requests_get_a_sentence(repository, asked, sentence):
    if "needs" not in sentence:
        asked = {"dataset": repository} | asked
    with pytest.raises(ValueError, match=sentence) as raised:
        list(read_corpus("hub", **asked))
    assert "\n" not in str(raised.value)


GOOD = b'{"text": "a"}\n' * 3


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("train.jsonl", GOOD + b'{"text": \n', "cannot be loaded: JSON parse error"),
        (
            "train.jsonl",
            GOOD + b'{"text": "\xff"}\n',
            "cannot be read after row 2: 'utf-8' codec can't decode byte 0xff",
        ),
        ("train.jsonl.gz", gzip.compress(GOOD * 1000)[:-9], "cannot be loaded: Compressed file ended before"),
        ("train.parquet", b"PAR1 and no more", "cannot be loaded: Parquet magic bytes not found"),
        ("train.jsonl", b"", "cannot be loaded: its first file is empty"),
        ("train.py", b"print('never run')", "cannot be loaded: No .supported. data files found"),
    ],
)
def test_damaged_files_get_a_sentence(tmp_path, file, content, sentence):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"mine {sentence}"):
        list(read_corpus("hub", dataset=str(tmp_path / "mine")))


def test_other_corpora_read_no_dataset():
    with pytest.raises(ValueError, match="corpus openwebtext reads no --subset: leave it out"):
        read_corpus("openwebtext", subset="plain_text")
    with pytest.raises(ValueError, match="corpus text reads no --text-field: leave it out"):
        read_corpus("text", ["a.txt"], text_field="body")
