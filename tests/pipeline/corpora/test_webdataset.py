"""Other people's shards: what is read of them, from where, and what is said of broken ones."""

import functools
import gzip
import http.server
import io
import json
import tarfile
import threading

import pytest
import webdataset

from pipeline.corpora import taken_up
from pipeline.corpora.document import Document
from pipeline.mixture.registry import estimated_characters, read_corpus

BODY = {"body": "two", "url": "u2", "site": "b"}


def write_tar(path, members: dict[str, bytes], mode: str = "w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path):
    """Three shards of ten plain texts, as `webdataset` itself writes them."""
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"web-{shard:03d}.tar")) as out:
            for i in range(10):
                out.write({"__key__": f"{shard}{i}", "txt": f"text {shard}-{i} é"})
    return str(tmp_path / "web-{000..002}.tar")


TEXTS = [f"text {shard}-{i} é" for shard in range(3) for i in range(10)]


def _texts(*patterns, **asked):
    return [document.text for document in read_corpus("webdataset", patterns, **asked)]


def test_shards_of_webdatasets_own_writer(shards):
    documents = list(read_corpus("webdataset", [shards]))
    assert documents[0] == Document("web-000.tar:00", "text 0-0 é", "web")
    assert documents[-1] == Document("web-002.tar:29", "text 2-9 é", "web")
    assert [document.text for document in documents] == TEXTS
    assert _texts(shards.replace("{000..002}", "*")) == TEXTS  # a glob
    assert _texts(shards, shards.replace("{000..002}", "001")) == TEXTS  # each once


def test_members_of_every_kind(tmp_path):
    members = {
        "a/one.txt": b"\xef\xbb\xbfone",
        "a/one.jpg": b"\xff\xd8",
        "a/one.json": b'{"url": "u1", "site": "a", "body": "not this"}',
        "a/two.json": json.dumps(BODY).encode(),
        "b/one.TXT.gz": gzip.compress(b"three"),
        "b/one.meta.json.gz": gzip.compress(b'{"url": 3, "site": "a"}'),
        "b/__index__": b"no record",
    }
    path = str(write_tar(tmp_path / "mine.tar", members))
    expected = [Document("u1", "one", "a"), Document("u2", "two", "b"), Document("3", "three", "a")]
    fields = {"text_field": "body", "id_field": "url", "source_field": "site"}
    assert list(read_corpus("webdataset", [path], **fields)) == expected
    documents = read_corpus("webdataset", [path], text_field="body")
    assert [document.id for document in documents] == ["mine.tar:a/one", "mine.tar:a/two", "mine.tar:b/one"]


@pytest.mark.parametrize(("suffix", "mode"), [("tar.gz", "w:gz"), ("tgz", "w:gz")])
def test_compressed_shards_and_folders(tmp_path, suffix, mode):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / f"0001.{suffix}", {"k.txt": folder.encode() * 1000}, mode)
    documents = list(read_corpus("webdataset", [str(tmp_path / "{x,y}" / "*")]))
    assert [(d.id, d.text[:1], d.source) for d in documents] == [
        (f"{folder}/0001.{suffix}:k", folder, "webdataset") for folder in "xy"
    ]
    assert estimated_characters("webdataset", [str(tmp_path / "{x,y}" / "*")]) == 3 * sum(
        path.stat().st_size for path in tmp_path.glob("?/*")
    )


def _cut(data):
    return data[: 512 * 2 * 3]  # after a whole member: a shorter tar, for all that tarfile says


def _flipped(data):
    return data[: 512 * 4] + b"\xee" + data[512 * 4 + 1 :]


