"""Rows of the selection log: what is written is what is read."""

import numpy as np
import pytest
import torch

from selection.log.reader import read_log
from selection.log.schema import QUANTITIES, SCHEMA
from selection.log.writer import SelectionLog


def test_a_row_per_candidate_with_the_schema_of_the_design(tmp_path):
    log = SelectionLog(tmp_path / "selection", rank=3)
    log.append(
        7,
        2,
        torch.tensor([11, 12, 13]),
        picks=[2, 0],
        learning_rate=0.5,
        loss=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        first_order=torch.tensor([0.25, -0.5, float("nan")], dtype=torch.bfloat16),
        self_norm=np.array([4.0, 5.0, 6.0]),
    )
    log.close()
    table = read_log(tmp_path / "selection")
    assert table.schema.equals(SCHEMA)
    assert [str(field.type) for field in SCHEMA] == ["int32", "int32", "int16", "int64", "int16"] + ["float"] * 7
    columns = table.to_pydict()
    assert columns["step"] == [7] * 3
    assert columns["group"] == [2] * 3
    assert columns["rank"] == [3] * 3
    assert columns["sample_id"] == [11, 12, 13]
    assert columns["pick"] == [1, -1, 0]
    assert columns["loss"] == [1.0, 2.0, 3.0]
    assert columns["first_order"][:2] == [0.25, -0.5]
    assert np.isnan(columns["first_order"][2])  # measured, and not a number: not null
    assert columns["self_norm"] == [4.0, 5.0, 6.0]
    assert columns["interaction"] == [None] * 3
    assert columns["predicted"] == columns["score"] == [None] * 3
    assert columns["learning_rate"] == [0.5] * 3


