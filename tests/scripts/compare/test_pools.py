"""Pools by arms from tables that were kept: by hand."""

import pytest

from scripts.compare.pools import main, read_curves, rows_of

HEADER = "arm,learning_rate,seed,tuned,step,tokens,seconds,val_loss,test_loss\n"


def keep(folder, *runs: tuple[str, int, bool, float, list[float]]) -> None:
    """A results.csv of runs (arm, seed, tuned, seconds of a step, test losses)."""
    lines = [
        f"{arm},0.001,{seed},{tuned},{step},{8 * step},{step * pace},{9 - step},{loss}\n"
        for arm, seed, tuned, pace, losses in runs
        for step, loss in enumerate(losses)
    ]
    folder.mkdir()
    (folder / "results.csv").write_text(HEADER + "".join(lines))


@pytest.fixture
def pool(tmp_path):
    runs = [("regular", seed, True, 1.0, [8, 7, 6 + 0.1 * seed]) for seed in range(3)]
    runs += [("regular", 0, False, 1.0, [8, 1, 1])]  # at another rate
    runs += [("importance", 0, True, 1.0, [8, 5, 5]), ("need", 0, True, 2.0, [8, 5, 4])]
    keep(tmp_path / "one", *runs)
    return tmp_path / "one"


def test_losses_at_equal_seconds_and_seconds_to_the_ends_of_others(pool):
    """All but `need` take 2 s: in this time it makes one step. It is at 6.1 after 2 x 1.9 / 3 s, of 2."""
    rows = rows_of(read_curves(pool), ("regular", "importance"), "test")
    assert rows == [
        ["regular", "6.100 [6.000, 6.200]", "6.100 [6.000, 6.200]", "1.00", "–"],
        ["importance", "5.000", "5.000", "0.32", "0.50"],
        ["need", "4.000", "5.000", "0.63", "1.00"],
    ]


def test_all_pools_are_told_and_a_reference_that_one_lacks_is_left_out_there(pool, tmp_path, capsys):
    keep(tmp_path / "two", ("regular", 0, True, 1.0, [8, 7]))
    assert main([str(pool), str(tmp_path / "two")]) == 0
    out = capsys.readouterr().out
    first, second = out.split("## two")
    assert "## one" in first
    assert "to importance's" in first
    assert "to importance's" not in second
    assert max(map(len, out.splitlines())) <= 100
    assert main([str(pool), "--split", "val"]) == 0
    assert "| regular    | 7.000 [7.000, 7.000] |" in capsys.readouterr().out


def test_a_folder_without_a_table_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path} has no results.csv: name folders that scripts.compare has written\n"
    )
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    assert main([str(tmp_path)]) == 2
    assert "is no table of scripts.compare" in capsys.readouterr().err