SOUND = {f"{i}.txt": b"text" for i in range(8)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_cut, "it is cut: it has not the empty block"),
        (lambda data: data[: 512 * 5 + 100], "unexpected end of data|it is cut"),
        (_flipped, "it has a damaged header at byte 2048"),
        (lambda data: b"", "empty file"),
        (lambda data: b"no archive at all" * 100, "it has a damaged header at byte 0"),
        (lambda data: gzip.compress(data, mtime=0)[:-5], "Compressed file ended before the end-of-stream marker"),
        (lambda data: gzip.compress(data, mtime=0)[:-8] + bytes(8), "CRC check failed"),
    ],
)
def test_a_damaged_shard_gets_a_sentence(tmp_path, change, sentence):
    path = write_tar(tmp_path / "bad.tar", SOUND)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"^{path} cannot be read: ({sentence})") as raised:
        _texts(str(path))
    assert "\n" not in str(raised.value)
    assert "object at" not in str(raised.value)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"k.jpg": b"", "k.cls": b"1"}, r"record k has no .txt and no .json \(it has jpg, cls\)"),
        ({"k.json": b'{"body": "a"}'}, r"record k has no field 'text' \(it has body\): see --text-field"),
        ({"k.json": b'{"text": 3}'}, "record k: field 'text' is no text but int"),
        ({"k.json": b'{"text": '}, "record k: .json is no JSON"),
        ({"k.json": b"[]"}, "record k: .json is no JSON object"),
        ({"k.txt": b"a\xff"}, "record k: .txt cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ({"k.txt.gz": gzip.compress(b"text" * 99)[:-9]}, "record k: .txt.gz cannot be read: Compressed file ended"),
        ({"k.txt.gz": b"text"}, "record k: .txt.gz cannot be read: Not a gzipped file"),
        ({"k.a.txt": b"a", "k.b.txt.gz": b"b"}, "record k has more than one .txt: a.txt, b.txt.gz"),
    ],
)
def test_a_bad_record_gets_a_sentence(tmp_path, members, sentence):
    path = write_tar(tmp_path / "bad.tar", {"good.txt": b"text", **members})
    with pytest.raises(ValueError, match=f"^{path}, {sentence}"):
        _texts(str(path))


def test_commands_run_only_where_they_are_allowed(tmp_path, shards):
    place = f"pipe:touch {tmp_path}/ran; cat {shards}"
    with pytest.raises(ValueError, match="would run a command: allow that with --pipe if you trust it"):
        read_corpus("webdataset", [place])
    assert not (tmp_path / "ran").exists()
    assert _texts(place, pipe=True) == TEXTS
    assert (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match=r"cannot be loaded: exit code 3 of: exit 3"):
        _texts("pipe:exit 3", pipe=True)
    with pytest.raises(ValueError, match="corpus json reads no --pipe: leave it out"):
        read_corpus("json", [place], pipe=True)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; of the next `server.faults` answers only half arrives."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if not self.server.faults:
            return super().do_GET()
        self.server.faults -= 1
        content = self.server.read(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return self.wfile.write(content[: len(content) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(taken_up, "FIRST_PAUSE", 0.001)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(tmp_path)))
    server.faults, server.asked, server.read = 0, [], lambda path: (tmp_path / path[1:]).read_bytes()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_shards_over_http(shards, server, capfd):
    place = f"http://127.0.0.1:{server.server_address[1]}/web-{{000..002}}.tar"
    server.faults = 3
    documents = list(read_corpus("webdataset", [place]))
    assert [document.text for document in documents] == TEXTS
    assert documents[-1].id == "web-002.tar:29"
    assert server.asked == ["/web-000.tar"] * 4 + ["/web-001.tar", "/web-002.tar"]
    (told,) = {line.partition("; attempt")[0] for line in capfd.readouterr().err.splitlines()}
    assert told.endswith("/web-000.tar: the connection is lost after row 3 (the connection ended 15360 bytes early)")
    with pytest.raises(ValueError, match=r"web-003.tar cannot be loaded: .* 404 "):
        _texts(place.replace("002}", "003}"))
    assert estimated_characters("webdataset", [place]) == 3 * 200_000_000


def test_an_address_is_never_a_command(tmp_path, server):
    """`webdataset` itself hands addresses to a shell."""
    with pytest.raises(ValueError, match="cannot be loaded"):
        _texts(f"http://127.0.0.1:{server.server_address[1]}/x'; touch {tmp_path}/ran; '.tar")
    assert not (tmp_path / "ran").exists()


def test_no_files_get_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="corpus webdataset needs --data-files"):
        read_corpus("webdataset")
    with pytest.raises(ValueError, match=r"no file matches '.*/b.tar'"):
        read_corpus("webdataset", [str(write_tar(tmp_path / "a.tar", SOUND)), str(tmp_path / "b.tar")])