def test_a_quantity_measured_in_some_steps_only_is_null_in_the_others(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    log.append(0, 0, [1, 2], [0], learning_rate=1.0, predicted=torch.tensor([0.5, 0.25]))
    log.append(1, 0, [3, 4], [1], learning_rate=1.0, first_order=torch.tensor([3.0, 4.0]))
    log.close()
    assert read_log(tmp_path, ["predicted", "first_order"]).to_pydict() == {
        "predicted": [0.5, 0.25, None, None],
        "first_order": [None, None, 3.0, 4.0],
    }


def test_what_was_not_measured_is_dropped_and_its_quantities_are_null(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    told = {"learning_rate": 1.0, "predicted": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)}
    log.append(0, 0, [5, 6, 7, 8], [3], measured=[3, 1], loss=torch.tensor([2.0, 3.0]), **told)
    log.append(1, 0, [1, 2, 3, 4], [0], loss=torch.tensor([4.0, 5.0, 6.0, 7.0]), **told)
    with pytest.raises(ValueError, match=r"loss of step 1, group 1 .* has 2 candidates that were measured"):
        log.append(1, 1, [5, 6, 7, 8], [3], measured=[3, 1], loss=torch.tensor([2.0, 3.0, 4.0]), **told)
    log.close()
    columns = read_log(tmp_path).to_pydict()
    assert columns["pick"] == [-2, -1, -2, 0, 0, -1, -1, -1]
    assert columns["loss"] == [None, 3.0, None, 2.0, 4.0, 5.0, 6.0, 7.0]
    assert columns["predicted"] == pytest.approx([0.1, 0.2, 0.3, 0.4] * 2)


def test_the_caller_may_reuse_its_buffers(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    scores, ids, picks = torch.tensor([1.0, 2.0]), np.array([5, 6]), [0]
    log.append(0, 0, ids, picks, learning_rate=1.0, first_order=scores)
    scores.zero_()
    ids[:] = 0
    picks[0] = 1
    log.close()
    table = read_log(tmp_path)
    assert table["first_order"].to_pylist() == [1.0, 2.0]
    assert table["sample_id"].to_pylist() == [5, 6]
    assert table["pick"].to_pylist() == [0, -1]


def test_a_score_is_that_of_what_was_measured_and_may_be_no_number(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    scores = torch.tensor([2.0, float("nan"), float("-inf")], dtype=torch.float64)
    log.append(0, 0, [5, 6, 7, 8], [3], learning_rate=1.0, measured=[3, 0, 1], score=scores, loss=-scores)
    log.append(1, 0, [5, 6], [0], learning_rate=1.0, loss=torch.tensor([1.0, 2.0]))  # trained on, not ranked
    log.close()
    scores, losses = (read_log(tmp_path)[name].to_pylist() for name in ("score", "loss"))
    assert np.isnan(scores[0])
    assert scores[1:] == [float("-inf"), None, 2.0, None, None]
    assert losses[1:] == [float("inf"), None, -2.0, 1.0, 2.0]


def test_what_was_ranked_by_its_prediction_has_that_as_its_score_and_is_not_dropped(tmp_path):
    """Of all four drawn, though the model came to see two; on a device as on the host."""
    predicted = np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32)
    log = SelectionLog(tmp_path, rank=0)
    for step, values in enumerate((predicted, torch.from_numpy(predicted))):
        log.append(step, 0, [5, 6, 7, 8], [1, 3], learning_rate=1.0, measured=[1, 3], loss=torch.tensor([2.0, 3.0]),
                   predicted=values, by_prediction=True)  # fmt: skip
    # Not trusted in this step: what was drawn first was taken, and nothing ranked the rest.
    log.append(2, 0, [5, 6, 7, 8], [0, 1], learning_rate=1.0, measured=[0, 1], predicted=predicted)
    log.close()
    columns = read_log(tmp_path).to_pydict()
    assert columns["pick"] == [-1, 0, -1, 1] * 2 + [0, 1, -2, -2]
    assert columns["score"] == [*predicted.tolist() * 2, *[None] * 4]
    assert columns["predicted"] == predicted.tolist() * 3
    assert columns["loss"] == [None, 2.0, None, 3.0] * 2 + [None] * 4
    assert columns["first_order"] == [None] * 12


@pytest.mark.parametrize("on_device", [False, True])
def test_all_may_have_been_measured_in_another_order_than_they_were_drawn(tmp_path, on_device):
    """A shortlist as long as what was drawn: every quantity is found at its own candidate, and none was dropped."""
    rng = np.random.default_rng(0)
    log, expected = SelectionLog(tmp_path, rank=0), []
    for step in range(5):
        measured, values = rng.permutation(6), rng.standard_normal((3, 6)).astype(np.float32)
        loss, first_order, predicted = values
        picks = measured[np.argsort(-first_order[measured])[:2]]
        given = {"loss": loss[measured], "first_order": first_order[measured], "score": first_order[measured]}
        if on_device:
            given = {name: torch.from_numpy(value) for name, value in given.items()}
        log.append(step, 0, np.arange(6), picks, learning_rate=1.0, measured=measured, predicted=predicted, **given)
        for i in range(6):
            pick = picks.tolist().index(i) if i in picks else -1
            expected.append((i, pick, loss[i], first_order[i], predicted[i], first_order[i]))
    log.close()
    names = ("sample_id", "pick", "loss", "first_order", "predicted", "score")
    assert list(zip(*(read_log(tmp_path)[name].to_pylist() for name in names), strict=True)) == expected


def test_bytes_per_candidate_at_full_entropy_with_every_quantity(tmp_path):
    """The bar of 28 bytes a candidate, on random mantissas of all six, over a demo-sized file too."""
    rng = np.random.default_rng(0)
    log = SelectionLog(tmp_path, rank=0)
    steps, n = 200, 32
    ids = rng.permutation(steps * n)
    for step in range(steps):
        quantities = {name: torch.from_numpy(rng.standard_normal(n)) for name in QUANTITIES}
        picks = rng.permutation(n)[: n // 2]
        log.append(step, 0, ids[step * n :][:n], picks, learning_rate=1e-3 * step, **quantities)
    log.close()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size / (steps * n) < 28


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"loss": np.zeros(3)}, r"loss of step 5, group 0 has shape \(3,\), but the group has 2 candidates"),
        ({"step": 4}, "step 4 logged after step 5"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, arguments, sentence):
    log = SelectionLog(tmp_path, rank=0)
    log.append(5, 0, [1, 2], [0], learning_rate=1.0)
    row = {"step": 5, "group": 0, "sample_ids_N": [3, 4], "picks": [0], "learning_rate": 1.0}
    with pytest.raises(ValueError, match=sentence):
        log.append(**{**row, **arguments})


def test_a_pick_that_could_not_be_made_is_no_row(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    log.append(0, 0, [1, 2, 3], [2, -1], learning_rate=1.0)
    log.flush()
    assert read_log(tmp_path, ["pick"])["pick"].to_pylist() == [-1, -1, 0]


@pytest.mark.parametrize("picks", [[2], [-2], [0, 0]])
def test_picks_that_are_no_positions_are_refused(tmp_path, picks):
    log = SelectionLog(tmp_path, rank=0)
    log.append(5, 0, [1, 2], picks, learning_rate=1.0)
    with pytest.raises(ValueError, match="of step 5, group 0 are not distinct positions among its 2"):
        log.flush()
    assert list(tmp_path.iterdir()) == []


def test_wrong_questions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        read_log(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no column value; it has step, group"):
        read_log(tmp_path, ["value"])
    with pytest.raises(ValueError, match="flush_every is 0"):
        SelectionLog(tmp_path, rank=0, flush_every=0)


def test_an_empty_log_reads_as_no_rows(tmp_path):
    assert read_log(tmp_path).num_rows == 0
    assert read_log(tmp_path).schema.equals(SCHEMA)
