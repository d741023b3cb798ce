"""One small log, opened, and its rows as plain values."""

import pytest

from selection.attribution.open_log import OpenLog
from tests.helpers.log_example import CURVATURE, write_log, write_spans


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    rows = write_log(folder)
    with OpenLog(folder, write_spans(), curvature=CURVATURE) as log:
        yield log, rows
