"""Small tokenizers with a chat template, and files of the shape that published evaluations have, written by hand."""

import csv
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# A template of one kind of model, and what begins and ends a text.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif message['role'] == 'user' %}{{ bos_token }}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {% generation %}{{ message['content'] }} {{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
KINDS = {"ChatML": (CHATML, "<|im_start|>", "<|im_end|>"), "brackets": (BRACKETS, "<s>", "</s>")}
TEXT = "a chat of two: who asks and who answers, says the model of the words 漢字 and so on"


def write_chat_tokenizer(folder: Path, kind: str, template: str | None = None, **changes) -> Path:
    """A folder with a tokenizer of KINDS, bytes for ChatML, pieces as SentencePiece has them for the other."""
    transformers = pytest.importorskip("transformers", reason="the peers extra is not installed")
    told, begin, end = KINDS[kind]
    bytewise = kind == "ChatML"
    tokenizer = Tokenizer(models.BPE(byte_fallback=not bytewise, unk_token=None if bytewise else "<unk>"))
    if bytewise:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = [begin, end] if bytewise else ["<unk>", begin, end]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytewise else list("[]/INST?!.é\n")
    trainer = trainers.BpeTrainer(
        vocab_size=330 if bytewise else 90, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    kept = {"bos_token": begin, "eos_token": end, "chat_template": template or told} | changes
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kept).save_pretrained(folder)
    return folder


FILES = {"mmlu": "sociology_dev.csv", "tydiqa": "tydiqa.json", "samsum": "samsum.json"}
ROWS = [
    ('Who asks, "who", and who answers?', "he, of course", "she", "they", "none\nof them", "C"),
    ("What is two and two?", "one", "two", "three", "four", "D"),
]
QUESTIONS = [
    ("Joki on Suomessa. Se on pitkä.", "Missä joki on?", ["Suomessa", "Suomi", "Suomessa"]),
    ("Mto huu ni mrefu.", "Mto ni nini?", ["mrefu"]),
    ("The river is long.", "What is long?", ["The river"]),
]
DIALOGUES = [
    ("Amanda: I baked cookies.\nJerry: Sure!", "Amanda baked cookies."),
    ("Tim: Hi\nKim: Bad mood.", "Kim is in a bad mood."),
]


def write_task(name: str, path: Path, copies: int = 1) -> Path:
    """Copies differ by a number in their question."""
    if name == "mmlu":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows((_numbered(q, n), *rest) for n in range(copies) for q, *rest in ROWS)
        return path
    if name == "samsum":
        told = [
            {"id": f"13-{n}", "dialogue": _numbered(dialogue, n).replace("\n", "\r\n"), "summary": summary}
            for n in range(copies)
            for dialogue, summary in DIALOGUES
        ]
    else:
        told = {"version": "1.0", "data": [_entry(n) for n in range(copies)]}
    path.write_text(json.dumps(told))
    return path


def _entry(number: int) -> dict:
    paragraphs = []
    for at, ((passage, question, answers), language) in enumerate(
        zip(QUESTIONS, ("finnish", "swahili", ""), strict=True)
    ):
        own = {"id": f"{language}-{at + 3 * number}"} if language else {"id": f"{at + 3 * number}"}
        given = [{"text": text, "answer_start": max(passage.find(text), 0)} for text in answers]
        asked = {"question": _numbered(question, number), "answers": given, **own}
        paragraphs.append({"context": passage, "qas": [asked]})
    return {"title": "rivers", "paragraphs": paragraphs}


def _numbered(text: str, number: int) -> str:
    return f"{number}: {text}" if number else text
