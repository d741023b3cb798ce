"""The command line of a comparison over runs that are made up."""

import pytest

from scripts.compare import __main__ as compare
from scripts.compare.plot import draw
from tests.scripts.compare.made_up import BASE, TABLES, Runs


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(BASE + TABLES)
    return path


@pytest.fixture
def do(study_file, dataset, tmp_path, monkeypatch):
    """Runs the command line over runs that are made up; its exit code."""

    def do(runs: Runs, *options: str, pictures: bool = False) -> int:
        monkeypatch.setattr(compare, "launch", runs)
        monkeypatch.setattr(compare, "draw", draw if pictures else lambda *_: None)  # half a second each
        paths = ["--config", str(study_file), "--data.path", str(dataset), "--out", str(tmp_path / "out")]
        return compare.main([*paths, "--seeds", "0", "1", *options])

    return do
