"""Datasets elsewhere, against a real HTTP server on loopback that fails in every way a network does."""

import functools
import http.server
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from itertools import islice

import fsspec
import pytest
import torch

from pipeline.dataset import remote
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader
from pipeline.dataset.remote import Mirror, is_remote
from pipeline.stream.candidates import CandidateStream

ROOM = 1 << 30


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder. `server.faults[name]` is a list of what goes wrong with the next requests for a file."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked[name] += 1
        faults = self.server.faults.get(name)
        fault = faults.pop(0) if faults else None
        if fault is None:
            return super().do_GET()
        if isinstance(fault, int):
            return self.send_error(fault)
        content = (self.server.folder / name).read_bytes()
        if fault == "drop":  # before any answer
            self.close_connection = True
            return self.connection.close()
        self.send_response(200)
        if fault == "flip":
            content = content[:700] + bytes([content[700] ^ 1]) + content[701:]
        if fault != "short":  # "short": without a length, the end of the connection is the end of the file
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if fault == "flip" else content[: len(content) // 2])
        self.wfile.flush()
        if fault in ("stall", "wait"):
            self.server.ended.wait(timeout=20)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, make_dataset, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote, "STALL", 0.3)
    folder = tmp_path / "data"
    make_dataset(folder, samples=60, per_shard=10)
    handler = functools.partial(_Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.folder, server.faults, server.asked, server.ended = folder, {}, Counter(), threading.Event()
    server.place = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _mirror(server, tmp_path, **changed):
    return Mirror(**({"place": server.place, "cache": tmp_path / "cache", "limit": ROOM} | changed))


def _shards(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("*/*.tar"))


def _leftovers(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("*/.*") if path.suffix != ".lock")


def test_a_stream_from_elsewhere_is_the_stream_from_the_folder(server, tmp_path, capfd):
    def stream(dataset, workers):
        return CandidateStream(dataset, groups=2, drawn=3, seed=1, lanes=[0, 1], window=4, workers=workers)

    expected = list(islice(stream(server.folder, 0), 12))
    for workers in (0, 2):  # the second from the cache
        for ours, theirs in zip(islice(stream(_mirror(server, tmp_path), workers), 12), expected, strict=True):
            assert torch.equal(ours.sample_ids_Gn, theirs.sample_ids_Gn)
            assert torch.equal(ours.tokens_GnT1, theirs.tokens_GnT1)
    assert {name: n for name, n in server.asked.items() if name.startswith("train")} == {
        f"train-{i:06d}.tar": 1 for i in range(6)
    }
    assert server.asked["tokenizer.json"] == 1
    assert "train-000003.tar: 0.0 MB in " in capfd.readouterr().err


@pytest.mark.parametrize("fault", ["drop", "short", "half", "stall", "flip", 500, 503, 429])
@pytest.mark.parametrize("name", ["manifest.json", "train-000001.tar"])
def test_what_a_network_does_is_tried_again(server, tmp_path, tokens_of, capfd, fault, name):
    if name == "manifest.json" and fault in ("flip", "short"):
        return  # nothing but its content says what the bytes of a manifest are, or how many
    server.faults[name] = [fault] * 2
    reader = SplitReader(_mirror(server, tmp_path))
    assert reader.tokens([12]).tolist() == [tokens_of(12)]
    assert server.asked[name] == 3
    assert f"{name}: " in capfd.readouterr().err
    assert _leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (500, "the server answered 500"),
        ("flip", "its sha256 is not the one in the manifest"),
        ("short", "it ended after 4352 of 8704 bytes"),
        ("half", "the connection ended 4352 bytes early"),
        ("drop", "(closed|reset)"),
    ],
)
def test_what_does_not_pass_gets_a_sentence(server, tmp_path, fault, sentence):
    server.faults["train-000001.tar"] = [fault] * 100
    reader = SplitReader(_mirror(server, tmp_path))
    with pytest.raises(ValueError, match=f"^train-000001.tar of {server.place} cannot be had: .*{sentence}"):
        reader.tokens([12])
    assert server.asked["train-000001.tar"] == remote.ATTEMPTS
    assert _shards(tmp_path) == _leftovers(tmp_path) == []


