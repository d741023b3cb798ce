"""The sanity check of the whole idea: what scores say will help does help, on the very next validation loss."""

import copy
import statistics

import torch

from model.gpt2 import GPT2, GPT2Config
from model.optimizer import build_adamw
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader, inputs_and_targets
from pipeline.dataset.sampling import evaluation_samples, target_samples
from pipeline.stream.candidates import CandidateStream
from selection.ghost.recorder import GhostRecorder

STEPS, CANDIDATES, PICKS, TARGETS = 40, 16, 8, 16


def test_the_best_candidates_lower_the_next_validation_loss_more_than_the_worst(dataset):
    """Two AdamW updates from the same state at every step of a run: the k highest scores, and the k lowest."""
    manifest = Manifest.load(dataset)
    readers = {split: SplitReader(dataset, split) for split in ("target", "val")}

    def read(split, samples):
        return inputs_and_targets(torch.as_tensor(readers[split].tokens(samples)), manifest)

    val_batch = read("val", evaluation_samples(manifest, "val", 64))
    model = GPT2(GPT2Config(manifest.vocab_size, n_layer=2, n_head=2, n_embd=32, sequence_length=16))
    optimizer = build_adamw(model, learning_rate=3e-3, weight_decay=0.1)
    stream = CandidateStream(dataset, groups=1, drawn=CANDIDATES, seed=0, lanes=[0])
    advantages = []
    for candidates, step in zip(stream, range(STEPS), strict=False):
        inputs_NT, targets_NT = inputs_and_targets(candidates.tokens_GnT1[0], manifest)
        recorder = GhostRecorder(model)
        with recorder:
            model(*read("target", target_samples(manifest, 0, step, TARGETS))).sum().backward()
        direction = recorder.direction()
        with recorder:
            model(inputs_NT, targets_NT).sum().backward()
        order = recorder.first_order(direction).argsort(descending=True)

        def loss_after(picks, inputs_NT=inputs_NT, targets_NT=targets_NT):
            twin, twin_optimizer = copy.deepcopy((model, optimizer))
            twin(inputs_NT[picks], targets_NT[picks]).mean().backward()
            twin_optimizer.step()
            with torch.no_grad():
                return twin(*val_batch).mean().item()

        advantages.append(loss_after(order[-PICKS:]) - loss_after(order[:PICKS]))
        model(inputs_NT[:PICKS], targets_NT[:PICKS]).mean().backward()  # the run itself selects nothing
        optimizer.step()
        optimizer.zero_grad()
    error = statistics.stdev(advantages) / STEPS**0.5
    assert statistics.mean(advantages) > 3 * error > 0
