"""What is written on from a prompt: the likeliest tokens, or drawn as asked, up to a stop."""

import pytest
import torch

from model import checkpoint
from model.gpt2 import GPT2, GPT2Config
from pipeline.dataset.manifest import Manifest
from scripts.export import open_run
from scripts.generate import Generate, generate, main
from tests.helpers.runs import TINY, run

PROMPT = "the model reads"


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    return run(dataset, tmp_path_factory.mktemp("run") / "run", train__steps=20, train__learning_rate=1e-2)


@pytest.fixture(scope="module")
def opened(folder):
    return open_run(folder)


def write(opened, folder, prompt=PROMPT, **changes) -> str:
    return generate(opened, Generate(folder, prompt, **{"tokens": 6} | changes))


def greedy(folder, dataset, tokens: list[int], more: int) -> list[int]:
    """By our own network, one token after the other."""
    manifest = Manifest.load(dataset)
    shape = TINY["model.n-layer"], TINY["model.n-head"], TINY["model.n-embd"], manifest.sequence_length
    model = GPT2(GPT2Config(manifest.vocab_size, *shape))
    names = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    checkpoint.read_tensors(checkpoint.latest(folder / "checkpoints"), names)
    with torch.no_grad():
        for _ in range(more):
            tokens = [*tokens, int(model(torch.tensor([tokens]))[0, -1].argmax())]
    return tokens[-more:]


def test_without_temperature_the_likeliest_tokens_are_written(dataset, folder, opened):
    expected = opened.tokenizer.decode(greedy(folder, dataset, opened.tokenizer(PROMPT).input_ids, 6))
    assert len(expected) >= 6
    assert write(opened, folder, temperature=0) == expected
    assert write(opened, folder, temperature=1e-4, seed=5) == expected
    assert write(opened, folder, top_p=1e-6, seed=5) == expected
    assert len(opened.tokenizer(write(opened, folder, temperature=0, tokens=2)).input_ids) == 2


def test_what_is_drawn_is_a_function_of_the_seed(folder, opened):
    texts = [write(opened, folder, seed=seed) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_it_ends_before_a_stop(folder, opened):
    whole = write(opened, folder, temperature=0)
    stop = whole[3:5]
    assert write(opened, folder, temperature=0, stop=(stop, "nowhere in it")) == whole[: whole.find(stop)]
    assert write(opened, folder, temperature=0, stop=("nowhere in it",)) == whole


def test_from_the_command_line(folder, opened, capsys):
    assert main([str(folder), "--prompt", PROMPT, "--tokens", "6", "--seed", "3"]) == 0
    assert capsys.readouterr().out == write(opened, folder, seed=3) + "\n"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--prompt": ""}, "--prompt is empty: give the text to go on from"),
        ({"--tokens": 0}, "--tokens must be at least 1, not 0"),
        ({"--tokens": 40}, "tokens and --tokens asks for 40 more, and the model takes 16 in all: give less of either"),
        ({"--temperature": -1}, "--temperature must be at least 0, not -1.0"),
        ({"--top-p": 1.5}, "--top-p must be above 0 and at most 1, not 1.5"),
        ({"--stop": ""}, "--stop has an empty text: leave it out"),
    ],
)
def test_bad_values_get_a_sentence(folder, capsys, changes, sentence):
    arguments = [part for key, value in ({"--prompt": PROMPT} | changes).items() for part in (key, str(value))]
    assert main([str(folder), *arguments]) == 2
    assert sentence in capsys.readouterr().err
