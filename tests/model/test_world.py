"""How the ranks of a run find each other, and what they compute on."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from model.world import World, choose_device, meet, refuse_mixed

SOON = timedelta(seconds=20)


def _meet(store, size):
    """What each rank writes into and reads from the store it is given, when rank 0 comes last; the words it hears."""
    others_wait, all_looked = threading.Event(), threading.Barrier(size, timeout=20)

    def join(rank):
        if rank == 0:
            others_wait.wait(0.3)
        room, words = meet(store, rank, size, SOON, f"word of {rank}")
        stale = room.check([f"address of {rank}"])
        all_looked.wait()
        assert not stale
        room.set(f"address of {rank}", str(id(room)))
        return str(id(room)), [room.get(f"address of {other}").decode() for other in range(size)], words

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(join, range(size)))


def test_ranks_of_a_restarted_run_read_nothing_of_the_attempts_before():
    store = dist.HashStore()
    with pytest.raises(TimeoutError, match="rank 1 of 3 waited"):  # of an attempt whose rank 2 never came
        store.set("room", "of-one-who-died")
        meet(store, 1, 3, timedelta(seconds=0.2), "")
    for size in (3, 3, 2):
        found = _meet(store, size)
        written = [address for address, _, _ in found]
        assert [read for _, read, _ in found] == [written] * size
        assert [words for _, _, words in found] == [[f"word of {rank}" for rank in range(size)]] * size


def test_rank_0_stays_until_the_others_know_who_came():
    """The store may live in it, so an error that it meets next must not end it before."""
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as ranks:
        first = ranks.submit(meet, store, 0, 2, SOON, "cpu")
        room = store.get("room").decode()
        store.set(f"{room}/1", json.dumps(["of rank 1", "cuda"]))
        assert [word for _, word in json.loads(store.get(f"{room}/all"))] == ["cpu", "cuda"]
        time.sleep(0.2)
        assert not first.done()
        store.set(f"{room}/1/in", "")
        assert first.result()[1] == ["cpu", "cuda"]


@pytest.fixture
def machine(monkeypatch):
    """machine(gpus, ranks): so many of each, the latter as torchrun tells it, or unknown."""

    def install(gpus, ranks=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK"):
            monkeypatch.delenv(name, raising=False)
        if ranks:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
            monkeypatch.setenv("WORLD_SIZE", str(4 * ranks))  # on four machines

    return install


@pytest.mark.parametrize(
    ("asked", "gpus", "ranks", "device"),
    [
        ("auto", 0, 2, "cpu"),
        ("auto", 2, 2, "cuda"),
        ("auto", 8, 2, "cuda"),
        ("auto", 1, None, "cuda"),
        ("auto", 0, None, "cpu"),
        ("cuda", 2, 2, "cuda"),
        ("cpu", 8, 2, "cpu"),
        ("cpu", 1, 2, "cpu"),
        ("cpu", 0, 2, "cpu"),
    ],
)
def test_gpus_are_taken_where_every_local_rank_has_one(machine, asked, gpus, ranks, device):
    machine(gpus, ranks)
    assert choose_device(asked) == (device, "")


def test_too_few_gpus_are_left_alone_with_a_word_or_refused(machine, monkeypatch, capsys):
    machine(1, 2)
    why = "computing on the CPU: this machine has 1 GPU for 2 ranks; with one for each, it would compute on them"
    assert choose_device("auto") == ("cpu", why)
    with pytest.raises(ValueError, match=r"this machine has 1 GPU for 2 ranks: train\.device cuda needs one for each"):
        choose_device("cuda")
    world = World.join("auto")  # one process, though told that it is one of two
    world.leave()
    assert world.device == torch.device("cpu")
    assert capsys.readouterr().err == why + "\n"
    machine(0)
    with pytest.raises(ValueError, match=r"this machine has no GPUs for 1 rank: train\.device cuda needs"):
        choose_device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "3")  # not started by torchrun
    machine_of_two = "computing on the CPU: this machine has 2 GPUs for 3 ranks"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto")[1].startswith(machine_of_two)


def test_ranks_connect_over_gloo_when_they_first_have_something_for_each_other(monkeypatch):
    """Torch reads it where the group is made; with four ranks each then has 2 sockets instead of 5 at the start."""
    monkeypatch.setenv("TORCH_GLOO_LAZY_INIT", "0")
    monkeypatch.delenv("TORCH_GLOO_LAZY_INIT")
    World.join("cpu").leave()
    assert os.environ["TORCH_GLOO_LAZY_INIT"] == "1"


def test_a_cpu_is_deterministic_without_being_told():
    with pytest.raises(ValueError, match=r"train\.deterministic does nothing on the CPU, where sums have one order"):
        World.join("cpu", deterministic=True)
    assert not dist.is_initialized()
    assert not torch.are_deterministic_algorithms_enabled()


def test_ranks_that_would_compute_on_different_devices_are_refused():
    refuse_mixed(["cuda", "cuda"])
    refuse_mixed(["cpu"])
    with pytest.raises(ValueError, match="rank 0 has a GPU of its own and rank 2 has none: all ranks compute on the"):
        refuse_mixed(["cuda", "cuda", "cpu", "cpu"])
