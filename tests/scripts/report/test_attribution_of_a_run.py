"""The attributions of a whole run against brute force: every step, every sample, one backward pass each."""

from collections import defaultdict

import pytest
import torch

from model.gpt2 import GPT2, GPT2Config
from model.optimizer import build_adamw, clip_gradient, learning_rate_at, set_learning_rate
from pipeline.dataset.reader import SplitReader, inputs_and_targets
from pipeline.dataset.sampling import target_samples
from scripts.report.open_run import OpenRun
from scripts.train.__main__ import main as train
from selection.attribution import totals
from selection.log.reader import read_log

STEPS, GROUPS, N, K, M, CURVATURE, SEED = 5, 2, 5, 2, 3, 3.0, 7
RATE, LAST_RATE, WARMUP = 3e-3, 1e-3, 2


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "greats"
    options = f"--model.n-layer 1 --model.n-head 2 --model.n-embd 8 --train.steps {STEPS} --train.groups {GROUPS}"
    options += f" --train.learning-rate {RATE} --train.min-learning-rate {LAST_RATE} --train.warmup-steps {WARMUP}"
    options += f" --train.dtype float64 --train.seed {SEED} --train.eval-samples 4 --train.grad-clip 0.5"
    options += f" --selection.candidates {N} --selection.picks {K} --selection.direction.samples {M}"
    options += f" --selection.interaction.curvature {CURVATURE} --data.workers 0 --data.path {dataset} --out {folder}"
    assert train(options.split()) == 0
    return folder


def gradient(model, reader, sample_id):
    """The gradient of one sample's mean token loss, as one vector."""
    inputs_1T, targets_1T = inputs_and_targets(torch.as_tensor(reader.tokens([sample_id])), reader.manifest)
    loss = torch.nn.functional.cross_entropy(model(inputs_1T)[0], targets_1T[0], ignore_index=-1)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def replay(folder, dataset):
    """Runs the logged picks again with gradients by plain autograd.

    Returns for every candidate (step, group, sample_id): <g_i, v>, and for every pick its (contribution,
    second-order term) by the definitions in selection/attribution/open_log.py.
    """
    reader, target = SplitReader(dataset), SplitReader(dataset, split="target")
    manifest = reader.manifest
    shape = GPT2Config(
        vocab_size=manifest.vocab_size, n_layer=1, n_head=2, n_embd=8, sequence_length=manifest.sequence_length
    )
    model = GPT2(shape).double()
    model.initialise(SEED)
    optimizer = build_adamw(model, RATE, weight_decay=0.1)
    rows = read_log(folder / "selection").to_pylist()
    scores, worth = {}, {}
    for step in range(STEPS):
        rate = learning_rate_at(step, STEPS, WARMUP, RATE, LAST_RATE)
        direction = torch.stack([gradient(model, target, i) for i in target_samples(manifest, SEED, step, M)]).mean(0)
        now = [row for row in rows if row["step"] == step]
        gradients = {row["sample_id"]: gradient(model, reader, row["sample_id"]) for row in now}
        picks = [row for row in now if row["pick"] >= 0]
        a = rate / len(picks)
        for row in now:
            key = (step, row["group"], row["sample_id"])
            g = gradients[row["sample_id"]]
            scores[key] = (g @ direction).item()
            if row in picks:
                together = sum(gradients[other["sample_id"]] for other in picks if other["group"] == row["group"])
                worth[key] = (a * scores[key], -(a**2) * CURVATURE / 2 * (g @ together).item())
        mean = sum(gradients[row["sample_id"]] for row in picks) / len(picks)
        set_learning_rate(optimizer, rate)
        for parameter, part in zip(
            model.parameters(), mean.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.grad = part.view_as(parameter).clone()
        clip_gradient(model, 0.5)
        optimizer.step()
    return rows, scores, worth


def test_attributions_are_those_of_brute_force(run, dataset):
    rows, scores, worth = replay(run, dataset)
    assert len(rows) == len(scores) == STEPS * GROUPS * N
    for row in rows:
        assert row["first_order"] == pytest.approx(scores[row["step"], row["group"], row["sample_id"]], rel=1e-5)

    reader = SplitReader(dataset)
    by_sample, by_document, by_source = (defaultdict(lambda: [0.0, 0.0]) for _ in range(3))
    for (_, _, sample_id), parts in worth.items():
        spans = reader.spans(sample_id)
        characters = sum(span.last - span.first for span in spans)
        for place, part in enumerate(parts):
            by_sample[sample_id][place] += part
            for span in spans:
                share = (span.last - span.first) / characters
                by_document[span.document][place] += share * part
                by_source[span.source][place] += share * part

    with OpenRun.open(run, None) as opened:
        everything = 10_000
        tables = {
            "sample_id": (totals.samples(opened.log, "contribution", top=everything), by_sample),
            "document": (totals.documents(opened.log, "contribution", top=everything), by_document),
            "source": (totals.sources(opened.log), by_source),
        }
    for key, (table, expected) in tables.items():
        assert set(table[key].to_pylist()) >= set(expected)
        for row in table.to_pylist():
            found = (row["contribution"], row["second_order"])
            # The log keeps float32.
            assert found == pytest.approx(tuple(expected[row[key]]), rel=1e-5, abs=1e-12), (key, row)
    assert sum(first for first, _ in by_sample.values()) != pytest.approx(0)
