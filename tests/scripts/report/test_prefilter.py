"""What the report says of a run behind a prefilter (`make_cascade_run`)."""

import csv
import io
import json

import numpy as np
import pytest

from scripts.report.format import WIDTH, cell, visible
from scripts.report.ngrams import LEAST_COUNT, by_weight
from scripts.report.prefilter import off_periods, shares, turns
from scripts.report.texts import Texts
from scripts.train.record import RunRecord, read_run
from selection.log.reader import read_log
from selection.prefilters.ngrams import BUCKETS, coarse, ngram_features
from tests.helpers.run_example import (
    DISLIKED,
    DRAWN,
    EVERY,
    LIKED,
    STEPS,
    K,
    N,
    ask,
    ask_json,
    make_cascade_run,
    make_run,
)


@pytest.fixture(scope="module")
def run(odd_dataset, tmp_path_factory):
    return make_cascade_run(tmp_path_factory.mktemp("run") / "cascade", odd_dataset[0])


def test_the_numbers_tell_what_was_dropped(run, capsys):
    (numbers,) = ask_json(capsys, run)["numbers"]
    scored_steps = STEPS // EVERY
    assert numbers["candidates"] == STEPS * DRAWN
    assert (numbers["picks"], numbers["picks_unscored"]) == (STEPS * K, (STEPS - scored_steps) * K)
    assert numbers["scored"] == scored_steps * N
    assert numbers["dropped_unscored"] == scored_steps * (DRAWN - N) + (STEPS - scored_steps) * (DRAWN - K)


def test_how_well_the_prefilter_foresaw_the_scores(run, capsys):
    answers = ask_json(capsys, run, "--ask", "predictor")
    assert list(answers) == ["predictions", "outcomes", "predicted_sources", "ngrams"]
    rows = answers["predictions"]
    assert [row["last_step"] for row in rows] == [1, 3, 5, 7, 9, 11]
    # Scored are steps 0, 3, 6 and, with the predictions turned round, 9.
    assert [row["scored_steps"] for row in rows] == [1, 1, 0, 1, 1, 0]
    assert [row["correlation"] for row in rows] == [pytest.approx(r) if r else None for r in (1, 1, 0, 1, -1, 0)]
    assert [row["off_share"] for row in rows] == [0, 0, 0, 0.5, 1, 0]
    assert [row["separation"] for row in rows] == pytest.approx([0.505, 0.525, 0.545, 0.565, 0.585, 0.605])
    assert [row["unscored_share"] for row in rows] == [0.5, 0.5, 1, 0.5, 0.5, 1]
    picked = {row["steps"]: row["candidates"] for row in answers["outcomes"] if row["outcome"] == "picked"}
    assert picked == {"scored": 6, "between": 12, "scored, prefilter off": 2, "between, prefilter off": 4}


def test_it_is_told_in_the_terminal(run, capsys):
    for question in ([], ["--ask", "predictor"]):
        code, out, err = ask(capsys, run, *question)
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= WIDTH
        flat = " ".join(out.split())
        assert "Mean 0.500 over 4 scored steps (standard error 0.500)." in flat
        assert "The prefilter was switched off from step 7 to 9: in 3 of 12 steps." in flat
        assert "66.7 % of the picks were made without scores." in flat
        assert "dots one scored step, m mean of the last 32" in out
        line = next(line for line in out.splitlines() if "␣says" in line)
        assert line.split()[:2] == ["␣says", "1"]
        assert line.split()[3:5] == ["␣Document", "-2"]
    assert "It is known of the 8 picks of 24 that were scored" in ask(capsys, run, "--ask", "sources")[1]
    step = ask(capsys, run, "--step", "0")[1]
    assert (step.count("rejected"), step.count("dropped")) == (N - K, DRAWN - N)


def test_the_n_grams_it_likes_are_counted_in_the_text(run, odd_dataset, capsys):
    rows = ask_json(capsys, run, "--ask", "predictor")["ngrams"]
    texts = Texts(odd_dataset[0])
    tokens = texts.spread_tokens()[:, 1:]
    for row, (end, text, weight) in zip(rows, [("most", LIKED, 1), ("least", DISLIKED, -2)], strict=True):
        (token,) = (t for t in range(texts.manifest.vocab_size) if texts.decode([t]) == text)
        assert row == {"end": end, "rank": 1, "ngram": text, "weight": weight, "count": int((tokens == token).sum())}
    _, out, _ = ask(capsys, run, "--ask", "predictor", "--csv")
    table = list(csv.DictReader(io.StringIO(out.partition("# ngrams\n")[2])))
    assert [row["ngram"] for row in table] == [LIKED, DISLIKED]


