"""Records of the three forms, and which of their characters carry loss."""

import json

import pytest

from pipeline.mixture.registry import estimated_characters, read_corpus

MESSAGES = {
    "dataset": "cot",
    "id": "cot-7",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Two and two? \n"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "\nYes: 漢\n"},
    ],
}
PROMPT = {"prompt": "Say é", "completion": "é", "dataset": "plain"}
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
ALPACA_WITHOUT_INPUT = {"instruction": "Say nothing.", "output": ""}


def _write(folder, *records, name="talks.jsonl"):
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return [str(folder / "*.jsonl")]


def test_the_three_forms(tmp_path):
    files = _write(tmp_path, MESSAGES, PROMPT, ALPACA, ALPACA_WITHOUT_INPUT)
    documents = list(read_corpus("instructions", files))
    assert [document.text for document in documents] == [
        "<|system|>\nBe brief.\n<|user|>\nTwo and two?\n<|assistant|>\nFour.\n"
        "<|user|>\nSure?\n<|assistant|>\nYes: 漢\n",
        "<|user|>\nSay é\n<|assistant|>\né\n",
        "<|user|>\nAdd.\n\n1 2\n<|assistant|>\n3\n",
        "<|user|>\nSay nothing.\n<|assistant|>\n\n",
    ]
    said = [[document.text[first:last] for first, last in document.loss] for document in documents]
    assert said == [["Four.", "Yes: 漢"], ["é"], ["3"], [""]]
    assert documents[0].loss == ((57, 62), (92, 98))
    assert [(document.id, document.source) for document in documents] == [
        ("cot-7", "cot"),
        ("talks.jsonl:1", "plain"),
        ("talks.jsonl:2", "talks"),
        ("talks.jsonl:3", "talks"),
    ]


def test_the_fields_for_source_and_id_may_have_other_names(tmp_path):
    files = _write(tmp_path, MESSAGES | {"task": "sums", "key": 3})
    (document,) = read_corpus("instructions", files, source_field="task", id_field="key")
    assert (document.id, document.source) == ("3", "sums")
    assert estimated_characters("instructions", files) == (tmp_path / "talks.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "line 2, message 1: unknown role 'tool'; the roles are",
        ),
        ({"messages": []}, "line 2 is an empty conversation"),
        ({"prompt": " ", "completion": "\n"}, "line 2 is an empty conversation"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2 has no turn of the role 'assistant'"),
        ({"messages": "x"}, "line 2: messages must be a list of objects"),
        ({"messages": [{"role": "user"}]}, "line 2, message 1: field 'content' is no text but NoneType"),
        ({"instruction": "x", "output": 3}, "line 2: field 'output' is no text but int"),
        ({"text": "x"}, r"line 2 is no conversation: messages, .* are expected \(it has text\)"),
    ],
)
def test_a_bad_record_is_named(tmp_path, record, sentence):
    files = _write(tmp_path, ALPACA, record)
    with pytest.raises(ValueError, match=rf"talks.jsonl, {sentence}"):
        list(read_corpus("instructions", files))
