"""Answers to the questions of evaluations, and their measures by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.corpora.conversations.task import Item
from scripts.evaluate import tasks
from scripts.evaluate.__main__ import main
from scripts.export import open_model
from scripts.generate import Generate, generate
from tests.helpers.networks import write_network
from tests.pipeline.corpora.conversations.examples import FILES, ROWS, write_chat_tokenizer, write_task


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    """A Llama of random weights that takes whole questions, and whose answers depend on them."""
    folder = write_network(tmp_path_factory.mktemp("models") / "llama", "Llama", dataset, positions=700)
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight * (8 if "v_proj" in name or "o_proj" in name else 1) for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def evaluated(capsys, *arguments) -> dict:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def item(*answers, choices=()):
    return Item("here", "1", "s", "asked", answers, choices)


def test_measures_by_hand():
    assert tasks.accuracy([item("A"), item("C"), item("B")], ["A", "B", "B"]) == {"accuracy": pytest.approx(200 / 3)}
    items = [item("the long river", "river"), item("mrefu")]
    found = tasks.squad(items, ["A river.", "ni mrefu sana"])  # articles and points do not count; 2 x 1/3 / (1 + 1/3)
    assert found == {"exact_match": pytest.approx(50), "f1": pytest.approx(100 * (1 + 0.5) / 2)}
    found = tasks.rouge([item("Amanda baked cookies for Jerry")], ["Amanda baked bread for Jerry"])
    assert found == {"rouge1": pytest.approx(80), "rouge2": pytest.approx(50), "rougeL": pytest.approx(80)}


def test_a_choice_is_the_likeliest_letter(model, dataset, tmp_path, capsys):
    path = write_task("mmlu", tmp_path / FILES["mmlu"], copies=6)
    chosen = set()
    for folder in (model, write_network(tmp_path / "other", "Llama", dataset, positions=700)):
        opened, right = open_model(folder), 0
        letters = [opened.tokenizer.encode(letter, add_special_tokens=False) for letter in "ABCD"]
        assert {len(tokens) for tokens in letters} == {1}
        for one in tasks.TASKS["mmlu"].items(str(path), "x", "sociology_dev"):
            ids = opened.tokenizer(f"<|user|>\n{one.prompt}\n<|assistant|>\n", return_tensors="pt").input_ids
            with torch.no_grad():
                logits_V = opened.network(input_ids=ids).logits[0, -1]
            letter = max(zip("ABCD", letters, strict=True), key=lambda pair: logits_V[pair[1][0]])[0]
            chosen.add(letter)
            right += letter == one.answers[0]
        found = evaluated(capsys, folder, "--task", "mmlu", "--task-files", path)
        row = {"questions": 6 * len(ROWS), "accuracy": pytest.approx(100 * right / (6 * len(ROWS)))}
        assert found == {"model": str(folder), "task": "mmlu", "sources": {"all": row, "sociology": row}, "cut": 0}
    assert chosen >= {"C", "D"}  # the right letters of half of the questions each


@pytest.mark.parametrize("name", ["tydiqa", "samsum"])
def test_answers_are_what_the_model_writes(model, tmp_path, capsys, name, monkeypatch):
    path = write_task(name, tmp_path / FILES[name], copies=2)
    opened, seen = open_model(model), []
    measured = tasks.TASKS[name].measured
    spy = tasks.Task(tasks.TASKS[name].items, lambda *told: (seen.append(told), measured(*told))[1])
    monkeypatch.setitem(tasks.TASKS, name, spy)
    found = evaluated(capsys, model, "--task", name, "--task-files", path, "--tokens", 5)["sources"]
    items, answers = seen[0] if len(seen[0][0]) == found["all"]["questions"] else seen[-1]
    for one, answer in zip(items, answers, strict=True):
        asked = Generate(model, f"<|user|>\n{one.prompt}\n<|assistant|>\n", tokens=5, temperature=0)
        assert answer == generate(opened, asked).strip()
    measures = {"tydiqa": ["exact_match", "f1"], "samsum": ["rouge1", "rouge2", "rougeL"]}[name]
    assert all(list(row) == ["questions", *measures] for row in found.values())
    assert list(found) == {"tydiqa": ["all", "finnish", "swahili", "tydiqa"], "samsum": ["all", "samsum"]}[name]
    assert main([str(model), "--task", name, "--task-files", str(path), "--samples", "3", "--tokens", "2"]) == 0
    assert measures[0].replace("_", " ") in capsys.readouterr().out


def test_a_long_question_loses_its_beginning(dataset, tmp_path, capsys):
    short = write_network(tmp_path / "short", "Llama", dataset, positions=64)
    for name, more in (("mmlu", []), ("samsum", ["--tokens", "8"])):
        path = write_task(name, tmp_path / FILES[name])
        found = evaluated(capsys, short, "--task", name, "--task-files", path, *more)
        assert found["cut"] == found["sources"]["all"]["questions"] == 2
    assert main([str(short), "--task", "mmlu", "--task-files", str(tmp_path / FILES["mmlu"])]) == 0
    assert "2 questions are longer than the model takes; their ends were asked" in capsys.readouterr().out


def test_a_chat_template_writes_the_question(dataset, tmp_path, capsys, monkeypatch):
    chat = write_chat_tokenizer(tmp_path / "chat", "ChatML")
    model = write_network(tmp_path / "model", "Llama", dataset, positions=700, vocabulary=330)
    for path in chat.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    asked = []
    real = tasks.Answerer._prompt

    def prompt(self, *told):
        asked.append(real(self, *told))
        return asked[-1]

    monkeypatch.setattr(tasks.Answerer, "_prompt", prompt)
    path = write_task("mmlu", tmp_path / FILES["mmlu"])
    evaluated(capsys, model, "--task", "mmlu", "--task-files", path, "--chat-template", chat)
    tokenizer = open_model(model).tokenizer
    (one, *_) = tasks.TASKS["mmlu"].items(str(path), "x", "sociology_dev")
    messages = [{"role": "user", "content": one.prompt}]
    assert asked[0] == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either --data, a dataset whose losses are measured, or --task and --task-files"),
        (["--data", "x", "--task", "mmlu"], "give either --data"),
        (["--data", "x", "--tokens", "3"], "--tokens does nothing with --data: leave it out"),
        (["--task", "mmlu", "--task-files", "x", "--splits", "val"], "--splits does nothing with --task: leave it out"),
        (["--task", "mmlu"], "--task mmlu needs --task-files: the paths or globs of its files"),
        (["--task", "samsum", "--task-files", "x", "--tokens", "0"], "--tokens must be at least 1, not 0"),
        (["--task", "samsum", "--task-files", "no-such-file"], "no file matches 'no-such-file'"),
    ],
)
def test_what_does_not_fit_is_told(model, capsys, arguments, sentence):
    assert main([str(model), *arguments]) == 2
    assert sentence in capsys.readouterr().err
