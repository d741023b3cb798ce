import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.tar import BLOCK, END, member, scan

_FILES = st.lists(st.binary(max_size=1500), max_size=6)


def _archive(contents):
    return b"".join(member(f"{i}.bin", content) for i, content in enumerate(contents)) + END


@given(_FILES)
def test_tarfile_reads_what_we_write(contents):
    with tarfile.open(fileobj=io.BytesIO(_archive(contents))) as archive:
        entries = archive.getmembers()
        assert [entry.name for entry in entries] == [f"{i}.bin" for i in range(len(contents))]
        assert [archive.extractfile(entry).read() for entry in entries] == contents
        assert all((entry.mtime, entry.uid, entry.gid, entry.mode) == (0, 0, 0, 0o644) for entry in entries)


@given(_FILES)
def test_scan_finds_every_member(contents):
    data = _archive(contents)
    members = scan(data)
    found = [data[start : start + size] for start, size in zip(members.starts, members.sizes, strict=True)]
    assert found == contents
    assert members.names.tolist() == [f"{i}.bin".encode() for i in range(len(contents))]


@given(_FILES, st.data())
def test_a_cut_archive_is_found_out_wherever_it_is_cut(contents, data):
    whole = _archive(contents)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match=r"cut|damaged"):
        scan(whole[:length])


@given(_FILES.filter(len), st.data())
def test_a_changed_header_is_found_out(contents, data):
    whole = bytearray(_archive(contents))
    headers = scan(bytes(whole)).starts - BLOCK
    place = int(data.draw(st.sampled_from(headers.tolist()))) + data.draw(st.integers(0, BLOCK - 1))
    changed = (whole[place] + data.draw(st.integers(1, 255))) % 256
    # The checksum's own two last bytes (a zero and a space) carry nothing.
    if (place % BLOCK) in (154, 155):
        return
    whole[place] = changed
    with pytest.raises(ValueError, match=r"cut|damaged"):
        scan(bytes(whole))


def test_bytes_after_the_end_are_found_out():
    with pytest.raises(ValueError, match="written over"):
        scan(_archive([b"a"]) + bytes(BLOCK))


def test_an_archive_of_tarfile_with_a_folder_in_it_is_refused():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    data = buffer.getvalue()[:BLOCK] + END
    with pytest.raises(ValueError, match="damaged header at byte 0"):
        scan(data)


def test_an_empty_archive_has_no_members():
    members = scan(END)
    assert len(members.names) == len(members.starts) == len(members.sizes) == 0
    assert members.starts.dtype == np.int64
