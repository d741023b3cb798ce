"""The benchmark of checkpoints runs, and leaves nothing behind."""

from scripts.bench.__main__ import main

TINY = ["--n-layer", "1", "--n-embd", "8", "--n-head", "2", "--vocab-size", "64", "--rounds", "2"]


def test_every_checkpoint_is_told_and_none_is_left(tmp_path, capsys):
    assert main(["checkpoint", *TINY, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "stands still" in told
    assert [line.split()[1] for line in told.splitlines() if " s " in line] == ["1", "2"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    assert main(["checkpoint", *TINY, "--out", str(tmp_path / "none")]) == 2
    assert "none is no folder: give one on the disk to be measured" in capsys.readouterr().err
