"""Runs on conversations: what is learnt is what the assistant says, and nothing else."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.gpt2 import GPT2, GPT2Config
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader, trimmed
from scripts.evaluate.__main__ import main as evaluate
from scripts.prepare.__main__ import main as prepare
from scripts.report.texts import Texts
from scripts.train.__main__ import main
from scripts.train.run import build_model
from selection.log.reader import read_log
from tests.helpers.networks import write_network
from tests.helpers.runs import LOSSES, log_rows, measured, options, run, run_on_two_ranks
from tests.helpers.survival import assert_same, at_step

KINDS = {"whole": {}, "LoRA": {"model__lora__rank": 2, "model__lora__dropout": 0.2}}
STEPS = {"train__steps": 2, "train__groups": 2, "train__eval_every": 2, "train__checkpoint_every": 2}


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """Sums as a pool, of which some have long prompts, and words as the task."""
    folder = tmp_path_factory.mktemp("talks")
    pool = [{"instruction": "Add." + " Well." * (n % 3), "input": f"{n} {n}", "output": f"{2 * n}!"} for n in range(90)]
    task = [{"prompt": f"say {n} twice", "completion": f"{n} {n}"} for n in range(60)]
    for name, records in (("pool", pool), ("task", task)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    command = ["--corpus", "instructions", "--data-files", str(folder / "pool.jsonl"), "--workers", "1"]
    command += ["--target-files", str(folder / "task.jsonl"), "--vocab-size", "280", "--seq-len", "48"]
    assert prepare([*command, "--out", str(folder / "data")]) == 0
    return folder / "data"


def answers_of(dataset, ids, split="train"):
    """(tokens, places of targets) of samples, from the text: what stands between the assistant's head and an end."""
    reader, texts = SplitReader(dataset, split), Texts(dataset)
    for row in reader.tokens(list(ids)).astype(np.int64):
        pieces = [texts.decode([token]) for token in row.tolist()]
        starts = np.cumsum([0, *map(len, pieces)])[:-1].tolist()
        said = "".join(pieces).find("<|assistant|>\n")
        first = starts.index(said + len("<|assistant|>\n"))
        yield row, range(first, row.tolist().index(reader.manifest.end_of_text, first) + 1)


@pytest.mark.parametrize("method", ["regular", "topk"])
def test_a_step_is_autograds_on_the_answers_alone(talks, tmp_path, method, monkeypatch):
    """The loss, and the norm of the gradient, of the first step; float64."""
    begun = []

    def build(*arguments):
        model = build_model(*arguments)
        begun.append({name: p.detach().full_tensor().clone() for name, p in model.named_parameters()})
        return model

    monkeypatch.setattr("scripts.train.run.build_model", build)
    folder = run(talks, tmp_path / "run", selection__method=method, train__dtype="float64", **STEPS)
    rows = read_log(folder / "selection").to_pandas()
    picks = rows[(rows["step"] == 0) & (rows["pick"] >= 0)]["sample_id"].tolist()
    assert len(picks) == 4
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "sequence_length": 48}
    model = GPT2(GPT2Config(vocab_size=Manifest.load(talks).vocab_size, **shape)).double()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(begun[0][name])
    losses = []
    for row, places in answers_of(talks, picks):
        logits_TV = model(torch.from_numpy(row[None, :-1]))[0]
        losses.append(F.cross_entropy(logits_TV[[place - 1 for place in places]], torch.from_numpy(row)[list(places)]))
    loss = torch.stack(losses).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    trained, stated = measured(folder, "train_loss", "grad_norm")[0]
    assert (trained, stated) == (pytest.approx(loss.item(), rel=1e-9), pytest.approx(norm.item(), rel=1e-6))


