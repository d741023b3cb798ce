"""Runs of two ranks that are killed, stopped, broken and starved, and then go on as if nothing had happened."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict as load_state_dict

from model.gpt2 import GPT2
from model.safe_load import SafeReader
from scripts.train.__main__ import main
from scripts.train.loop import MOST_SKIPPED
from selection.log.reader import read_log
from tests.helpers.nursery import Nursery
from tests.helpers.runs import log_rows, measured, options

STEPS = {"train__steps": 8, "train__eval_every": 3, "train__checkpoint_every": 2, "model__n_layer": 1}
# With all that outlives a step besides model and optimizer: a running direction, and a predictor that was sent scores.
CASCADE = {"selection__every": 3, "selection__drawn": 12, "selection__prefilter": "predictor"}
WHOLE = STEPS | CASCADE | {"selection__decay": 0.9}
KILLING_SECONDS = 18  # runs are killed for so long, and then go on to their end
HANG = 30


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def _lines(folder):
    """metrics.jsonl without what time it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]


def _tensors(checkpoint):
    """Every tensor of a checkpoint, by name."""
    read = {}
    load_state_dict(read, storage_reader=SafeReader(checkpoint), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return {name: value for name, value in _flattened(read) if isinstance(value, torch.Tensor)}


def _flattened(nested, prefix=""):
    for name, value in nested.items():
        yield from _flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]


def _assert_same(folder, whole, why=""):
    """Candidates, picks, scores and losses bit by bit; no row and no step twice or missing; the same checkpoint."""
    assert _lines(folder) == _lines(whole), why
    assert read_log(folder / "selection").equals(read_log(whole / "selection")), why
    assert sorted(os.listdir(folder / "checkpoints")) == sorted(os.listdir(whole / "checkpoints")), why
    newest = sorted(os.listdir(whole / "checkpoints"))[-1]
    ours, theirs = (_tensors(path / "checkpoints" / newest) for path in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), why


@pytest.fixture(scope="module")
def whole(nursery, dataset, tmp_path_factory):
    """A run of two ranks that nothing happened to, with a running direction."""
    folder = tmp_path_factory.mktemp("whole")
    answer = nursery.run(options(dataset, folder / "run", **WHOLE), folder / "log")
    assert answer["codes"] == [0, 0], (folder / "log-0").read_text()
    return folder / "run", answer["changes"]


def _some_death(draw, changes):
    """A rank and the moment it is killed at: a change to the disk or a time; now and then all ranks."""
    rank = draw.randrange(2)
    how = {"rank": rank, "all": draw.random() < 0.3}
    if draw.random() < 0.7:
        return how | {"at": draw.randint(1, changes[rank])}
    return how | {"after": draw.uniform(0.2, 4.0)}


def test_killed_at_any_moment_a_run_goes_on_as_if_nothing_had_happened(nursery, dataset, whole, tmp_path):
    whole, changes = whole
    seed = int.from_bytes(os.urandom(4), "little")
    draw, began, deaths = random.Random(seed), time.monotonic(), []
    runs = 0
    while time.monotonic() - began < KILLING_SECONDS:
        folder, runs = tmp_path / f"run-{runs}", runs + 1
        while True:
            again = {"train__resume": True} if folder.exists() else {}
            death = _some_death(draw, changes) if time.monotonic() - began < KILLING_SECONDS else {}
            arguments = options(dataset, folder, **WHOLE, **again)
            answer = nursery.run(arguments, tmp_path / "log", **death)
            if answer["codes"] == [0, 0]:
                break
            deaths.append(death)
            assert -signal.SIGKILL in answer["codes"], (seed, (tmp_path / "log-0").read_text())
            assert answer["seconds"] < HANG
        _assert_same(folder, whole, why=f"seed {seed}, {deaths}")
    assert len(deaths) >= 3


def _at(step, rank, action):
    """Code for a nursery's setup: `action` before this step on this rank."""
    return f"""
import os, signal, torch, scripts.train.loop as loop
take_step = loop.take_step
def stepped(run, *drawn):
    if (run.step, rank) == ({step}, {rank}):
        {action}
    return take_step(run, *drawn)
loop.take_step = stepped
"""


