"""A run folder written by hand over a small prepared dataset: no training, so that every number is known."""

import json

import numpy as np

from pipeline.shards import Manifest, SplitReader
from scripts.prepare import main as prepare
from selection.log import SelectionLog

STEPS, N, K = 12, 4, 2
ESCAPE = "\x1b[31mred\x1b[0m"
HTML = "<script>document.title='run'</script><img src=x onerror=alert(1)>"
MARKUP = "[bold]not bold[/bold] [link=http://x]"


def make_dataset(folder, packing="concat"):
    """Two sources; `odd` is made of text that would act on a terminal, on rich or on a browser, and of letters of
    several bytes."""
    documents = [
        {"id": f"plain-{i}", "source": "plain", "text": f"Document {i} says that {i} and {i} make {2 * i}. " * 6}
        for i in range(40)
    ]
    documents += [
        {
            "id": f"<b>odd</b>\x1b{i}",
            "source": "odd[red]",
            "text": f"{ESCAPE} {HTML} {MARKUP} żółć 漢字 \u202e {i} " * 4,
        }
        for i in range(40)
    ]
    folder.mkdir()
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(document) + "\n" for document in documents))
    options = ["--corpus", "json", "--data-files", str(corpus), "--source-field", "source", "--id-field", "id"]
    options += ["--vocab-size", "300", "--seq-len", "128", "--packing", packing, "--out", str(folder / "data")]
    assert prepare(options) == 0
    return folder / "data", {document["id"]: document for document in documents}


def make_run(folder, dataset, method="topk", first=0, last=STEPS):
    """Steps `first` to `last` - 1 of a run: samples are drawn in order, the score of sample i is i / 100 of odd ones
    and -i / 100 of others, the losses fall by a tenth a step."""
    folder.mkdir(exist_ok=True)
    manifest = Manifest.load(dataset)
    (folder / "config.toml").write_text(
        f'[data]\npath = "{dataset}"\n[model]\n[train]\nsteps = {STEPS}\n'
        f'[selection]\nmethod = "{method}"\ncurvature = 1.0\n'
        f'[run]\nmanifest_sha256 = "{manifest.sha256}"\nworld_size = 1\n'
    )
    reader = SplitReader(dataset)
    log = SelectionLog(folder / "selection", rank=0)
    lines = []
    for step in range(first, last):
        ids = np.arange(step * N, step * N + N) % reader.samples
        odd = [reader.spans(i)[0].source != "plain" for i in ids]
        scores = np.where(odd, 1, -1) * ids / 100
        quantities = {} if method == "regular" else {"first_order": scores, "loss": 4 + ids / 1000}
        log.append(step, 0, ids, np.argsort(-scores, kind="stable")[:K], learning_rate=0.01, **quantities)
        if step % 4 == 0:
            lines.append({"step": step, "val_loss": 5 - step / 10, "test_loss": 5.5 - step / 10, "seconds": step * 2.0})
        lines.append({"step": step, "train_loss": 5 - step / 10, "learning_rate": 0.01, "seconds": step * 2.0 + 2})
    log.close()
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder
