"""Files of the selection log: how they grow, what a crash leaves, what is dropped, and what is damaged."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from selection.log import writer as log_module
from selection.log.reader import check_files, read_log
from selection.log.writer import SelectionLog


def write_run(folder, steps, rank=0, groups=(0,), start=0, flush_every=100, n=4, k=2):
    """Steps from `start` on: sample ids count up; the picks are the last k candidates, the last one first."""
    log = SelectionLog(folder, rank, flush_every)
    for step in range(start, start + steps):
        for group in groups:
            ids = np.arange(n) + (step * 100 + group) * n
            scores = torch.arange(n, dtype=torch.float32) + step
            log.append(step, group, ids, range(n - 1, n - 1 - k, -1), learning_rate=1e-3, first_order=scores)
    log.close()


def test_flushes_after_whole_steps_into_one_growing_file(tmp_path):
    log = SelectionLog(tmp_path, rank=0, flush_every=2)
    rows_on_disk = []
    for step in range(5):
        for group in range(3):
            log.append(step, group, [1, 2], [0], learning_rate=1.0)
            rows_on_disk.append(read_log(tmp_path).num_rows)
    # Steps 0 and 1 (12 rows) are written when step 2 begins, steps 2 and 3 when step 4 begins.
    assert rows_on_disk == [0] * 6 + [12] * 6 + [24] * 3
    log.close()
    assert read_log(tmp_path).num_rows == 30
    assert [path.name for path in tmp_path.iterdir()] == ["000000000-rank00000.parquet"]


def test_a_full_file_is_followed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "FILE_ROWS", 16)
    write_run(tmp_path, steps=10, flush_every=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "000000000-rank00000.parquet",
        "000000004-rank00000.parquet",
        "000000008-rank00000.parquet",
    ]
    assert read_log(tmp_path)["step"].to_pylist() == [step for step in range(10) for _ in range(4)]


def test_rows_of_all_ranks_come_in_order_of_step_and_group_and_as_drawn(tmp_path):
    write_run(tmp_path, steps=3, rank=1, groups=(2, 3))
    write_run(tmp_path, steps=3, rank=0, groups=(0, 1))
    table = read_log(tmp_path).to_pydict()
    order = list(zip(table["step"], table["group"], table["sample_id"], strict=True))
    assert order == sorted(order)
    assert len(order) == 3 * 4 * 4
    assert [table["rank"][i] for i in range(0, 16, 4)] == [0, 0, 1, 1]


def test_other_readers_open_the_folder_while_a_file_is_being_written(tmp_path):
    write_run(tmp_path, steps=2)
    (tmp_path / ".000000002-rank00000.parquet.tmp").write_bytes(b"half a file")
    assert ds.dataset(tmp_path, format="parquet").count_rows() == 8
    assert read_log(tmp_path).num_rows == 8


def test_a_crash_while_writing_keeps_the_rows_written_before(tmp_path, monkeypatch):
    log = SelectionLog(tmp_path, rank=0)
    log.append(0, 0, [1], [0], learning_rate=1.0)
    log.flush()
    log.append(1, 0, [2], [0], learning_rate=1.0)

    def crash(*args):
        raise OSError("disk gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises((OSError, ValueError), match="disk gone"):
            log.flush()
    assert read_log(tmp_path)["sample_id"].to_pylist() == [1]
    log.flush()  # nothing of the failed flush is lost
    assert read_log(tmp_path)["sample_id"].to_pylist() == [1, 2]


def test_drop_from_keeps_earlier_steps_of_every_rank_and_clears_leftovers(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "FILE_ROWS", 16)
    write_run(tmp_path, steps=10, rank=0, groups=(0,), flush_every=2)
    write_run(tmp_path, steps=10, rank=1, groups=(1,), flush_every=2)
    (tmp_path / ".000000008-rank00001.parquet.tmp").write_bytes(b"half a file")
    before = read_log(tmp_path).to_pylist()
    untouched = (tmp_path / "000000000-rank00000.parquet").stat().st_mtime_ns
    for _ in range(2):  # a second time changes nothing
        SelectionLog.drop_from(tmp_path, 6)
        assert read_log(tmp_path).to_pylist() == [row for row in before if row["step"] < 6]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"00000000{step}-rank0000{rank}.parquet" for step, rank in ((0, 0), (0, 1), (4, 0), (5, 1))
    ]
    assert (tmp_path / "000000000-rank00000.parquet").stat().st_mtime_ns == untouched
    # Resumed by one rank instead of two, from the same step: the log is as if never interrupted.
    write_run(tmp_path, steps=4, rank=0, groups=(0, 1), start=6)
    without_rank = [{**row, "rank": 0} for row in before]
    assert [{**row, "rank": 0} for row in read_log(tmp_path).to_pylist()] == without_rank


def test_each_rank_drops_its_share_also_of_ranks_that_are_no_more(tmp_path):
    for rank in range(3):
        write_run(tmp_path, steps=4, rank=rank, groups=(rank,))
        (tmp_path / f".000000002-rank{rank:05d}.parquet.tmp").write_text("half")
    SelectionLog.drop_from(tmp_path, 2, rank=0, ranks=2)
    left = read_log(tmp_path, ["step", "group"]).to_pydict()
    assert {group for step, group in zip(left["step"], left["group"], strict=True) if step >= 2} == {1}
    assert [path.name for path in tmp_path.glob("*.tmp")] == [".000000002-rank00001.parquet.tmp"]
    SelectionLog.drop_from(tmp_path, 2, rank=1, ranks=2)
    assert sorted(read_log(tmp_path, ["step"])["step"].to_pylist()) == [0] * 12 + [1] * 12
    assert not list(tmp_path.glob("*.tmp"))


def test_ranks_flush_after_different_steps(tmp_path):
    flushed = {}
    for rank in range(3):
        log = SelectionLog(tmp_path, rank, flush_every=3)
        for step in range(4):
            before = len(list(tmp_path.glob("*.parquet")))
            log.append(step, rank, [1, 2], [0], learning_rate=1.0)
            if len(list(tmp_path.glob("*.parquet"))) > before:
                flushed[rank] = step
    assert flushed == {0: 3, 1: 2, 2: 1}


def test_drop_from_step_zero_empties_the_log(tmp_path):
    write_run(tmp_path, steps=3)
    SelectionLog.drop_from(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_logged_already_are_never_overwritten(tmp_path):
    write_run(tmp_path, steps=3)
    again = SelectionLog(tmp_path, rank=0)
    again.append(0, 0, [99], [0], learning_rate=1.0)
    with pytest.raises(ValueError, match="drop_from"):
        again.flush()
    assert 99 not in read_log(tmp_path)["sample_id"].to_pylist()


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped bit":
        metadata = pq.ParquetFile(path).metadata.row_group(0)
        scores = next(
            metadata.column(i)
            for i in range(metadata.num_columns)
            if metadata.column(i).path_in_schema == "first_order"
        )
        data[scores.data_page_offset + scores.total_compressed_size - 3] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["cut", "flipped bit"])
def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path, how):
    write_run(tmp_path, steps=50, rank=0, groups=(0,))
    write_run(tmp_path, steps=50, rank=1, groups=(1,))
    broken = tmp_path / "000000000-rank00001.parquet"
    damage(broken, how)
    assert list(check_files(tmp_path).damaged) == [broken]
    with pytest.warns(UserWarning, match=f"{broken.name} is left out"):
        table = read_log(tmp_path)
    assert set(table["group"].to_pylist()) == {0}
    assert table.num_rows == 200
    with pytest.raises(ValueError, match=f"{broken.name} cannot be read.*move it away"):
        SelectionLog.drop_from(tmp_path, 10)
    assert broken.exists()


def test_a_parquet_file_that_is_no_log_is_named(tmp_path):
    write_run(tmp_path, steps=1)
    pq.write_table(pa.table({"step": [1]}), tmp_path / "other.parquet")
    damaged = check_files(tmp_path).damaged
    assert list(damaged) == [tmp_path / "other.parquet"]
    assert damaged[tmp_path / "other.parquet"].startswith("no column group, rank, sample_id")
    with pytest.raises(ValueError, match=r"other.parquet cannot be read \(its columns are not"):
        SelectionLog.drop_from(tmp_path, 0)
