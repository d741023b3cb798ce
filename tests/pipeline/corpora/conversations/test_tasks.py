"""Files of published evaluations as conversations, as target of a pool, and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from pipeline.dataset.manifest import HELD_OUT
from pipeline.dataset.reader import SplitReader
from pipeline.mixture.registry import read_corpus
from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe
from tests.pipeline.corpora.conversations.examples import DIALOGUES, FILES, QUESTIONS, ROWS, write_task


def _said(document):
    return [document.text[first:last] for first, last in document.loss]


def test_mmlu(tmp_path):
    (tmp_path / "dev").mkdir()
    write_task("mmlu", tmp_path / "dev" / "world_religions_dev.csv")
    write_task("mmlu", tmp_path / "sociology_test.csv")
    one, *_, other = read_corpus("mmlu", [str(tmp_path / "**" / "*.csv")])
    question, *choices, answer = ROWS[0]
    assert one.text == (
        "<|user|>\nThe following are multiple choice questions (with answers) about world religions.\n\n"
        f"{question}\nA. {choices[0]}\nB. {choices[1]}\nC. {choices[2]}\nD. {choices[3]}\nAnswer:\n"
        f"<|assistant|>\n{answer}\n"
    )
    assert _said(one) == [answer]
    assert (one.id, one.source) == ("dev/world_religions_dev.csv:0", "world_religions")
    assert (other.id, other.source) == (f"sociology_test.csv:{len(ROWS) - 1}", "sociology")


def test_tydiqa(tmp_path):
    write_task("tydiqa", tmp_path / "dev.json")
    documents = list(read_corpus("tydiqa", [str(tmp_path / "dev.json")]))
    assert [_said(one) for one in documents] == [[answers[0]] for _, _, answers in QUESTIONS]
    assert documents[0].text == (
        "<|user|>\nAnswer the question by words of the passage.\n\n"
        f"Passage: {QUESTIONS[0][0]}\n\nQuestion: {QUESTIONS[0][1]}\n<|assistant|>\n{QUESTIONS[0][2][0]}\n"
    )
    assert [(one.id, one.source) for one in documents] == [
        ("dev.json:finnish-0", "finnish"),
        ("dev.json:swahili-1", "swahili"),
        ("dev.json:2", "dev"),
    ]


def test_samsum(tmp_path):
    write_task("samsum", tmp_path / "val.json")
    first, _ = read_corpus("samsum", [str(tmp_path / "val.json")])
    dialogue, summary = DIALOGUES[0]
    assert first.text == f"<|user|>\nSummarize the dialogue.\n\n{dialogue}\n<|assistant|>\n{summary}\n"
    assert (_said(first), first.id, first.source) == ([summary], "val.json:13-0", "val")


@pytest.mark.parametrize("name", FILES)
def test_as_the_target_of_other_text_their_prompts_are_masked(tmp_path, name):
    path = write_task(name, tmp_path / FILES[name], copies=30)
    (tmp_path / "words.txt").write_text("who asks and who answers. " * 300)
    recipe = Recipe("text", tmp_path / "data", (str(tmp_path / "words.txt"),), vocab_size=300, seq_len=300, workers=1)
    recipe = Recipe(**recipe.__dict__ | {"target_files": (str(path),), "target_corpus": name})
    manifest = prepare(recipe)
    tokenizer = Tokenizer.from_file(str(manifest.folder / "tokenizer.json"))
    answers = {one.text[slice(*one.loss[0])] + "<|endoftext|>" for one in read_corpus(name, [str(path)])}
    for split in HELD_OUT:
        marked = SplitReader(manifest, split).marked(np.arange(manifest.samples(split)))
        said = {tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=False) for row in marked}
        assert said <= answers
        assert said
    assert (SplitReader(manifest).marked([0])[0, 1:] >= 0).all()


def test_the_dev_files_steer_and_the_test_files_are_measured(tmp_path):
    for name, copies in (("dev/religions_dev", 5), ("dev/sociology_dev", 1), ("test/sociology_test", 30)):
        path = tmp_path / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        write_task("mmlu", path, copies)
    (tmp_path / "words.txt").write_text("who asks and who answers. " * 300)
    recipe = Recipe("text", tmp_path / "data", (str(tmp_path / "words.txt"),), vocab_size=300, seq_len=300, workers=1)
    dev, test = (str(tmp_path / folder / "*.csv") for folder in ("dev", "test"))
    recipe = replace(recipe, target_corpus="mmlu", target_files=(dev,), measured_files=(test,))
    manifest = prepare(recipe)
    counts = {split: {name: of["documents"] for name, of in manifest.sources[split].items()} for split in HELD_OUT}
    # The questions of sociology's dev file are asked in its test file too.
    assert counts["target"] == {"target": 5 * len(ROWS)}
    assert manifest.duplicates["dropped_from_target_as_measured"] == len(ROWS)
    assert counts["val"]["measured"] + counts["test"]["measured"] == 30 * len(ROWS)
    assert set(counts["val"]) == set(counts["test"]) == {"measured"}
    with pytest.raises(ValueError, match="all of the target corpus is split target: leave out --target-fraction"):
        prepare(replace(recipe, out=tmp_path / "other", target_fraction=0.1))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("mmlu", "q,a,b,c,d,A\nq,a,b\n", "row 2 has 3 columns: a question, four choices and a letter are expected"),
        ("mmlu", "q,a,b,c,d,E\n", "row 1: the answer is 'E'; it must be one of A, B, C, D"),
        ("tydiqa", "{", "bad.json is no JSON"),
        ("tydiqa", '{"data": [{"qas": []}]}', "bad.json has not the form of SQuAD: data, paragraphs, context and qas"),
        (
            "tydiqa",
            json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": []}]}]}]}),
            "question 1 has no answers: take it out",
        ),
        ("samsum", '{"dialogue": "a"}', "bad.json is no list of objects with dialogue and summary"),
        ("samsum", '[{"dialogue": "a"}]', "dialogue 1: field 'summary' is no text but NoneType"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, text, sentence):
    path = tmp_path / ("bad.csv" if name == "mmlu" else "bad.json")
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence) as error:
        list(read_corpus(name, [str(path)]))
    assert str(path) in str(error.value)


def test_a_target_corpus_is_for_target_files(tmp_path):
    (tmp_path / "a.csv").write_text("q,a,b,c,d,A\n")
    recipe = Recipe("text", tmp_path / "data", (str(tmp_path / "a.csv"),), target_corpus="mmlu")
    with pytest.raises(ValueError, match="--target-corpus does nothing without --target-files"):
        prepare(recipe)
    recipe = Recipe("text", tmp_path / "data", (str(tmp_path / "a.csv"),), target_files=(str(tmp_path / "a.csv"),))
    with pytest.raises(ValueError, match=r"the name of .*a.csv tells no format .*: say it by --target-corpus"):
        prepare(recipe)
