"""What stays behind of a dataset that was not finished."""

import errno

import pytest

from pipeline.interrupted import Interrupted
from pipeline.prepare.folder import KEPT, new_folder


def _names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _fails(out, error, parts=2):
    with pytest.raises(type(error)) as raised, new_folder(out) as folder:
        (folder / "shuffle").mkdir()
        (folder / "shuffle" / "000").write_text("half")
        (folder / "train-000000.tar").write_text("half")
        if parts:
            (folder / KEPT / "tokenizer-1.json").write_text("{}")
        for part in range(parts):
            (folder / KEPT / f"{part}.part").write_text("finished")
        raise error
    return raised.value


def test_a_whole_dataset_gets_its_name_and_nothing_else_stays(tmp_path):
    with new_folder(tmp_path / "data") as folder:
        (folder / KEPT / "0.part").write_text("finished")
        (folder / "manifest.json").write_text("{}")
    assert _names(tmp_path) == {"data", "data/manifest.json"}


def test_bad_input_leaves_nothing(tmp_path):
    _fails(tmp_path / "data", ValueError("line 7 is no JSON"))
    assert _names(tmp_path) == set()


FULL = OSError(errno.ENOSPC, "No space left on device", "data.partial/train-000000.tar")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("the hub is away"), MemoryError(), FULL])
def test_what_the_input_is_not_to_blame_for_leaves_what_is_finished(tmp_path, error):
    partial = tmp_path / "data.partial"
    if error is FULL:
        with pytest.raises(Interrupted) as raised:
            _fails(tmp_path / "data", error)
        raised = raised.value
    else:
        raised = _fails(tmp_path / "data", error)
    kept = {f"data.partial/{KEPT}/{name}" for name in ("", "0.part", "1.part", "tokenizer-1.json")}
    assert _names(tmp_path) == {"data.partial"} | {name.rstrip("/") for name in kept}
    told = f"2 encoded parts stay in {partial}, and the same command goes on from there"
    assert told in " ".join([str(raised), *getattr(raised, "__notes__", [])])
    with new_folder(tmp_path / "data") as folder:
        assert _names(folder) == {KEPT, f"{KEPT}/0.part", f"{KEPT}/1.part", f"{KEPT}/tokenizer-1.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("the hub is away"), MemoryError()])
def test_where_nothing_is_finished_nothing_stays(tmp_path, error):
    _fails(tmp_path / "data", error, parts=0)
    assert _names(tmp_path) == set()


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(Interrupted) as raised:
        _fails(tmp_path / "data", FULL, parts=0)
    assert str(raised.value) == (
        "data.partial/train-000000.tar cannot be read or written (No space left on device): mend that and run the "
        "same command again"
    )


def test_a_trained_tokenizer_is_finished_too(tmp_path):
    with pytest.raises(KeyboardInterrupt) as raised, new_folder(tmp_path / "data") as folder:
        (folder / KEPT / "tokenizer-1.json").write_text("{}")
        (folder / KEPT / ".tokenizer-2.json.tmp").write_text("half")
        raise KeyboardInterrupt
    assert "the trained tokenizer stays in" in raised.value.__notes__[0]
    assert (tmp_path / "data.partial" / KEPT / "tokenizer-1.json").exists()