def test_n_grams_are_found_by_their_order_count_and_bucket():
    vocab_size = BUCKETS + 1000
    buckets = coarse(ngram_features(np.stack([np.zeros(vocab_size, int), np.arange(vocab_size)], 1)))[:, 0]
    _, first, own = np.unique(buckets, return_index=True, return_inverse=True)
    minor = next(token for token in range(vocab_size) if first[own[token]] != token)
    major = int(first[own[minor]])  # in the same bucket
    often, seldom = (token for token in range(10, 12))
    rows = [[often] * 3] * LEAST_COUNT + [[7, seldom, 8]] * (LEAST_COUNT - 1)
    rows += [[9, major, 9]] * 2 * LEAST_COUNT + [[9, minor, 9]] * LEAST_COUNT
    tokens = np.array(rows)
    weights = np.zeros(BUCKETS, dtype=np.float32)
    weights[buckets[often]], weights[buckets[seldom]], weights[buckets[major]] = 3, 4, 2
    found = {tuple(ngram): (weight, count) for weight, count, ngram in by_weight(tokens, weights, vocab_size)}
    assert found[(often,)] == (3, 2 * LEAST_COUNT)  # the first token of a sample is not counted
    assert found[(often, often)] == (0, 2 * LEAST_COUNT)
    assert found[(often, often, often)] == (0, LEAST_COUNT)
    assert found[(9, minor, 9)] == (0, LEAST_COUNT)
    assert found[(major,)] == (2, 2 * LEAST_COUNT)
    assert (minor,) not in found  # a third of its bucket
    assert not any(seldom in ngram for ngram in found)


def test_what_cannot_be_seen_is_shown():
    assert visible(" a\n\tb\x1b\u202e") == r"␣a\n\tb\x1b\u202e"
    assert [cell(pick, "pick") for pick in (0, -1, -2)] == ["0", "rejected", "dropped"]


@pytest.mark.parametrize(
    ("off", "periods"), [([], []), ([3], [(3, 3)]), ([0, 1, 5, 6, 7, 9], [(0, 1), (5, 7), (9, 9)])]
)
def test_stretches_without_the_prefilter(off, periods):
    assert off_periods(off) == periods


def rewrite(run, odd_dataset, folder, on):
    """The run with another answer to whether the prefilter was on, by step (None: not said)."""
    make_cascade_run(folder, odd_dataset[0])
    lines = [{"step": step, "train_loss": 1.0, "seconds": 1.0, "prefilter_on": on(step)} for step in range(STEPS)]
    lines = [{key: value for key, value in line.items() if value is not None} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("on", "sentence"),
    [
        (lambda step: True, "The prefilter was on throughout."),
        (lambda step: False, "The prefilter was off throughout."),
        (lambda step: None, "Whether the prefilter was on is not known: metrics.jsonl does not say."),
        (lambda step: step % 2 == 1,
         "The prefilter was switched off from step 0 to 0, from step 2 to 2, from step 4 to 4, from step 6 to 6, "
         "2 more times: in 6 of 12 steps."),
    ],
)  # fmt: skip
def test_when_it_was_switched_off(run, odd_dataset, tmp_path, capsys, on, sentence):
    folder = rewrite(run, odd_dataset, tmp_path / "run", on)
    assert sentence in " ".join(ask(capsys, folder, "--ask", "predictor")[1].split())


def test_shares_of_clusters_are_told_in_parts_of_the_run(tmp_path):
    """Twelve steps in six parts: the mean of two shares, and the loss that was known at the end of them."""
    lines = [
        {"step": step, "share": [step / 20, 1 - step / 20], "cluster_loss": [5 - step / 10, 4.0]}
        | {"picked_before": step if step > 2 else None}
        for step in range(12)
    ]
    (answer,) = shares(RunRecord(tmp_path, {}, training=[{"step": 0, "train_loss": 1.0}, *lines]))
    rows = answer.table.to_pylist()
    assert [(row["first_step"], row["last_step"]) for row in rows] == [(n, n + 1) for n in range(0, 12, 2)]
    assert [row["share_1"] for row in rows] == pytest.approx([(n + 0.5) / 20 for n in range(0, 12, 2)])
    assert [row["loss_1"] for row in rows] == pytest.approx([5 - (n + 1) / 10 for n in range(0, 12, 2)])
    assert {row["loss_2"] for row in rows} == {4.0}
    assert [row["picked_before"] for row in rows] == [None, 3.0, *np.arange(4.5, 12, 2).tolist()]
    assert shares(RunRecord(tmp_path, {}, training=[{"step": 0}])) == []


