"""A run folder written by hand over a small prepared dataset: no training, so that every number is known."""

import json
import warnings

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from tokenizers import Tokenizer

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader
from scripts.prepare.__main__ import main as prepare
from scripts.report.__main__ import main as report
from selection.log.writer import SelectionLog
from selection.prefilters.ngrams import BUCKETS, coarse, ngram_features

STEPS, N, K = 12, 4, 2
DRAWN, EVERY, OFF = 8, 3, (7, 8, 9)  # of a run behind a prefilter, and the steps it was switched off in
LIKED, DISLIKED = " says", " Document"
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


def make_run(folder, dataset, method="topk", first=0, last=STEPS, ended=None):
    """Steps `first` to `last` - 1 of a run: samples are drawn in order, the value of sample i is i / 100 of odd ones
    and -i / 100 of others, the losses fall by a tenth a step. The value is the first-order score of `topk` and the
    prediction of `importance`; losses, which `maxloss` ranks by, are 4 + i / 1000. `ended`: what ended.json says."""
    folder.mkdir(exist_ok=True)
    manifest = Manifest.load(dataset)
    drawn = "" if method == "regular" else f"candidates = {N}\n"
    (folder / "config.toml").write_text(
        f'[data]\npath = "{dataset}"\n[model]\n[train]\nsteps = {STEPS}\n'
        f'[selection]\nmethod = "{method}"\n{drawn}picks = {K}\n'
        f'[run]\nmanifest_sha256 = "{manifest.sha256}"\nworld_size = 1\n'
    )
    reader = SplitReader(dataset)
    log = SelectionLog(folder / "selection", rank=0)
    lines = []
    for step in range(first, last):
        ids = np.arange(step * N, step * N + N) % reader.samples
        odd = [reader.spans(i)[0].source != "plain" for i in ids]
        row = what_is_logged(method, np.where(odd, 1, -1) * ids / 100, 4 + ids / 1000)
        log.append(step, 0, ids, learning_rate=0.01, **row)
        if step % 4 == 0:
            lines.append({"step": step, "val_loss": 5 - step / 10, "test_loss": 5.5 - step / 10, "seconds": step * 2.0})
        lines.append({"step": step, "train_loss": 5 - step / 10, "learning_rate": 0.01, "seconds": step * 2.0 + 2})
    log.close()
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if ended:
        (folder / "ended.json").write_text(json.dumps(ended))
    return folder


def what_is_logged(method, values, losses):
    """The picks and quantities of one group."""
    if method == "regular":
        return {"picks": range(len(values)), "loss": losses}
    score = losses if method == "maxloss" else values
    picks = np.argsort(-score, kind="stable")[:K]
    if method == "importance":  # the model sees nothing but the picks
        measured = {"measured": picks, "loss": losses[picks]}
        return {"picks": picks, "predicted": values, "by_prediction": True, **measured}
    return {"picks": picks, "loss": losses, "score": score} | ({"first_order": values} if method == "topk" else {})


def make_cascade_run(folder, dataset):
    """The same behind a prefilter: of DRAWN a step, every EVERY-th shortlists and scores N; between, it picks alone.

    Scores are those of `make_run`, predictions the same on scored steps before OFF, and turned round after. The newest
    checkpoint has weight 1 for the token LIKED, -2 for DISLIKED, and 0 else.
    """
    make_run(folder, dataset, last=0)
    config = folder / "config.toml"
    amortise = f"[selection.amortise]\ndrawn = {DRAWN}\nevery = {EVERY}\n"
    config.write_text(config.read_text().replace("[run]", f"{amortise}[run]"))
    reader = SplitReader(dataset)
    log = SelectionLog(folder / "selection", rank=0)
    for step in range(STEPS):
        ids = np.arange(step * DRAWN, step * DRAWN + DRAWN) % reader.samples
        scores = np.array([(1 if reader.spans(i)[0].source != "plain" else -1) * i / 100 for i in ids])
        predicted = scores if step < OFF[0] else -scores
        best = np.arange(DRAWN) if step in OFF else np.argsort(-predicted, kind="stable")
        shortlist = best[: N if step % EVERY == 0 else K]
        scored = dict.fromkeys(("first_order", "score"), scores[shortlist]) if step % EVERY == 0 else {}
        picks = shortlist[np.argsort(-scores[shortlist], kind="stable")[:K]] if scored else shortlist
        log.append(step, 0, ids, picks, learning_rate=0.01, measured=shortlist, predicted=predicted,
                   loss=4 + ids[shortlist] / 1000, **scored)  # fmt: skip
    log.close()
    lines = [
        {
            "step": step,
            "train_loss": 5.0,
            "seconds": step + 1.0,
            "prefilter_on": step not in OFF,
            "prefilter_correlation": None,
            "prefilter_separation": 0.5 + step / 100,
        }
        for step in range(STEPS)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = folder / "checkpoints" / f"step-{STEPS:08d}"
    weights = torch.zeros(BUCKETS)
    tokenizer = Tokenizer.from_file(str(dataset / "tokenizer.json"))
    for text, weight in ((LIKED, 1.0), (DISLIKED, -2.0)):
        (token,) = tokenizer.encode(text).ids
        weights[coarse(ngram_features(np.array([[0, token]])))[0, 0]] = weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells that there is one process
        dcp.save({"prefilter": {"weights": weights}}, checkpoint_id=checkpoint, no_dist=True)
    (checkpoint / "state.json").write_text(json.dumps({"step": STEPS}))
    return folder


def ask(capsys, *arguments):
    """Exit code, standard output and standard error of the report."""
    capsys.readouterr()
    code = report([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def ask_json(capsys, *arguments):
    code, out, err = ask(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)
