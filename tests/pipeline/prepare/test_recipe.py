"""Defaults of a recipe."""

import pytest

from pipeline.prepare.recipe import Recipe


def test_default_fractions_shrink_as_the_corpus_grows(tmp_path):
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("x" * 1000)
    with open(large, "wb") as file:
        file.truncate(800_000_000)
    rules = [Recipe("text", tmp_path / "out", (str(path),)).split_rule() for path in (small, large)]
    assert [(rule.target, rule.val, rule.test) for rule in rules] == [(0.06,) * 3, (0.01,) * 3]


def test_defaults_of_the_corpora(tmp_path):
    demo, web = Recipe("installed-docs", tmp_path), Recipe("openwebtext", tmp_path)
    assert (demo.sequence_length, demo.trained_vocab_size) == (128, 4096)
    assert demo.split_rule(1e6).target_sources == ("docstrings", "topics")
    assert (web.sequence_length, web.trained_vocab_size, web.split_rule().target_sources) == (1024, 32768, ())
    assert web.split_rule().val == pytest.approx(8e6 / 39.769e9)