def test_a_shard_that_is_not_there_is_not_asked_for_again(server, tmp_path):
    (server.folder / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=f"{server.place}/train-000001.tar cannot be had: 404"):
        SplitReader(_mirror(server, tmp_path)).tokens([12])
    assert server.asked["train-000001.tar"] == 1


def test_shards_are_fetched_a_window_ahead_of_their_lane(server, tmp_path):
    stream = CandidateStream(_mirror(server, tmp_path), groups=1, drawn=5, seed=0, lanes=[0], window=10)
    drawing = iter(stream)
    next(drawing)
    ahead = {f"train-{number:06d}.tar" for number in stream._order.window(0, 0, 1)[0] // 10}
    deadline = time.monotonic() + 20
    while not ahead <= set(_shards(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ahead <= set(_shards(tmp_path))
    assert len(_shards(tmp_path)) < 6


def test_what_is_no_dataset_gets_a_sentence(server, tmp_path):
    (server.folder / "manifest.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"holds a manifest.json that is none of ours"):
        Manifest.load(_mirror(server, tmp_path))
    with pytest.raises(ValueError, match=r"manifest.json cannot be had: 404"):
        Manifest.load(_mirror(server, tmp_path, place=server.place + "/elsewhere"))


def test_the_cache_stays_below_its_limit(server, tmp_path, tokens_of):
    """What was opened longest ago goes first; what another process removed is fetched again."""
    manifest = Manifest.load(_mirror(server, tmp_path, limit=2 * 8704 + 100))
    reader = SplitReader(manifest, open_shards=6)
    for sample in (1, 11, 21):
        assert reader.tokens([sample]).tolist() == [tokens_of(sample)]
    assert _shards(tmp_path) == ["train-000001.tar", "train-000002.tar"]
    assert reader.tokens([2]).tolist() == [tokens_of(2)]  # removed, but held open
    SplitReader(manifest).tokens([12])
    SplitReader(manifest).tokens([32])
    assert _shards(tmp_path) == ["train-000001.tar", "train-000003.tar"]
    assert server.asked["train-000001.tar"] == 1
    with pytest.raises(ValueError, match=r"has 8704 bytes, more than the cache .* may hold .100.: raise data.cache_gb"):
        SplitReader(_mirror(server, tmp_path, limit=100)).tokens([1])


def test_a_damaged_copy_is_found_out(server, tmp_path):
    SplitReader(_mirror(server, tmp_path)).tokens([1])
    (copy,) = (tmp_path / "cache").glob("*/train-000000.tar")
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=rf"shard {copy}, a copy from {server.place}, .*: remove it and it is fetched"):
        SplitReader(_mirror(server, tmp_path)).tokens([1])


def _read(mirror, samples):
    reader = SplitReader(mirror)
    for sample in samples:
        reader.tokens([sample])


def _started(*arguments):
    process = multiprocessing.get_context("fork").Process(target=_read, args=arguments)
    process.start()
    return process


def test_two_ranks_fetch_a_shard_once(server, tmp_path):
    """Also with room for one shard only, where they must wait for each other."""
    for limit, most in ((ROOM, 1), (8704 + 100, 4)):
        server.asked.clear()
        mirror = _mirror(server, tmp_path, cache=tmp_path / f"cache-{limit}", limit=limit)
        ranks = [_started(mirror, [1, 11, 21, 31]) for _ in range(4)]
        for rank in ranks:
            rank.join(timeout=60)
        assert [rank.exitcode for rank in ranks] == [0] * 4
        counts = [n for name, n in server.asked.items() if name.startswith("train")]
        assert len(counts) == 4
        assert max(counts) <= most


def test_a_rank_killed_in_the_middle_leaves_nothing_in_the_way(server, tmp_path, tokens_of, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 20)
    server.faults["train-000001.tar"] = ["wait"]
    mirror = _mirror(server, tmp_path, limit=8704 + 100)
    rank = _started(mirror, [11])
    while not _leftovers(tmp_path) or not server.asked["train-000001.tar"]:
        time.sleep(0.01)
    os.kill(rank.pid, signal.SIGKILL)
    rank.join()
    assert _leftovers(tmp_path) == [".train-000001.tar.partial"]
    assert _shards(tmp_path) == []
    # Another shard takes the room of what was left, and the same one is fetched anew.
    assert SplitReader(mirror).tokens([21]).tolist() == [tokens_of(21)]
    assert _leftovers(tmp_path) == []
    assert SplitReader(mirror).tokens([11]).tolist() == [tokens_of(11)]


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the cache .*file/cache of .* cannot be used: .*Not a directory"):
        Manifest.load(_mirror(server, tmp_path, cache=tmp_path / "file" / "cache"))
    manifest = Manifest.load(_mirror(server, tmp_path))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote.os, "fsync", full)
    with pytest.raises(ValueError, match=r"cannot be used: .*No space left on device"):
        SplitReader(manifest).tokens([1])
    assert _shards(tmp_path) == _leftovers(tmp_path) == []


def test_places_of_fsspec(server, tmp_path, tokens_of):
    files = fsspec.filesystem("memory")
    for path in server.folder.iterdir():
        files.pipe(f"/bucket/{path.name}", path.read_bytes())
    reader = SplitReader(_mirror(server, tmp_path, place="memory://bucket"))
    assert reader.tokens([12]).tolist() == [tokens_of(12)]
    files.rm("/bucket/train-000000.tar")
    with pytest.raises(ValueError, match=r"memory://bucket/train-000000.tar cannot be had"):
        reader.tokens([1])
    with pytest.raises(ValueError, match=r"gopher://host/manifest.json cannot be had: Protocol not known"):
        Manifest.load(_mirror(server, tmp_path, place="gopher://host"))


def test_commands_run_only_where_they_are_allowed(server, tmp_path, tokens_of, capfd):
    place = f"pipe:touch {tmp_path}/ran; cat {server.folder}/{{}}"
    with pytest.raises(ValueError, match=r"would run a command: allow that with --data.pipe if you trust it"):
        _mirror(server, tmp_path, place=place)
    assert not (tmp_path / "ran").exists()
    reader = SplitReader(_mirror(server, tmp_path, place=place, pipe=True))
    assert reader.tokens([12]).tolist() == [tokens_of(12)]
    assert (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match=r"must have {} where the name"):
        _mirror(server, tmp_path, place="pipe:cat", pipe=True)
    (server.folder / "train-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"train-000000.tar of pipe:.* cannot be had: exit code 1 of: touch"):
        reader.tokens([1])


def test_a_command_that_stalls_is_ended(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    place = f"pipe:(sleep 1; touch {tmp_path}/survived); cat {{}}"
    with pytest.raises(ValueError, match=r"no byte for 0\.3 s from: "):
        Manifest.load(_mirror(server, tmp_path, place=place, pipe=True))
    time.sleep(1.2)
    assert not (tmp_path / "survived").exists()


def test_a_changed_dataset_does_not_meet_the_old_copies(server, tmp_path, make_dataset, tokens_of):
    SplitReader(_mirror(server, tmp_path)).tokens([1])
    shutil.rmtree(server.folder)
    make_dataset(server.folder, samples=80, per_shard=8, salt=" ")
    assert SplitReader(_mirror(server, tmp_path)).tokens([1, 79]).tolist() == [tokens_of(1), tokens_of(79)]


def test_what_names_a_place_elsewhere():
    places = ["http://a/b", "https://a", "s3://bucket/data", "pipe:cat {}", "memory://x"]
    assert [is_remote(place) for place in places] == [True] * 5
    assert [is_remote(place) for place in ("data/owt", "/data", "C:/data", "a:b")] == [False] * 4
