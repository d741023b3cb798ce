"""Our ways beside torch's own compute the same, and each has its line."""

import torch

from scripts.bench.__main__ import main
from scripts.bench.steps import kernels
from scripts.bench.steps.kernels import KernelsOptions, blocks, heads, table

TINY = ["--tokens", "8", "--width", "16", "--vocab-size", "64", "--n-layer", "1", "--n-embd", "64", "--length", "8"]


def test_the_ways_of_a_kind_compute_the_same(monkeypatch):
    monkeypatch.setattr(kernels, "compile_blocks", lambda model: None)  # tests/model/test_compiled.py compiles
    options = KernelsOptions(tokens=8, width=16, vocab_size=64, n_layer=1, n_embd=64, length=8)
    first = {}
    for name, way in (heads(options) | blocks(options)).items():
        kind, found = name.partition(":")[0], way()
        torch.testing.assert_close(found, first.setdefault(kind, found), rtol=1e-4, atol=1e-7)
    assert list(first) == ["head", "step", "evaluation"]


def test_ratios_are_to_the_first_of_a_kind():
    seconds = {"head: a": [2.0, 3.0], "head: b": [5.0, 4.0], "step: a": [1.0, 1.0]}
    rows = table(KernelsOptions(), seconds)
    assert [list(column.cells) for column in rows.columns][1:] == [
        ["2.000", "4.000", "1.000"],
        ["3.000", "5.000", "1.000"],
        ["1.00", "2.00", "1.00"],
    ]


def test_every_way_has_its_line(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "compile_blocks", lambda model: None)  # what a compiler takes, others test
    assert main(["kernels", *TINY, "--rounds", "1"]) == 0
    told = capsys.readouterr().out
    names = ("head: ours", "head: linear_cross_entropy, in chunks", "step: eager", "evaluation: compiled")
    assert all(name in told for name in names)
