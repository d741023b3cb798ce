"""The texts that the pages speak of, small."""

import gzip
import json
import random
from pathlib import Path

import webdataset

from tests.pipeline.corpora.conversations.examples import write_task

WORDS = "the model reads text and predicts what word comes next in every line of it".split()


def write_texts(folder, sources) -> None:
    """Sentences of few words by source, as JSON Lines in folder/*.jsonl.gz."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for source in sources:
        lines = []
        for number in range(150):
            words = draw.choices(WORDS, k=90) if source == sources[0] else draw.choices(WORDS[:5], k=90)
            lines.append(json.dumps({"id": f"{source}-{number}", "source": source, "text": " ".join(words)}) + "\n")
        (folder / f"{source}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))


def write_repository(folder) -> None:
    """A dataset of the hub's form on this disk: a card that names its subset, and a file."""
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: all\n  data_files: pages.jsonl\n---\n")
    draw = random.Random(1)
    pages = [json.dumps({"body": " ".join(draw.choices(WORDS, k=90))}) + "\n" for _ in range(90)]
    (folder / "pages.jsonl").write_text("".join(pages))


def write_talks(folder) -> None:
    """Questions and answers: talks/sums.jsonl, and a task of its own in task.jsonl."""
    (folder / "talks").mkdir()
    for path, sign in ((folder / "talks" / "sums.jsonl", "and"), (folder / "task.jsonl", "plus")):
        talks = [{"prompt": f"{n} {sign} {n}?", "completion": f"{2 * n}."} for n in range(90)]
        path.write_text("".join(json.dumps(talk) + "\n" for talk in talks))


def write_shards(folder) -> None:
    draw = random.Random(2)
    for number in range(2):
        with webdataset.TarWriter(str(folder / f"shards-{number:03d}.tar")) as shard:
            for key in range(45):
                shard.write({"__key__": f"{number}-{key}", "txt": " ".join(draw.choices(WORDS, k=90))})


def write_tasks(folder: Path) -> None:
    """The files of MMLU, TyDi QA and SAMSum that the pages read."""
    for split, subject in (("dev", "religions"), ("test", "sociology")):
        (folder / "mmlu" / split).mkdir(parents=True)
        write_task("mmlu", folder / "mmlu" / split / f"{subject}_{split}.csv", copies=30)
    write_task("tydiqa", folder / "tydiqa.json", copies=30)
    write_task("samsum", folder / "samsum.json", copies=30)