def test_a_stopped_run_checkpoints_and_says_how_to_go_on(nursery, dataset, whole, tmp_path):
    """One rank of two gets the signal; both end after the same step."""
    arguments = options(dataset, tmp_path / "run", **WHOLE)
    setup = _at(2, 1, "os.kill(os.getpid(), signal.SIGINT)")
    assert nursery.run(arguments, tmp_path / "log", setup=setup)["codes"] == [0, 0]
    told = (tmp_path / "log-0").read_text()
    assert "stopped by a signal to another rank after 3 of 8 steps, with a checkpoint: go on with\nthe same" in told
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    assert nursery.run([*arguments, "--train.resume"], tmp_path / "log")["codes"] == [0, 0]
    _assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_one_process_too(dataset, tmp_path, capsys, monkeypatch, number):
    """Also with loader processes that get it as well, and when it comes twice."""
    from scripts.train import loop

    take_step = loop.take_step

    def stepped(run, *drawn):
        if run.step == 1:
            for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children()), os.getpid()]:
                os.kill(pid, number)
        return take_step(run, *drawn)

    monkeypatch.setattr(loop, "take_step", stepped)
    before = signal.getsignal(number)
    assert main(options(dataset, tmp_path / "run", data__workers=1, **STEPS)) == 0
    assert f"stopped by {number.name} after 2 of 8 steps, with a checkpoint: go on" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000002"]
    assert [step for _, step in measured(tmp_path / "run", "train_loss", "step")] == [0, 1]


