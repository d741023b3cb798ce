import pytest

from pipeline.atomic import replacing, write_whole


def test_a_file_is_replaced_once_all_of_it_is_written(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "before")
    with replacing(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_after_an_error_it_is_what_it_was(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"before")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("no more")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
