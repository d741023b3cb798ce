import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpora.document import Document
from pipeline.corpora.files import PART
from pipeline.mixture.registry import estimated_characters, read_corpus

ROWS = [{"text": "one é", "id": 7, "kind": "a"}, {"text": "two\nlines", "id": "x", "kind": "b"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _zstd(path, data):
    with pa.output_stream(path, compression="zstd") as file:
        file.write(data)


WRITERS = {
    "": lambda path, data: path.write_bytes(data),
    ".gz": lambda path, data: path.write_bytes(gzip.compress(data)),
    ".bz2": lambda path, data: path.write_bytes(bz2.compress(data)),
    ".xz": lambda path, data: path.write_bytes(lzma.compress(data)),
    ".zst": _zstd,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_json_plain_and_compressed(tmp_path, suffix):
    path = tmp_path / f"news.jsonl{suffix}"
    WRITERS[suffix](path, LINES.encode())
    assert list(read_corpus("json", [str(path)])) == [
        Document(f"news.jsonl{suffix}:0", "one é", "news"),
        Document(f"news.jsonl{suffix}:1", "two\nlines", "news"),
    ]
    assert list(read_corpus("json", [str(path)], id_field="id", source_field="kind")) == [
        Document("7", "one é", "a"),
        Document("x", "two\nlines", "b"),
    ]


def test_parquet(tmp_path):
    path = tmp_path / "web.parquet"
    texts = [f"text {i}" for i in range(600)]
    pq.write_table(pa.table({"body": texts, "n": list(range(600)), "unused": texts}), path)
    documents = list(read_corpus("parquet", [str(path)], text_field="body"))
    assert documents == [Document(f"web.parquet:{i}", text, "web") for i, text in enumerate(texts)]
    assert [d.id for d in read_corpus("parquet", [str(path)], text_field="body", id_field="n")][-1] == "599"


def test_text_is_cut_at_line_ends_and_loses_nothing(tmp_path):
    path = tmp_path / "book.v1.txt.gz"
    text = "".join(f"This is line {i}.\r\n" for i in range(3000)) + "x" * (3 * PART)
    path.write_bytes(gzip.compress(text.encode()))
    documents = list(read_corpus("text", [str(path)]))
    assert "".join(document.text for document in documents) == text
    assert [document.id for document in documents] == [f"book.v1.txt.gz:{i}" for i in range(len(documents))]
    assert {document.source for document in documents} == {"book.v1"}
    assert all(len(document.text) <= 2 * PART for document in documents)
    assert documents[0].text.endswith("\r\n")


def test_globs_are_sorted_and_ids_tell_files_of_one_name_apart(tmp_path):
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.txt").write_text(f"in {folder}")
    files = [str(tmp_path / "*" / "*.txt"), str(tmp_path / "b" / "part.txt")]
    documents = list(read_corpus("text", files))
    assert [(d.id, d.text) for d in documents] == [("a/part.txt:0", "in a"), ("b/part.txt:0", "in b")]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "[1].txt").write_text("text")
    assert [d.source for d in read_corpus("text", [str(tmp_path / "[1].txt")])] == ["[1]"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert [d.text for d in read_corpus("json", [str(tmp_path / "a.jsonl")])] == ["one é", "two\nlines"]


def test_blank_lines_and_lone_surrogates_in_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "a \\ud800 b \\ud83d\\ude00"}\n\n')
    assert [d.text for d in read_corpus("json", [str(path)])] == ["a ? b 😀"]


def test_estimated_characters(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    (tmp_path / "b.txt.gz").write_bytes(b"y" * 50)
    assert estimated_characters("text", [str(tmp_path / "*")]) == 100 + 3 * 50


@pytest.mark.parametrize(
    ("content", "fields", "sentence"),
    [
        ('{"text": "a"}\n{"body": "b"}\n', {}, r"bad.jsonl, line 2 has no field 'text' \(it has body\)"),
        ('{"text": "a"}\n', {"id_field": "key"}, "line 1 has no field 'key' .*--id-field"),
        ('{"text": "a"}\n', {"source_field": "kind"}, "line 1 has no field 'kind' .*--source-field"),
        ('{"text": null}\n', {}, "line 1: field 'text' is no text but NoneType"),
        ('{"text": "a", "id": [1]}\n', {"id_field": "id"}, "line 1: the fields for id and source must be"),
        ('{"text": "a"}\n{"text": \n', {}, "line 2 is no JSON"),
        ('[{"text": "a"}]\n', {}, "line 1 is no JSON object; one object a line"),
        (b'{"text": "\xff"}\n', {}, "bad.jsonl cannot be read: 'utf-8' codec"),
    ],
)
def test_bad_json_gets_a_sentence(tmp_path, content, fields, sentence):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence):
        list(read_corpus("json", [str(path)], **fields))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_compressed_file_gets_a_sentence(tmp_path, suffix, damage):
    path = tmp_path / f"bad.jsonl{suffix}"
    WRITERS[suffix](path, (LINES * 5000).encode())
    path.write_bytes(path.read_bytes()[:-20] if damage == "cut" else b"no archive at all")
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read: "):
        list(read_corpus("json", [str(path)]))


def test_bad_parquet_gets_a_sentence(tmp_path):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"body": ["a"]}), path)
    with pytest.raises(ValueError, match=r"row 0 has no field 'text' \(it has body\)"):
        list(read_corpus("parquet", [str(path)]))
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"bad.parquet cannot be read"):
        list(read_corpus("parquet", [str(path)]))


def test_bad_requests_get_a_sentence_at_once():
    with pytest.raises(ValueError, match="unknown corpus 'pile'"):
        read_corpus("pile")
    with pytest.raises(ValueError, match="corpus json needs --data-files"):
        read_corpus("json")
    with pytest.raises(ValueError, match=r"no file matches 'missing/\*'"):
        read_corpus("text", ["missing/*"])
    with pytest.raises(ValueError, match="openwebtext reads no --data-files"):
        read_corpus("openwebtext", ["a.txt"])
