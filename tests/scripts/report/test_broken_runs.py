"""Runs that are damaged, still going, moved, or none at all."""

import shutil

import pyarrow.parquet as pq

from selection.log.reader import read_log
from selection.log.writer import SelectionLog
from tests.helpers.run_example import STEPS, ask, ask_json, make_run


def test_a_damaged_file_is_named_and_the_rest_is_reported(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    broken = folder / "selection" / "000000050-rank00001.parquet"
    broken.write_bytes(b"PAR1 half a file")
    code, out, err = ask(capsys, folder)
    assert code == 0
    assert f"note: {broken.name} is damaged and left out" in err
    assert len(err.splitlines()) == 1
    assert "Sources, by pick rate" in out
    assert ask(capsys, folder, "--html")[0] == 0
    assert broken.name in (folder / "report.html").read_text()


def test_steps_without_rows_are_told(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=5)
    later = SelectionLog(folder / "selection", rank=0)
    later.append(9, 0, [0], [0], learning_rate=1.0)
    later.close()
    assert ask_json(capsys, folder)["gaps"] == [{"first_step": 5, "last_step": 8, "groups": [0]}]


def test_a_run_still_going_is_reported_and_its_spans_grow(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=5)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "train_lo')  # being written
    first = ask_json(capsys, folder)["numbers"][0]
    assert (first["steps"], first["planned_steps"]) == (5, STEPS)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('ss": 4.5, "seconds": 12.0}\n')
    make_run(folder, odd_dataset[0], first=5)
    assert ask_json(capsys, folder)["numbers"][0]["steps"] == STEPS
    parts = sorted((folder / "spans").iterdir())
    assert [path.name for path in parts] == ["000000.parquet", "000001.parquet"]
    ids = [set(pq.read_table(path)["sample_id"].to_pylist()) for path in parts]
    assert ids[0] | ids[1] == set(read_log(folder / "selection")["sample_id"].to_pylist())
    assert not ids[0] & ids[1]


def test_spans_that_were_damaged_are_looked_up_again(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    before = ask_json(capsys, folder, "--ask", "sources")
    (folder / "spans" / "000000.parquet").write_bytes(b"PAR1 half a file")
    assert ask_json(capsys, folder, "--ask", "sources") == before


def test_a_folder_that_cannot_be_written_gets_a_sentence(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    (folder / "spans").write_text("in the way")
    code, out, err = ask(capsys, folder)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: cannot write {folder / 'spans' / '000000.parquet'}")
    assert len(err.splitlines()) == 1


def test_a_run_before_its_first_flush(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0], last=0)
    (folder / "metrics.jsonl").unlink()
    code, out, err = ask(capsys, folder)
    assert code == 0
    assert "nothing measured yet" in out
    assert "there is no metrics.jsonl" in err
    assert ask(capsys, folder, "--html")[0] == 0


def test_a_dataset_that_moved_or_changed(odd_dataset, dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "run", odd_dataset[0])
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(str(odd_dataset[0]), "/nowhere"))
    code, out, err = ask(capsys, folder)
    assert code == 0
    assert "note: no texts: /nowhere" in err
    assert "Sources" not in out
    code, out, err = ask(capsys, folder, "--data", odd_dataset[0])
    assert (code, err) == (0, "")
    assert "Sources" in out
    shutil.rmtree(folder / "spans")
    _, out, err = ask(capsys, folder, "--data", dataset)
    assert "is not the dataset of this run" in err
    assert "Sources" not in out


def test_folders_that_are_no_runs_get_a_sentence(tmp_path, capsys):
    def error():
        code, out, err = ask(capsys, tmp_path)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        return err

    assert "holds no config.toml, so it is no run folder" in error()
    config = tmp_path / "config.toml"
    config.write_text("[data")
    assert f"{config} is not valid TOML" in error()
    config.write_text('[data]\npath = "x"\n')
    assert f"{config} has no key 'selection'" in error()
    config.write_text('[data]\npath = "x"\n[selection]\nmethod = "greats"\n')
    assert "selection is not a folder" in error()
