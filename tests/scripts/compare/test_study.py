"""What a study file may say: arms over a base, and what is refused before anything runs."""

import pytest

from scripts.compare.study import read_study, scientific
from scripts.train.options import read_config
from selection.settings import AmortiseSettings, DirectionSettings, Selection
from tests.scripts.compare.made_up import BASE, LOSSES, TABLES, Runs


def test_runs_with_other_settings_or_data_are_refused(do, study_file, tmp_path, capsys):
    assert do(Runs(LOSSES)) == 0
    none = Runs(LOSSES)
    for old, new, sentence in [
        ("steps = 4", "steps = 6", "train.steps was 4, is 6"),
        ("eval_samples = 8", "eval_samples = 9", "train.eval_samples was 8, is 9"),
        ("n_embd = 16", "n_embd = 32", "model.n_embd was 16, is 32"),
    ]:
        study_file.write_text((BASE + TABLES).replace(old, new))
        assert do(none) == 2
        told = capsys.readouterr().err
        assert "regular/lr-1e-03-seed-0 is a run with other settings" in told
        assert sentence in told
    study_file.write_text((BASE + TABLES).replace("workers = 0", "workers = 1"))
    assert do(none) == 0
    assert do(none, "--ranks", "2") == 2
    assert "world_size was 1, is 2" in capsys.readouterr().err
    saved = tmp_path / "out" / "top" / "lr-2e-03-seed-1" / "config.toml"
    text = saved.read_text()
    begin = text.index("manifest_sha256") + len('manifest_sha256 = "')
    saved.write_text(text[:begin] + "0" * 64 + text[begin + 64 :])
    assert do(none) == 2
    assert f"manifest_sha256 was {'0' * 64}" in capsys.readouterr().err
    assert none.calls == []


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (TABLES, ["--arms", "best"], "unknown arm best: STUDY has regular, top"),
        (TABLES, ["--arms", "top", "top"], "--arms names one of them twice: top top"),
        (TABLES, ["--ranks", "3"], "regular: train.groups (2) must be a multiple of --ranks 3"),
        (TABLES, ["--ranks", "0"], "--ranks must be at least 1, not 0"),
        (TABLES + "selection.rang = 3", [], "unknown key selection.rang in [arms.top] of STUDY: known are selection.m"),
        (
            TABLES.replace("rank = 2", "rank = '2'"),
            [],
            "selection.direction.rank in [arms.top] of STUDY must be a int, not '2'",
        ),
        (
            TABLES.replace("[arms.top]", "selection.direction.rank = 3\n[arms.top]"),
            [],
            "[arms.regular] of STUDY: selection.direction.rank = 3 of the arm does nothing: method regular does not re",
        ),
        (
            TABLES + "selection.amortise.every = 8",
            [],
            "[arms.top] of STUDY: selection.amortise.every = 8 of the arm does nothing: method topk reads it only with",
        ),
        (
            TABLES + "selection.interaction.curvature = 2.0",
            [],
            "[arms.top] of STUDY: selection.interaction.curvature = 2.0 of the arm does nothing: method topk does not",
        ),
        (TABLES.replace("topk", "best"), [], "selection.method in [arms.top] of STUDY must be one of regular"),
        (TABLES + "train.seed = 3", [], "[arms.top] of STUDY sets train.seed, which the comparison gives to every run"),
        (TABLES + "out = 'here'", [], "[arms.top] of STUDY sets out, which"),
        (TABLES + "selection.picks = 5", [], "selection.picks (5) cannot exceed selection.candidates (4)"),
        (TABLES + "[arms.'a/b']", [], "arms.a/b in STUDY: an arm's name is at most 24 letters"),
        (TABLES + "[unknown]", [], "unknown key unknown in STUDY"),
        ("[arms.regular]", [], "[compare] in STUDY needs learning_rates"),
        ("[compare]\nlearning_rates = [1e-3]", [], "STUDY has no arms"),
        (TABLES.replace("2e-3", "-2e-3"), [], "compare.learning_rates in STUDY must be numbers above 0, not -0.002"),
        (TABLES.replace("2e-3", "1e-3"), [], "compare.learning_rates in STUDY names one of them twice"),
    ],
)
def test_a_wrong_study_gets_one_sentence_before_anything_runs(do, study_file, capsys, text, options, sentence):
    study_file.write_text(BASE + text)
    runs = Runs(LOSSES)
    assert do(runs, *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence.replace("STUDY", str(study_file)) in told
    assert told.count("\n") == 1
    assert runs.calls == []


def test_the_lowest_learning_rate_keeps_its_ratio(study_file, tmp_path):
    study = read_study([study_file], tmp_path)
    train = study.trial("top", 6e-3, 5).config.train
    assert (train.learning_rate, train.min_learning_rate, train.seed) == (6e-3, 6e-4, 5)
    assert study.trial("top", 6e-3, 5).config.selection.direction.rank == 2
    assert [scientific(rate) for rate in (6e-4, 1.5e-3, 1.0)] == ["6e-04", "1.5e-03", "1e+00"]


FULL = (
    BASE.replace("[selection]", '[selection]\nmethod = "topk"')
    + """rank = 8
[selection.amortise]
drawn = 8
every = 4
[compare]
learning_rates = [1e-3]
[arms.regular]
selection.method = "regular"
[arms.plain]
selection.amortise = { drawn = 0, every = 1 }
[arms.importance]
selection = { method = "importance", candidates = 8 }
[arms.loss]
selection = { method = "maxloss", scoring.prefix = 4 }
"""
)


def test_an_arm_leaves_out_what_its_method_does_not_read_of_the_base(study_file, tmp_path):
    study_file.write_text(FULL)
    arms = read_study([study_file], tmp_path).arms
    regular = arms["regular"].selection
    assert regular == Selection("regular", picks=2)
    assert (regular.drawn, regular.prefilter, regular.aims) == (2, None, False)
    assert arms["importance"].selection == Selection("importance", picks=2, candidates=8)
    direction = DirectionSettings(samples=2, rank=8)
    assert arms["plain"].selection == Selection("topk", 2, 4, direction)
    # A prefilter begins with the target text whatever the method; the rest of `direction` is of methods that aim.
    loss = arms["loss"].selection
    assert (loss.direction, loss.scoring.prefix, loss.amortise) == (DirectionSettings(), 4, AmortiseSettings(8, 4))
    for config in arms.values():
        config.selection.check()


def test_what_the_base_says_for_its_own_method_is_not_lost_in_silence(study_file, tmp_path):
    study_file.write_text(FULL.replace("drawn = 0, every = 1", "drawn = 0"))
    with pytest.raises(
        ValueError, match=r"^\[arms.plain\] of .*: selection.amortise.every = 4 of the file does nothing"
    ):
        read_study([study_file], tmp_path)


def test_a_study_file_is_a_run_configuration_too(study_file, tmp_path):
    plain = tmp_path / "plain.toml"
    plain.write_text(BASE)
    assert read_config(study_file) == read_config(plain)
    assert read_config(plain).selection.candidates == 4


def test_arms_of_several_files_count_and_the_last_file_wins(study_file, tmp_path):
    study_file.write_text(BASE + TABLES)
    more = tmp_path / "more.toml"
    more.write_text("""
[compare]
learning_rates = [5e-4]
[arms.top]
selection.method = "topk"
selection.direction.rank = 3
[arms.longer]
selection.method = "regular"
train.steps = 6
""")
    study = read_study([study_file, more], tmp_path)
    assert list(study.arms) == ["regular", "top", "longer"]
    assert study.learning_rates == (5e-4,)
    assert study.arms["top"].selection.direction.rank == 3
    assert [config.train.steps for config in study.arms.values()] == [4, 4, 6]
