"""Runs of two ranks that are killed, stopped and restarted, and then go on as if nothing had happened."""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.train.__main__ import main
from tests.helpers.runs import log_rows, measured, options
from tests.helpers.survival import STEPS, WHOLE, assert_same, at_step, metrics_but_times
from tests.scripts.train.test_failures import HANG

KILLING_SECONDS = 18  # runs are killed for so long, three times at least, and then go on to their end


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

    def going_on():
        return time.monotonic() - began < KILLING_SECONDS or len(deaths) < 3

    while going_on():
        folder, runs = tmp_path / f"run-{runs}", runs + 1
        while True:
            again = {"train__resume": draw.choice(["yes" if folder.exists() else "no", "auto"])}
            death = _some_death(draw, changes) if going_on() else {}
            arguments = options(dataset, folder, **WHOLE, **again)
            answer = nursery.run(arguments, tmp_path / "log", **death)
            if answer["codes"] == [0, 0]:
                break
            deaths.append(death)
            assert -signal.SIGKILL in answer["codes"], (seed, (tmp_path / "log-0").read_text())
            assert answer["seconds"] < HANG
        assert_same(folder, whole, why=f"seed {seed}, {deaths}")


def test_a_stopped_run_checkpoints_and_says_how_to_go_on(nursery, dataset, whole, tmp_path):
    """One rank of two gets the signal; both end after the same step."""
    arguments = options(dataset, tmp_path / "run", **WHOLE)
    setup = at_step(2, 1, "os.kill(os.getpid(), signal.SIGINT)")
    assert nursery.run(arguments, tmp_path / "log", setup=setup)["codes"] == [0, 0]
    told = (tmp_path / "log-0").read_text()
    assert "stopped by a signal to another rank after 4 of 8 steps, with a checkpoint: go on with\nthe same" in told
    assert told.endswith("the same command and --train.resume yes\n")
    assert (tmp_path / "run" / "checkpoints" / "step-00000004").is_dir()
    assert nursery.run([*arguments, "--train.resume", "yes"], tmp_path / "log")["codes"] == [0, 0]
    assert_same(tmp_path / "run", whole[0])


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
    assert main(options(dataset, tmp_path / "run", data__workers=1, train__resume="auto", **STEPS)) == 0
    told = capsys.readouterr().out
    assert f"stopped by {number.name} after 2 of 8 steps, with a checkpoint: go on with\nthe same command\n" in told
    assert signal.getsignal(number) == before
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000002"]
    assert [step for _, step in measured(tmp_path / "run", "train_loss", "step")] == [0, 1]


RESTARTED = """
import os, signal, sys
from scripts.train import __main__ as train, loop
take_step = loop.take_step
def stepped(run, *drawn):
    deaths = {"0": (1, 0), "1": (5, 1)}  # step and rank, by attempt
    if (run.step, run.world.rank) == deaths.get(os.environ["TORCHELASTIC_RESTART_COUNT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(run, *drawn)
loop.take_step = stepped
sys.exit(train.main())
"""


def test_torchrun_restarts_a_run_which_goes_on_by_itself(dataset, whole, tmp_path):
    """Killed before its first checkpoint it begins again, killed between two it goes on."""
    (tmp_path / "train.py").write_text(RESTARTED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "3", str(tmp_path / "train.py")]
    arguments = options(dataset, tmp_path / "run", train__resume="auto", **WHOLE)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    begun = [line.split("steps ")[1].split(",")[0] for line in ended.stdout.splitlines() if "parameters on" in line]
    assert begun[:2] == ["0 to 8", "0 to 8"]
    assert begun[2] in ("2 to 8", "4 to 8")  # that of step 4 may have been on its way to the disk
    assert_same(tmp_path / "run", whole[0])


def test_two_torchruns_that_meet_train_as_two_nodes_do(dataset, whole, tmp_path):
    """One agent for each node, with one rank each, on loopback."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id"]
    command += ["run", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--local-addr", "localhost"]
    command += ["-m", "scripts.train", *options(dataset, tmp_path / "run", **WHOLE)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for node in nodes:
        _, told = node.communicate(timeout=10 * HANG)
        assert node.returncode == 0, told
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize("resume", ["yes", "auto"])
def test_rank_0_says_from_which_checkpoint_all_go_on(nursery, dataset, whole, tmp_path, resume):
    """The other rank's disk shows it an older newest one."""
    shutil.copytree(whole[0], tmp_path / "run")
    older = tmp_path / "run" / "checkpoints" / "step-00000006"
    setup = "from pathlib import Path\nfrom model.checkpoint import folder\n"
    setup += f"if rank: folder.latest = lambda _: Path({str(older)!r})"
    arguments = options(dataset, tmp_path / "run", **WHOLE | {"train__steps": 10, "train__resume": resume})
    assert nursery.run(arguments, tmp_path / "log", setup=setup, after=60, rank=0, all=True)["codes"] == [0, 0]
    assert "steps 8 to 10" in (tmp_path / "log-0").read_text()


def test_a_rank_that_does_not_see_the_checkpoint_says_so(nursery, dataset, whole, tmp_path):
    for rank in "01":
        shutil.copytree(whole[0], tmp_path / rank / "run")
    shutil.rmtree(tmp_path / "1" / "run" / "checkpoints" / "step-00000008")
    setup = f"import os; os.chdir({str(tmp_path)!r} + '/' + str(rank))"
    arguments = options(dataset, "run", train__resume="yes", **WHOLE)
    assert nursery.run(arguments, tmp_path / "log", setup=setup, after=60, rank=0, all=True)["codes"][1] == 2
    told = (tmp_path / "log-1").read_text()
    assert told.startswith("error on rank 1 of 2: run/checkpoints/step-00000008, which rank 0 goes on from, is not")
    assert told.count("\n") == 1


def test_a_run_goes_on_at_another_world_size(nursery, dataset, tmp_path):
    exact = STEPS | {"train__dtype": "float64", "train__steps": 6}
    one = options(dataset, tmp_path / "one", **exact)
    assert nursery.run(one, tmp_path / "log", size=1)["codes"] == [0]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000006")
    two = options(dataset, tmp_path / "two", train__resume="yes", **exact)
    assert nursery.run(two, tmp_path / "log")["codes"] == [0, 0]
    identity = ("step", "group", "sample_id", "pick")
    assert log_rows(tmp_path / "one", *identity) == log_rows(tmp_path / "two", *identity)
    assert set(log_rows(tmp_path / "two", "rank")["rank"]) == {0, 1}
    for ours, theirs in zip(metrics_but_times(tmp_path / "one"), metrics_but_times(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