def test_evaluation_and_report_see_the_answers_and_the_text(talks, tmp_path, capsys):
    folder = run(talks, tmp_path / "run", selection__method="regular", **STEPS)
    assert evaluate([str(folder), "--data", str(talks), "--splits", "val", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["splits"]["val"]["all"]
    manifest = Manifest.load(talks)
    ids = range(manifest.samples("val"))
    places = [range_of for _, range_of in answers_of(talks, ids, "val")]
    assert told["tokens"] == sum(map(len, places)) == sum(shard.tokens for shard in manifest.shards["val"])
    (piece,) = Texts(talks).pieces(0)
    assert piece.startswith("<|user|>\nAdd.")


@pytest.mark.parametrize("kind", ["gpt2", "LoRA"])
@pytest.mark.parametrize(
    "changes", [{"direction__contrast": 2}, {"scoring__prefix": 20}, {"interaction__curvature": 2}]
)
def test_padding_that_all_samples_of_a_batch_have_is_left_out_and_changes_nothing(
    talks, tmp_path, kind, changes, monkeypatch
):
    """Candidates, target samples and evaluations; also where samples of several widths share a pass."""
    chosen = STEPS | {"train__dtype": "float64", "train__steps": 3, "selection__direction__decay": 0.5}
    chosen |= {f"selection__{key}": value for key, value in changes.items()}
    chosen |= {"selection__method": "greats" if "interaction__curvature" in changes else "topk"}
    if kind == "LoRA":
        llama = write_network(tmp_path / "llama", "Llama", talks, positions=48)
        chosen |= {"model__kind": "hf", "model__path": llama, "model__lora__rank": 2}
    short = run(talks, tmp_path / "short", **chosen)
    widths = set()

    def whole(tokens_NT1, manifest):
        widths.add(trimmed(tokens_NT1, manifest).shape[1] - 1)
        return torch.as_tensor(tokens_NT1)

    monkeypatch.setattr("scripts.train.run.trimmed", whole)
    monkeypatch.setattr("scripts.train.held_out.trimmed", whole)
    long = run(talks, tmp_path / "long", **chosen)
    assert len(widths) > 1
    assert max(widths) < 48
    columns = ("sample_id", "pick", "loss", "first_order", "interaction")
    for ours, theirs in zip(log_rows(short, *columns).values(), log_rows(long, *columns).values(), strict=True):
        assert ours == theirs or ours == pytest.approx(theirs, rel=1e-6)  # the log is in float32
    for key in ("train_loss", "grad_norm", "val_loss"):
        assert measured(short, key) == [pytest.approx(line, rel=1e-9) for line in measured(long, key)]


def _llama(talks, folder, **changes):
    """Settings of runs of a small Llama on the talks; a vocabulary of its own is another one than theirs."""
    made = write_network(folder / "llama", "Llama", talks, positions=48, **changes)
    return STEPS | {"model__kind": "hf", "model__path": made, "train__steps": 4, "train__eval_every": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_two_ranks_choose_the_same(talks, tmp_path, kind):
    changes = _llama(talks, tmp_path) | KINDS[kind] | {"train__dtype": "float64"}
    one = run(talks, tmp_path / "one", **changes)
    two = run_on_two_ranks(talks, tmp_path / "two", **changes)
    identity = ("step", "group", "sample_id", "pick")
    assert log_rows(one, *identity) == log_rows(two, *identity)
    assert len(set(log_rows(two, "rank")["rank"])) == 2
    for ours, theirs in zip(measured(one, *LOSSES), measured(two, *LOSSES), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert measured(one, "val_loss")[-1] == pytest.approx(measured(two, "val_loss")[-1], rel=1e-9)
    assert measured(one, "val_loss")[-1] != measured(one, "val_loss")[0]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(nursery, talks, tmp_path, kind, ranks):
    changes = _llama(talks, tmp_path) | KINDS[kind] | {"train__resume": "auto", "selection__direction__decay": 0.9}
    arguments = {name: options(talks, tmp_path / name, **changes) for name in ("whole", "killed")}
    death = {"setup": at_step(3, ranks - 1, "os.kill(os.getpid(), signal.SIGKILL)")}
    for name, told, codes in (("whole", {}, [0]), ("killed", death, [-9]), ("killed", {}, [0])):
        answer = nursery.run(arguments[name], tmp_path / "log", size=ranks, **told)
        assert answer["codes"][-1:] == codes, (tmp_path / f"log-{ranks - 1}").read_text()
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_a_model_of_another_vocabulary_is_refused(talks, tmp_path, capsys):
    changes = _llama(talks, tmp_path, vocabulary=270)
    assert main(options(talks, tmp_path / "run", **changes)) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "the dataset's vocabulary has 280 tokens and model.path" in told
    assert "knows 270: prepare the dataset with the model's own tokenizer.json as --tokenizer" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "line 2, message 1: unknown role 'tool'; the roles are"),
        ({"messages": []}, "line 2 is an empty conversation: take it out"),
        (
            {"prompt": "a", "completion": "b"},
            "split train has no sample: none of its 1 conversations has a target within --seq-len",
        ),
    ],
)
def test_a_conversation_without_use_is_told_in_a_sentence(tmp_path, capsys, record, sentence):
    """Of an unknown role, empty, or so long that no answer is left."""
    talks = [{"prompt": "a", "completion": "c"}, record]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    command = ["--corpus", "instructions", "--data-files", str(tmp_path / "talks.jsonl"), "--vocab-size", "280"]
    command += ["--seq-len", "3", "--out", str(tmp_path / "data"), "--workers", "1"]
    assert prepare(command) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in told
    assert list(tmp_path.iterdir()) == [tmp_path / "talks.jsonl"]
