"""A short soak: runs of two ranks end with 0, what is not whole is counted, and a run that fails is told."""

import subprocess
import sys

import pytest

from tests import soak


def test_runs_of_two_ranks_end_with_0_and_all_is_there(capsys):
    assert soak.main(["--runs", "2"]) == 0
    assert "2 of 2 runs of 2 ranks ended with exit code 0 (2 with 0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("endings", "told"),
    [
        (
            [(0, "step      6  val"), (1, "broken")],
            "1 of 2 runs of 2 ranks ended with exit code 0 (1 with 0, 1 with 1)",
        ),
        ([(0, ""), (0, "")], "0 of 2 runs of 2 ranks ended with exit code 0 (2 with 0 but not all was there)"),
    ],
)
def test_a_run_that_fails_is_counted_and_its_output_kept(tmp_path, monkeypatch, capsys, endings, told):
    def run(folder, dataset, number, ranks):
        place = folder / f"run-{number}"
        place.mkdir()
        (place / "metrics.jsonl").write_text('{"step": 6}\n')
        (place / "ended.json").write_text('{"how": "finished", "step": 6, "why": null}')
        return endings[number]

    monkeypatch.setattr(soak, "run", run)
    monkeypatch.setattr(soak, "make_dataset", lambda folder: folder / "data")
    assert soak.main(["--runs", "2", "--keep", str(tmp_path / "kept")]) == 1
    assert told in capsys.readouterr().out
    kept = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert kept == {f"run-{number}.log": text for number, (code, text) in enumerate(endings) if code or not text}


def test_the_process_ends_with_its_code_and_its_output_whole(tmp_path):
    """Also into a pipe, where output is kept back until it is flushed, and with what was registered to run at exit."""
    code = (
        "import atexit; from scripts.train.ending import leave_process\n"
        "atexit.register(print, 'registered')\nprint('x' * 100_000)\nleave_process(3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 3
    assert ended.stdout == "x" * 100_000 + "\nregistered\n"
