"""What starts the ranks of runs, and a run that nothing happened to."""

import pytest

from tests.helpers.nursery import shared_nursery
from tests.helpers.runs import options
from tests.helpers.survival import WHOLE


@pytest.fixture(scope="session")
def nursery():
    return shared_nursery()


@pytest.fixture(scope="session")
def whole(nursery, dataset, tmp_path_factory):
    """A run of two ranks that nothing happened to, with a running direction."""
    folder = tmp_path_factory.mktemp("whole")
    answer = nursery.run(options(dataset, folder / "run", **WHOLE), folder / "log")
    assert answer["codes"] == [0, 0], (folder / "log-0").read_text()
    return folder / "run", answer["changes"]
