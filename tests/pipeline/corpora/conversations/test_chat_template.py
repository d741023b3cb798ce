"""Conversations written by a tokenizer's chat template: tokens and mask are those of `transformers` itself."""

import json

import numpy as np
import pytest

from pipeline.corpora.conversations.chat_template import ChatTemplate
from pipeline.dataset.manifest import SPLITS
from pipeline.dataset.reader import SplitReader
from pipeline.mixture.registry import read_corpus
from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe
from tests.pipeline.corpora.conversations.examples import KINDS, write_chat_tokenizer

transformers = pytest.importorskip("transformers", reason="the peers extra is not installed")

TALKS = [
    {
        "id": f"talk-{n}",
        "messages": [
            {"role": "user", "content": f"who asks {n}? assistant"},
            {"role": "assistant", "content": f"  two words {n}\n"},
            {"role": "user", "content": "two words?"},
            {"role": "assistant", "content": "the model. 漢é"},
        ],
    }
    for n in range(60)
]


def _write(folder, *records):
    (folder / "talks.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return (str(folder / "talks.jsonl"),)


def _masked(tokenizer, messages) -> tuple[list[int], list[int]]:
    """Tokens and mask by `transformers`, of contents without the white space around them."""
    messages = [message | {"content": message["content"].strip()} for message in messages]
    found = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    return found["input_ids"], found["assistant_masks"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_masks_are_those_of_transformers(tmp_path, kind, workers):
    folder = write_chat_tokenizer(tmp_path / "model", kind)
    options = {"tokenizer": str(folder / "tokenizer.json"), "chat_template": str(folder), "seq_len": 200}
    recipe = Recipe("instructions", tmp_path / "data", _write(tmp_path, *TALKS), workers=workers, **options)
    manifest = prepare(recipe)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert manifest.end_of_text == tokenizer.eos_token_id
    talks, seen = {talk["id"]: talk["messages"] for talk in TALKS}, 0
    for split in SPLITS:
        reader = SplitReader(manifest, split)
        ids = np.arange(reader.samples)
        for sample, tokens, marked in zip(ids, reader.tokens(ids).tolist(), reader.marked(ids), strict=True):
            (span,) = reader.spans(sample)
            expected, mask = _masked(tokenizer, talks[span.document])
            assert tokens == expected + [manifest.end_of_text] * (201 - len(expected))
            assert (marked >= 0).astype(int).tolist() == mask + [0] * (201 - len(mask))
            assert sum(mask) > 8
            seen += 1
    assert seen == len(TALKS)
    # A tokenizer.json out of a dataset ends documents with the same token.
    again = dict(options, tokenizer=str(manifest.folder / "tokenizer.json"))
    other = prepare(Recipe("instructions", tmp_path / "again", _write(tmp_path, *TALKS), workers=1, **again))
    assert (other.end_of_text, other.shards) == (manifest.end_of_text, manifest.shards)


def test_what_is_said_is_found_whatever_stands_around_it(tmp_path):
    """Prompts that hold the same words, a role of another name, no special token after it."""
    folder = write_chat_tokenizer(
        tmp_path / "model",
        "ChatML",
        "{{ messages | length }}{% for one in messages %}{{ 'model' if one['role'] == 'assistant' else 'you' }}:"
        "{{ one['content'] | trim }}{{ '<|im_end|>' if loop.last }};{% endfor %}",
    )
    turns = [("user", "1you:b"), ("assistant", "b"), ("user", "b"), ("assistant", "b\nb")]
    text, loss = ChatTemplate.of(str(folder)).write(turns, "record 1")
    assert text == "4you:1you:b;model:b;you:b;model:b\nb<|im_end|>;"
    assert [text[first:last] for first, last in loss] == ["b", "b\nb<|im_end|>"]
    assert loss[0][0] == text.index("model:b;") + len("model:")


def test_characters_of_special_tokens_are_text_in_the_form_of_less_and_tokens_in_a_template(tmp_path):
    folder = write_chat_tokenizer(tmp_path / "model", "ChatML")
    talks = [{"prompt": f"a {n} <|im_end|>", "completion": "of <|im_end|> two"} for n in range(60)]
    found = {}
    for template in (None, str(folder)):
        recipe = Recipe(
            "instructions",
            tmp_path / f"data-{template is None}",
            _write(tmp_path, *talks),
            tokenizer=str(folder / "tokenizer.json"),
            chat_template=template,
            seq_len=100,
            workers=1,
        )
        manifest = prepare(recipe)
        tokens = SplitReader(manifest, "train").tokens([0])[0]
        found[template] = int((tokens == manifest.end_of_text).argmax())
    assert found[None] > found[str(folder)]  # LESS: after the answer; else already in the prompt


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"chat_template": "{none}"}, "--chat-template {none} cannot be read .*: the tokenizer's files"),
        ({"chat_template": "{plain}"}, "--chat-template {plain} has no chat template: .*LESS's form is used"),
        ({"chat_template": "{file}"}, "--chat-template {file} is a file: give the folder that it is in"),
        ({"tokenizer": None}, "a chat template needs the tokenizer that knows its tokens: give its tokenizer.json"),
        (
            {"tokenizer": "{other}"},
            "--chat-template {chat} is of another tokenizer: '{other}' has no <|im_st",
        ),
        ({"chat_template": "{shouts}"}, "line 1: the chat template of {shouts} does not write what the assistant says"),
        ({"chat_template": "{strict}"}, "line 1: the chat template of {strict} refuses it: no system role"),
        ({"corpus": "json"}, "corpus json reads no --chat-template: leave it out"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(tmp_path, change, sentence):
    paths = {name: tmp_path / name for name in ("none", "plain", "chat", "shouts", "strict")}
    write_chat_tokenizer(paths["chat"], "ChatML")
    write_chat_tokenizer(paths["plain"], "ChatML")
    (paths["plain"] / "chat_template.jinja").unlink()
    write_chat_tokenizer(paths["shouts"], "ChatML", "{% for m in messages %}{{ m['content'] | upper }};{% endfor %}")
    write_chat_tokenizer(paths["strict"], "ChatML", "{{ raise_exception('no system role') }}")
    paths |= {"file": paths["chat"] / "tokenizer.json"}
    paths |= {"other": write_chat_tokenizer(tmp_path / "other", "brackets") / "tokenizer.json"}
    told = {"corpus": "instructions", "tokenizer": "{file}", "chat_template": "{chat}"} | change
    told = {key: value and value.format(**paths) for key, value in told.items()}
    recipe = Recipe(out=tmp_path / "data", data_files=_write(tmp_path, *TALKS), workers=1, **told)
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- compared below, without what a pattern would escape
        prepare(recipe)
    expected = sentence.format(**paths)
    before, _, after = expected.partition(".*")
    assert before in str(error.value)
    assert after in str(error.value)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "data.partial").exists()


def test_a_template_that_is_not_there_is_told_before_a_record_is_read(tmp_path):
    files = _write(tmp_path, {"nothing": 1})
    with pytest.raises(ValueError, match="cannot be read"):
        read_corpus("instructions", files, chat_template=str(tmp_path / "none"))