def test_without_a_checkpoint_or_with_a_broken_one_there_are_no_n_grams(odd_dataset, tmp_path, capsys):
    folder = make_cascade_run(tmp_path / "run", odd_dataset[0])
    checkpoint = folder / "checkpoints" / f"step-{STEPS:08d}"
    (checkpoint / ".metadata").write_bytes(b"not an index")
    code, out, err = ask(capsys, folder, "--ask", "predictor")
    assert code == 0
    assert "N-grams" not in out
    assert err.startswith(f"note: no n-grams: checkpoint {checkpoint} cannot be read")
    (checkpoint / "state.json").unlink()
    code, out, err = ask(capsys, folder, "--ask", "predictor")
    assert (code, err) == (0, "")
    assert "What became of what was drawn" in out


def test_a_run_without_a_prefilter_gets_a_sentence(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "plain", odd_dataset[0])
    assert read_run(folder).settings.selection.prefilter is None
    code, out, err = ask(capsys, folder, "--ask", "predictor")
    assert (code, out, err) == (2, "", "error: plain has no prefilter: nothing was predicted\n")
    assert "prefilter" not in ask(capsys, folder)[1]


def test_the_page_has_it_too(run, capsys):
    assert ask(capsys, run, "--html")[0] == 0
    page = (run / "report.html").read_text()
    for text in (
        "Correlation of predictions and scores", ">prefilter off</text>", "What became of what was drawn", "␣says",
        "The prefilter was switched off from step 7 to 9",
    ):  # fmt: skip
        assert page.count(text) == 1, text


def test_a_filter_that_ranks_by_its_own_predictions_is_compared_with_nothing(odd_dataset, tmp_path, capsys):
    folder = make_run(tmp_path / "importance", odd_dataset[0], method="importance")
    answers = ask_json(capsys, folder, "--ask", "predictor")
    assert all(row["correlation"] is None for row in answers["predictions"])
    assert [(row["outcome"], row["candidates"]) for row in answers["outcomes"]] == [
        ("picked", STEPS * K),
        ("rejected", STEPS * (N - K)),
    ]
    rows = read_log(folder / "selection").to_pylist()
    for row in answers["outcomes"]:
        own = [r["predicted"] for r in rows if (r["pick"] >= 0) == (row["outcome"] == "picked")]
        assert row["mean_score"] == row["mean_predicted"] == pytest.approx(np.mean(own))
    out = " ".join(ask(capsys, folder, "--ask", "predictor")[1].split())
    assert "When the filter chose" in out
    assert "Method importance ranks by the predictions themselves: there are no scores to compare them with." in out
    assert "made without scores" not in out
    assert ask(capsys, folder, "--html")[0] == 0
    assert "Correlation of predictions and scores" not in (folder / "report.html").read_text()


def test_turns_are_told_from_when_to_when_with_the_falls_of_the_trial_before(tmp_path):
    none, found = dict.fromkeys(("regular", "need")), {"regular": 0.01, "need": 0.02}
    arms = [("need", none)] * 2 + [("regular", none)] + [("need", none)] + [("need", found)]
    lines = [
        {"step": step, "train_loss": 1.0, "arm": arm, "falls": falls, "gain_ratio": 2.0, "gain_error": 0.125}
        for step, (arm, falls) in enumerate(arms)
    ]
    (answer,) = turns(RunRecord(tmp_path, {}, training=lines))
    assert answer.table.to_pylist() == [
        {"first_step": 0, "last_step": 1, "chose": "need", "fall_regular": None, "fall_need": None},
        {"first_step": 2, "last_step": 2, "chose": "regular", "fall_regular": None, "fall_need": None},
        {"first_step": 3, "last_step": 4, "chose": "need", "fall_regular": 0.01, "fall_need": 0.02},
    ]
    assert "2.00, standard error 0.12" in answer.note
    assert turns(RunRecord(tmp_path, {}, training=[{"step": 0}])) == []
