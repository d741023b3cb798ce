"""What ends a run: an error or the death of a rank, a full disk, a broken shard, a dataset that changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from scripts.train.__main__ import main
from tests.helpers.runs import measured, options
from tests.helpers.survival import STEPS, WHOLE, assert_same, at_step, metrics_but_times

HANG = 30


def test_ranks_do_not_mix_devices(nursery, dataset, tmp_path):
    """As on two machines, one of which has a GPU: both say so instead of waiting for each other."""
    setup = "import torch.cuda as c; c.is_available = lambda: rank == 0; c.device_count = lambda: 2 * (rank == 0)"
    arguments = options(dataset, tmp_path / "run", **STEPS)
    answer = nursery.run(arguments, tmp_path / "log", setup=setup, after=60, rank=0, all=True)
    assert 2 in answer["codes"]
    told = [(tmp_path / f"log-{rank}").read_text() for rank in range(2)]
    assert any("error: rank 0 has a GPU of its own and rank 1 has none" in text for text in told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "code"), [("torch.OutOfMemoryError('out of memory here')", 1), ("ValueError('shard x is broken')", 2)]
)
def test_what_one_rank_meets_ends_all_and_is_what_is_told(nursery, dataset, tmp_path, error, code):
    arguments = options(dataset, tmp_path / "run", **STEPS)
    answer = nursery.run(arguments, tmp_path / "log", setup=at_step(2, 1, f"raise {error}"))
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
    assert nursery.run([*arguments, "--train.resume", "yes"], tmp_path / "log")["codes"] == [0, 0]
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize("name", ["checkpoints", "selection", "metrics.jsonl"])
def test_a_folder_that_cannot_be_written(dataset, tmp_path, capsys, name):
    """A file where a folder should be, and the other way round: root may write anywhere else."""
    folder = tmp_path / "run"
    assert main(options(dataset, folder, **STEPS | {"train__steps": 2})) == 0
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.mkdir() if name == "metrics.jsonl" else path.write_text("")
    capsys.readouterr()
    assert main(options(dataset, folder, train__resume="yes", **STEPS)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert str(path) in told
    assert told.count("\n") == 1


def test_a_run_killed_before_its_first_file_is_taken_up(dataset, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert main(options(dataset, tmp_path / "run", train__resume="yes", **STEPS | {"train__steps": 1})) == 0
    assert measured(tmp_path / "run", "train_loss", "step")[0][1] == 0


def test_a_run_reads_a_dataset_elsewhere(dataset, tmp_path, capsys):
    """By a command here, a server in tests/pipeline/test_remote.py; resumed from a folder, it is the same dataset."""
    few = STEPS | {"train__steps": 4, "train__checkpoint_every": 4}
    assert main(options(dataset, tmp_path / "near", **few)) == 0
    place = {"data__cache": tmp_path / "cache", "data__workers": 1}
    far = f"pipe:cat {dataset}/{{}}"
    assert main(options(far, tmp_path / "far", **few, **place)) == 2
    assert "would run a command: allow that with --data.pipe" in capsys.readouterr().err
    assert main(options(far, tmp_path / "far", data__pipe=True, **few, **place)) == 0
    assert metrics_but_times(tmp_path / "far") == metrics_but_times(tmp_path / "near")
    for folder in ("near", "far"):
        more = STEPS | {"train__steps": 6, "train__resume": "yes"}
        assert main(options(dataset, tmp_path / folder, **more)) == 0
    assert_same(tmp_path / "far", tmp_path / "near")


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
    assert main(options(copy, tmp_path / "run", train__resume="yes", **STEPS)) == 2
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
