"""What a checkpoint may not do: run code, be half there, or take the good ones with it."""

import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from model import checkpoint
from model.build import build_gpt2
from model.checkpoint import CheckpointWriter
from model.checkpoint.state import tensors_of
from model.gpt2 import GPT2Config
from model.optimizer import build_adamw
from model.world import World


@pytest.fixture
def world():
    world = World.join()
    yield world
    world.leave()


def _trained(world, seed=0):
    shape = GPT2Config(vocab_size=32, n_layer=1, n_head=2, n_embd=8, sequence_length=4)
    model = build_gpt2(shape, world.mesh, "float32", seed)
    optimizer = build_adamw(model, 1e-2, 0.1)
    tokens = torch.arange(8).view(2, 4)
    model(tokens, tokens).sum().backward()
    optimizer.step()
    return model, optimizer


def _save(folder, step, model, optimizer, keep=2):
    return _written(CheckpointWriter(folder, keep), step, model, optimizer)


def _written(writer, step, model, optimizer, extra=None):
    writer.save(step, model, optimizer, extra or {}, {"seconds": 1.5})
    writer.finish()
    return writer.folder / f"step-{step:08d}"


def _values(model, optimizer):
    states = [optimizer.state[p] for p in model.parameters()]
    tensors = [*model.parameters(), *(value for state in states for value in state.values())]
    return [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in tensors]


def test_what_is_loaded_is_what_was_saved(world, tmp_path):
    saved, loaded = _trained(world), _trained(world, seed=1)
    path = _save(tmp_path, 3, *saved)
    assert checkpoint.load(path, *loaded, {}) == {"step": 3, "seconds": 1.5}
    assert all(torch.equal(one, other) for one, other in zip(_values(*saved), _values(*loaded), strict=True))


