"""A dataset of text that would act on what shows it, and a run over it."""

import pytest

from tests.helpers.run_example import STEPS, make_dataset, make_run


@pytest.fixture(scope="session")
def odd_dataset(tmp_path_factory):
    """Its folder, and its documents by their ids."""
    return make_dataset(tmp_path_factory.mktemp("odd") / "dataset")


@pytest.fixture(scope="session")
def run(odd_dataset, tmp_path_factory):
    finished = {"how": "finished", "step": STEPS, "why": None}
    return make_run(tmp_path_factory.mktemp("run") / "topk", odd_dataset[0], ended=finished)