def test_a_run_goes_on_at_another_world_size(nursery, dataset, tmp_path):
    exact = STEPS | {"train__dtype": "float64", "train__steps": 6}
    one = options(dataset, tmp_path / "one", **exact)
    assert nursery.run(one, tmp_path / "log", size=1)["codes"] == [0]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000006")
    two = options(dataset, tmp_path / "two", train__resume=True, **exact)
    assert nursery.run(two, tmp_path / "log")["codes"] == [0, 0]
    identity = ("step", "group", "sample_id", "pick")
    assert log_rows(tmp_path / "one", *identity) == log_rows(tmp_path / "two", *identity)
    assert set(log_rows(tmp_path / "two", "rank")["rank"]) == {0, 1}
    for ours, theirs in zip(_lines(tmp_path / "one"), _lines(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(
    ("error", "code"), [("torch.OutOfMemoryError('out of memory here')", 1), ("ValueError('shard x is broken')", 2)]
)
def test_what_one_rank_meets_ends_all_and_is_what_is_told(nursery, dataset, tmp_path, error, code):
    arguments = options(dataset, tmp_path / "run", **STEPS)
    answer = nursery.run(arguments, tmp_path / "log", setup=_at(2, 1, f"raise {error}"))
    assert answer["codes"][1] == code
    assert answer["codes"][0] not in (0, 2)
    assert answer["seconds"] < HANG
    told = (tmp_path / "log-1").read_text()
    assert "error on rank 1 of 2: " in told
    assert error.split("'")[1] in told
    assert ("Traceback" in told) == (code == 1)
    assert "rror" not in (tmp_path / "log-0").read_text()


def test_torchrun_ends_when_a_rank_is_killed(dataset, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    arguments = options(dataset, tmp_path / "run", **STEPS | {"train__steps": 100_000, "train__eval_every": 100_000})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "scripts.train", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (tmp_path / "run" / "checkpoints" / "step-00000002").exists():
            assert process.poll() is None
            time.sleep(0.05)
        ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        _, told = process.communicate(timeout=HANG)
        assert process.returncode != 0
        assert f"Signal 9 (SIGKILL) received by PID {ranks[1]}" in told.split("Root Cause")[1]
        assert "gloo" not in told.split("Root Cause")[0]
        assert not any(os.path.exists(f"/proc/{rank}") for rank in ranks)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_full_disk_leaves_the_last_good_state(nursery, dataset, whole, tmp_path):
    arguments = options(dataset, tmp_path / "run", **WHOLE)
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))"
    # As a disk that fills up between the first checkpoint and the second.
    fills = "import scripts.train.run as t; save = t.Run.save\n"
    fills += f"def saved(run):\n    if run.step == 4: exec({full!r})\n    save(run)\n"
    answer = nursery.run(arguments, tmp_path / "log", setup=fills + "t.Run.save = saved")
    assert 2 in answer["codes"]
    told = (tmp_path / "log-0").read_text() + (tmp_path / "log-1").read_text()
    assert told.count("error") == 1
    assert "error: checkpoint " in told
    assert "step-00000004 cannot be written: [Errno 27] File too large; those before it are whole" in told
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000002"]
    assert nursery.run([*arguments, "--train.resume"], tmp_path / "log")["codes"] == [0, 0]
    _assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize("name", ["checkpoints", "selection", "metrics.jsonl"])
def test_a_folder_that_cannot_be_written(dataset, tmp_path, capsys, name):
    """A file where a folder should be, and the other way round: root may write anywhere else."""
    folder = tmp_path / "run"
    assert main(options(dataset, folder, **STEPS | {"train__steps": 2})) == 0
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.mkdir() if name == "metrics.jsonl" else path.write_text("")
    capsys.readouterr()
    assert main(options(dataset, folder, train__resume=True, **STEPS)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert str(path) in told
    assert told.count("\n") == 1


def test_a_run_killed_before_its_first_file_is_taken_up(dataset, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert main(options(dataset, tmp_path / "run", train__resume=True, **STEPS | {"train__steps": 1})) == 0
    assert measured(tmp_path / "run", "train_loss", "step")[0][1] == 0


@pytest.fixture
def break_losses(monkeypatch):
    """break_losses(rows, value, steps): the losses of these candidates become inf or nan in these training passes."""

    def install(rows, value, passes):
        forward, count = GPT2.forward, [0]

        def broken(model, tokens, targets=None):
            losses = forward(model, tokens, targets)
            if torch.is_grad_enabled() and len(losses) != 5:  # 5: the target samples
                count[0] += 1
                if count[0] - 1 in passes:
                    factor_N = torch.ones(len(losses))
                    factor_N[rows] = value
                    losses = losses * factor_N
            return losses

        monkeypatch.setattr(GPT2, "forward", broken)

    return install


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["greats", "topk", "gradnorm"])
def test_a_candidate_that_is_not_finite_is_never_picked(dataset, tmp_path, break_losses, method, value):
    """It is logged as what it was, leaves the other candidates' numbers alone, and the run goes on."""
    settings = STEPS | {"train__steps": 3, "train__groups": 1, "selection__method": method}
    assert main(options(dataset, tmp_path / "clean", **settings)) == 0
    clean = read_log(tmp_path / "clean" / "selection").to_pydict()
    best = clean["pick"][:6].index(0)
    break_losses([best], value, passes=[0])
    assert main(options(dataset, tmp_path / "run", **settings)) == 0
    rows = read_log(tmp_path / "run" / "selection").to_pydict()
    assert rows["pick"][best] == -1
    assert sorted(rows["pick"][:6]) == [-1, -1, -1, -1, 0, 1]
    assert not torch.tensor(rows["loss"][best]).isfinite()
    for name in ("loss", "first_order", "self_norm"):
        others = [i for i in range(6) if i != best and clean[name][i] is not None]
        assert [rows[name][i] for i in others] == pytest.approx([clean[name][i] for i in others], rel=1e-5)
    if method == "greats":
        assert torch.tensor([rows["interaction"][i] for i in range(6) if i != best]).isfinite().all()
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(1, False), (0, False), (0, False)]
    assert all(torch.tensor(measured(tmp_path / "run", "train_loss", "grad_norm")).isfinite().flatten())


def test_with_too_few_finite_candidates_those_are_picked(dataset, tmp_path, break_losses):
    break_losses([0, 1, 2, 4, 5], float("nan"), passes=[1])
    settings = STEPS | {"train__steps": 3, "train__groups": 1}
    assert main(options(dataset, tmp_path / "run", **settings)) == 0
    rows = read_log(tmp_path / "run" / "selection").to_pydict()
    assert rows["pick"][6:12] == [-1, -1, -1, 0, -1, -1]
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(0, False), (5, False), (0, False)]


