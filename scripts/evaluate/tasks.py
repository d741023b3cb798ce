"""A model's answers to the questions of a published evaluation, by source.

Of a choice (MMLU) the model takes the letter that it gives the highest probability. Other answers it writes itself, the
likeliest token each time: compared with the right ones by exact match and F1 (TyDi QA, as SQuAD does) or by ROUGE
(SAMSum), as `torchmetrics` computes them, in percent. No examples stand before a question.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer

from pipeline.corpora.conversations import mmlu, samsum, tydiqa
from pipeline.corpora.conversations.task import Item, Items
from pipeline.corpora.conversations.turns import Writer, writer_of
from pipeline.corpora.files import expand, stem
from scripts.evaluate.losses import ALL, token_losses
from scripts.export import Opened
from scripts.report.format import printable

Measures = dict[str, float]  # in percent


@dataclass(frozen=True)
class Task:
    """items: the reader of its files. measured: (the items, an answer to each) -> its measures; library: what that
    needs."""

    items: Items
    measured: Callable[[Sequence[Item], Sequence[str]], Measures]
    library: str = ""


def accuracy(items: Sequence[Item], answers: Sequence[str]) -> Measures:
    return {"accuracy": 100 * float(np.mean([a == item.answers[0] for item, a in zip(items, answers, strict=True)]))}


def squad(items: Sequence[Item], answers: Sequence[str]) -> Measures:
    """Exact match and F1 with the likest of the right answers, as SQuAD's own script compares them."""
    from torchmetrics.functional.text import squad

    said = [{"id": str(number), "prediction_text": answer} for number, answer in enumerate(answers)]
    right = [
        {"id": str(number), "answers": {"text": list(item.answers), "answer_start": [0] * len(item.answers)}}
        for number, item in enumerate(items)
    ]
    found = squad(said, right)
    return {"exact_match": float(found["exact_match"]), "f1": float(found["f1"])}


def rouge(items: Sequence[Item], answers: Sequence[str]) -> Measures:
    """F-measures of ROUGE-1, -2 and -L, without stemming."""
    from torchmetrics.functional.text import rouge_score

    keys = ("rouge1", "rouge2", "rougeL")
    found = rouge_score(list(answers), [list(item.answers) for item in items], rouge_keys=keys)
    return {key: 100 * float(found[f"{key}_fmeasure"]) for key in keys}


TASKS = {
    "mmlu": Task(mmlu.items, accuracy),
    "tydiqa": Task(tydiqa.items, squad, "torchmetrics"),
    "samsum": Task(samsum.items, rouge, "torchmetrics"),
}


class Answerer:
    """Asks the model. `cut` counts questions that were longer than the model takes, of which the end was asked."""

    def __init__(self, opened: Opened, writer: Writer, most_tokens: int):
        self._network, self._writer, self._most_tokens = opened.network, writer, most_tokens
        self._tokenizer = Tokenizer.from_str(opened.tokenizer.backend_tokenizer.to_str())
        self._tokenizer.encode_special_tokens = not writer.templated
        self._end = opened.tokenizer.eos_token_id
        config = opened.network.config.get_text_config()
        self._positions = getattr(config, "max_position_embeddings", sys.maxsize)
        self.cut = 0

    def answer(self, item: Item) -> str:
        return self._choose(item) if item.choices else self._write(item)

    def _prompt(self, item: Item, room: int) -> list[int]:
        """The tokens of the question, so that `room` more are what the model takes."""
        tokens = self._tokenizer.encode(self._writer.prompt([("user", item.prompt)]), add_special_tokens=False).ids
        if len(tokens) <= self._positions - room:
            return tokens
        self.cut += 1
        return tokens[len(tokens) - max(self._positions - room, 1) :]

    def _choose(self, item: Item) -> str:
        """The choice whose tokens have the lowest loss together."""
        choices = [self._tokenizer.encode(choice, add_special_tokens=False).ids for choice in item.choices]
        prompt, longest = self._prompt(item, max(map(len, choices))), max(map(len, choices))
        width = len(prompt) + longest - 1
        inputs_NT = torch.zeros(len(choices), width, dtype=torch.long)
        targets_NT = torch.full_like(inputs_NT, -1)
        for row, choice in enumerate(choices):
            said = torch.tensor(prompt + choice)
            inputs_NT[row, : len(said) - 1] = said[:-1]
            targets_NT[row, len(prompt) - 1 : len(said) - 1] = said[len(prompt) :]
        device = self._network.device
        losses_N = token_losses(self._network, inputs_NT.to(device), targets_NT.to(device)).sum(1)
        return item.choices[int(losses_N.argmin())]

    @torch.no_grad()
    def _write(self, item: Item) -> str:
        prompt = self._prompt(item, self._most_tokens)
        prompt_1T = torch.tensor([prompt], device=self._network.device)
        written_1T = self._network.generate(
            input_ids=prompt_1T,
            attention_mask=torch.ones_like(prompt_1T),
            max_new_tokens=min(self._most_tokens, self._positions - len(prompt)),
            do_sample=False,
            eos_token_id=self._end,
            pad_token_id=self._end,
        )
        return self._tokenizer.decode(written_1T[0, len(prompt) :].tolist()).strip()


def answers(
    opened: Opened,
    name: str,
    files: Sequence[str],
    chat_template: str | None,
    samples: int,
    most_tokens: int,
    console: Console,
) -> tuple[dict[str, dict], int]:
    """(source, or ALL -> {"questions", and the task's measures}, how many questions were cut); of so many questions,
    evenly spread (0: all).

    The network is on the device it is to be asked on. ValueError for files that cannot be read, and a library that is
    missing.
    """
    task = TASKS[name]
    if task.library and find_spec(task.library) is None:
        raise ValueError(f"--task {name} needs {task.library}: pip install 'greats[tasks]'")
    answerer = Answerer(opened, writer_of(chat_template), most_tokens)
    items = [item for path in expand(name, files) for item in task.items(path, path, stem(path))]
    if not items:
        raise ValueError(f"--task-files {' '.join(files)} have no question")
    asked = [items[at * len(items) // samples] for at in range(samples)] if 0 < samples < len(items) else items
    by_source: dict[str, list[tuple[Item, str]]] = defaultdict(list)
    for item in track(asked, description=name, console=console, transient=True):
        told = item, answerer.answer(item)
        by_source[ALL].append(told)
        by_source[item.source].append(told)
    return {
        source: {"questions": len(by_source[source])} | task.measured(*zip(*by_source[source], strict=True))
        for source in sorted(by_source, key=lambda source: (source != ALL, source))
    }, answerer.cut


def table(measured: dict[str, dict]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("source", *measured[ALL]):
        shown.add_column(name.replace("_", " "), justify="left" if name == "source" else "right", overflow="fold")
    for source, row in measured.items():
        shown.add_row(printable(source), *(f"{v:,}" if isinstance(v, int) else f"{v:.2f}" for v in row.values()))
    return shown