def test_single_tensors_are_read_by_one_process_alone(tmp_path):
    world = World.join()
    saved = torch.arange(5, dtype=torch.float32)
    path = _written(CheckpointWriter(tmp_path, 1), 1, *_trained(world), {"prefilter": {"weights": saved}})
    world.leave()
    assert not dist.is_initialized()
    read = torch.empty(5)
    checkpoint.read_tensors(path, {"prefilter.weights": read})
    assert torch.equal(read, saved)
    for name, size in (("prefilter.weights", 4), ("prefilter.nothing", 5)):
        with pytest.raises(ValueError, match=rf"step-00000001 cannot be read: .*{name}"):
            checkpoint.read_tensors(path, {name: torch.empty(size)})
    (path / ".metadata").write_bytes(pickle.dumps(_RunsCode(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"its index names posix\.mkdir"):
        checkpoint.read_tensors(path, {"prefilter.weights": read})
    assert not (tmp_path / "ran").exists()


def test_the_last_few_are_kept_and_leftovers_removed(world, tmp_path):
    trained = _trained(world)
    (tmp_path / ".step-00000001.partial").mkdir()
    (tmp_path / ".step-00000001.partial" / "__0_0.distcp").write_text("killed in the middle")
    for step in (1, 2, 3, 3):
        _save(tmp_path, step, *trained)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert checkpoint.latest(tmp_path).name == "step-00000003"


def test_training_goes_on_while_a_checkpoint_is_written(world, tmp_path, monkeypatch):
    """What is saved is how things were; there is nothing to see before it is whole; one is written at a time."""
    (model, optimizer), writer = _trained(world), CheckpointWriter(tmp_path, keep=2)
    before = [value.clone() for value in _values(model, optimizer)]
    disk, fsync = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (disk.wait(), fsync(handle)))
    writer.save(1, model, optimizer, {}, {})
    model(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    writer.check()
    assert checkpoint.latest(tmp_path) is None
    disk.set()
    writer.save(2, model, optimizer, {}, {})
    assert checkpoint.latest(tmp_path).name >= "step-00000001"
    writer.finish()
    for step, expected in ((1, before), (2, _values(model, optimizer))):
        loaded = _trained(world, seed=1)
        checkpoint.load(tmp_path / f"step-{step:08d}", *loaded, {})
        assert all(torch.equal(one, other) for one, other in zip(expected, _values(*loaded), strict=True))


def test_what_could_not_be_written_is_told_by_the_next_step(world, tmp_path):
    writer = CheckpointWriter(tmp_path / "none", keep=2)
    (tmp_path / "none").write_text("a file where the folder should be")
    writer.save(1, *_trained(world), {}, {})
    with pytest.raises(ValueError, match=r"step-00000001 cannot be written: .*; those before it are whole"):
        for _ in range(1000):
            writer.check()
            time.sleep(0.01)
    writer.check()


class _RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_index_runs_nothing(world, tmp_path):
    trained = _trained(world)
    path = _save(tmp_path, 1, *trained)
    (path / ".metadata").write_bytes(pickle.dumps(_RunsCode(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"step-00000001 cannot be read: .*its index names posix.mkdir, .*; remove it"):
        checkpoint.load(path, *trained, {})
    assert not (tmp_path / "ran").exists()


def test_an_index_that_points_elsewhere_is_refused(world, tmp_path):
    trained = _trained(world)
    path = _save(tmp_path, 1, *trained)
    index = pickle.loads((path / ".metadata").read_bytes())
    for stored in index.storage_data.values():
        stored.relative_path = f"../step-00000001/{stored.relative_path}"
    (path / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=r"its index names a file outside of it, \.\./step"):
        checkpoint.load(path, *trained, {})


def test_a_hostile_value_runs_nothing(world, tmp_path):
    """In place of one of the numbers that lie beside the tensors."""
    trained = _trained(world)
    tensors = tensors_of(*trained)
    tensors["optimizer"]["param_groups"][0]["lr"] = _RunsCode(tmp_path / "ran")
    dcp.save(tensors, checkpoint_id=tmp_path / "step-00000001")
    with pytest.raises(ValueError, match="cannot be read: Weights only load failed"):
        checkpoint.load(tmp_path / "step-00000001", *trained, {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 100)])
def test_a_damaged_checkpoint_gets_a_sentence(world, tmp_path, damage):
    trained = _trained(world)
    path = _save(tmp_path, 1, *trained)
    damage(path / "__0_0.distcp")
    with pytest.raises(ValueError, match=rf"checkpoint {path} cannot be read: .*; remove it to resume"):
        checkpoint.load(path, *trained, {})


@pytest.mark.parametrize("operation", ["mkdir", "fsync", "replace", "write_text"])
def test_a_checkpoint_that_cannot_be_written_leaves_those_before(world, tmp_path, monkeypatch, operation):
    trained = _trained(world)
    before = [_save(tmp_path, step, *trained) for step in (1, 2)]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    owner = Path if operation in ("mkdir", "write_text") else os
    monkeypatch.setattr(owner, operation, full)
    with pytest.raises(ValueError, match=r"step-00000003 cannot be written: .*No space left on device; those before"):
        _save(tmp_path, 3, *trained)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    assert checkpoint.load(before[1], *trained, {})["step"] == 2


def test_a_rank_that_cannot_write_stops_all_ranks(tmp_path):
    from tests.helpers.ranks import on_ranks

    told = on_ranks(2, _save_where_one_rank_cannot, tmp_path)
    assert told[0] == told[1]
    assert "cannot be written: [Errno 28] No space left on device" in told[0]
    assert list(tmp_path.iterdir()) == []


def _save_where_one_rank_cannot(world, folder):
    trained = _trained(world)
    if dist.get_rank() == 1:
        from torch.distributed.checkpoint.filesystem import FileSystem

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        FileSystem.create_stream = full
    try:
        _save(folder, 1, *trained)
    except ValueError as error:
        return str(error)