def test_an_update_that_is_not_finite_is_skipped(dataset, tmp_path, break_losses):
    """Without selection the bad sample is trained on, so the whole update goes; the next one is made."""
    break_losses([1], float("nan"), passes=[1])
    settings = STEPS | {"train__steps": 3, "train__groups": 1, "selection__method": "regular"}
    assert main(options(dataset, tmp_path / "run", **settings | {"train__eval_every": 1})) == 0
    assert measured(tmp_path / "run", "nonfinite", "skipped") == [(0, False), (1, True), (0, False)]
    losses = [loss for (loss,) in measured(tmp_path / "run", "val_loss")]
    assert losses[1] == losses[2]
    assert losses[2] != losses[3]


def test_a_run_that_diverged_stops_with_a_sentence(dataset, tmp_path, break_losses, capsys):
    break_losses([0, 1, 2, 3, 4, 5], float("inf"), passes=range(1, 1000))
    settings = STEPS | {"train__steps": 40, "train__groups": 1, "train__checkpoint_every": 5}
    assert main(options(dataset, tmp_path / "run", **settings)) == 2
    told = capsys.readouterr().err
    assert f"the updates of steps 1 to {MOST_SKIPPED} were not finite and none was made: lower" in told
    assert [skipped for (skipped,) in measured(tmp_path / "run", "skipped")] == [False] + [True] * MOST_SKIPPED


def test_a_run_reads_a_dataset_elsewhere(dataset, tmp_path, capsys):
    """By a command here, a server in tests/pipeline/test_remote.py; resumed from a folder, it is the same dataset."""
    few = STEPS | {"train__steps": 4, "train__checkpoint_every": 4}
    assert main(options(dataset, tmp_path / "near", **few)) == 0
    place = {"data__cache": tmp_path / "cache", "data__workers": 1}
    far = f"pipe:cat {dataset}/{{}}"
    assert main(options(far, tmp_path / "far", **few, **place)) == 2
    assert "would run a command: allow that with --data.pipe" in capsys.readouterr().err
    assert main(options(far, tmp_path / "far", data__pipe=True, **few, **place)) == 0
    assert _lines(tmp_path / "far") == _lines(tmp_path / "near")
    for folder in ("near", "far"):
        more = STEPS | {"train__steps": 6, "train__resume": True}
        assert main(options(dataset, tmp_path / folder, **more)) == 0
    _assert_same(tmp_path / "far", tmp_path / "near")


def test_a_resume_says_that_the_dataset_lost_a_shard(dataset, tmp_path, capsys):
    from pipeline.dataset.manifest import Manifest
    from pipeline.prepare.verify import drop_shards

    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    assert main(options(copy, tmp_path / "run", **STEPS | {"train__steps": 2})) == 0
    told = json.loads((copy / "manifest.json").read_text())
    (val,) = told["splits"]["val"]["shards"]
    told["splits"]["val"]["shards"] = [val, val | {"name": "val-000001.tar", "first_sample": val["samples"]}]
    (copy / "manifest.json").write_text(json.dumps(told))
    drop_shards(Manifest.load(copy), ["val-000001.tar"])
    capsys.readouterr()
    assert main(options(copy, tmp_path / "run", train__resume=True, **STEPS)) == 2
    assert "was trained on another dataset (manifest " in capsys.readouterr().err


def test_a_broken_shard_ends_the_run_before_it_is_trained_on(nursery, dataset, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    path = copy / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[512 + 128 + 3] ^= 64
    path.write_bytes(content)
    answer = nursery.run(options(copy, tmp_path / "run", **STEPS | {"data__workers": 1}), tmp_path / "log")
    assert 2 in answer["codes"]
    told = (tmp_path / "log-0").read_text() + (tmp_path / "log-1").read_text()
    assert told.count("error") == 1
    assert f"error: shard {path} has other bytes than it was written with (its sha256 differs): restore" in told
    assert not (tmp_path / "run" / "metrics.jsonl").exists() or measured(tmp_path / "run", "train_loss") == []
