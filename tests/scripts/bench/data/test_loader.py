"""What the loader benchmark tells of a run."""

import pytest
from rich.console import Console

from scripts.bench.__main__ import main
from scripts.bench.data.loader import waiting
from scripts.train.record import read_run
from tests.helpers.runs import run


def test_the_share_of_a_run_that_was_waited_is_that_of_its_metrics(dataset, tmp_path, capsys):
    folder = run(dataset, tmp_path / "run", selection__method="regular")
    lines = read_run(folder).training
    waited = sum(line["data_seconds"] for line in lines[1:]) / (lines[-1]["seconds"] - lines[0]["seconds"])
    capsys.readouterr()
    waiting(folder, Console(width=400))
    assert f"{100 * waited:.2f} %" in (told := capsys.readouterr().out)
    assert "6 steps" in told


def test_a_folder_that_tells_of_no_steps_is_refused(dataset, tmp_path, capsys):
    assert main(["loader", "--run", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    folder = run(dataset, tmp_path / "run", selection__method="regular", train__steps=1)
    with pytest.raises(ValueError, match="tells of 1 training steps"):
        waiting(folder, Console())
