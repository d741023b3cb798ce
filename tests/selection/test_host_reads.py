"""A step gives the device its work and waits for none of it: on a device that has no numbers, meta."""

import contextlib
import sys

import numpy as np
import pytest
import torch

from model.gpt2 import GPT2, GPT2Config
from model.optimizer import build_adamw
from pipeline.stream import Candidates
from scripts.train import loop
from scripts.train.config import Config, Train
from scripts.train.ending import StopSignal
from selection.log import SelectionLog
from selection.prefilters.build import build_prefilter
from selection.prefilters.ngrams import ngram_features
from selection.selector import Selector
from selection.settings import (
    AmortiseSettings,
    DirectionSettings,
    InteractionSettings,
    ReferenceSettings,
    ScoringSettings,
    Selection,
)
from tests.helpers.counting import HostReads

SHAPE = GPT2Config(vocab_size=64, n_layer=2, n_head=2, n_embd=16, sequence_length=8)
RUNNING, AMORTISED = DirectionSettings(2, 8, 0.9), AmortiseSettings(drawn=12, every=2)
MODES = {
    "regular": Selection("regular", 2),
    "greats": Selection("greats", 2, 4, DirectionSettings(2)),
    "greats, sketched": Selection("greats", 2, 4, DirectionSettings(2), interaction=InteractionSettings(sketch=3)),
    "topk": Selection("topk", 2, 4, DirectionSettings(2)),
    "topk, rank 8 running": Selection("topk", 2, 4, RUNNING),
    "topk, blocks, prefix": Selection("topk", 2, 4, RUNNING, ScoringSettings("blocks", 4)),
    "topk, preconditioned": Selection("topk", 2, 4, DirectionSettings(2, preconditioner="adam")),
    "topk, contrast": Selection("topk", 2, 4, DirectionSettings(2, contrast=2)),
    "opus": Selection("opus", 2, 4, DirectionSettings(2)),
    "momentum": Selection("momentum", 2, 4),
    "gradnorm": Selection("gradnorm", 2, 4),
    "maxloss": Selection("maxloss", 2, 4),
    "rho_loss": Selection("rho_loss", 2, 4, reference=ReferenceSettings("made up")),
    "importance": Selection("importance", 2, 12),
    "amortised": Selection("topk", 2, 4, RUNNING, amortise=AMORTISED),
}


def batch(tokens_NT1):
    tokens = tokens_NT1.to("meta", non_blocking=True)
    return tokens[:, :-1], tokens[:, 1:]


class Run:
    """What a step is taken with: scripts.train.run without a dataset and a process group."""

    def __init__(self, settings, folder):
        with torch.device("meta"):
            self.model = GPT2(SHAPE)
        self.optimizer = build_adamw(self.model, 1e-3, 0.1)
        draw = np.random.default_rng(0)
        features = [ngram_features(draw.integers(0, 32 * (1 + kind), (20, 9))) for kind in (0, 1, 1)]
        target = torch.from_numpy(draw.integers(0, 64, (2, 9)))
        self.selector = Selector(
            settings,
            self.model,
            self.optimizer,
            groups=2,
            batch=batch,
            target=lambda step: batch(target),
            prefilter=build_prefilter(settings, *features, groups=2),
        )
        self.config = Config(train=Train(groups=2), selection=settings)
        self.log, self.lanes, self.stop = SelectionLog(folder, rank=0), range(2), StopSignal()

    def known_of(self, sample_ids_Gn):
        return np.zeros(sample_ids_Gn.shape, np.float32) if self.selector.method.knows else None


def drawn(settings, step):
    tokens_gnT1 = torch.from_numpy(np.random.default_rng((1, step)).integers(0, 64, (2, settings.drawn, 9)))
    features = np.stack([ngram_features(tokens.numpy()) for tokens in tokens_gnT1]) if settings.prefilter else None
    return Candidates(step, torch.arange(2 * settings.drawn).view(2, -1), tokens_gnT1, features)


@pytest.mark.parametrize("settings", MODES.values(), ids=MODES.keys())
def test_nothing_in_a_step_is_waited_for(settings, monkeypatch, tmp_path):
    """Two steps, of which the first is scored, with their updates, log rows and metrics."""
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda p: None)
    monkeypatch.setattr(loop, "sum_over_ranks", lambda tensor: tensor)
    run = Run(settings, tmp_path)
    for run.step in range(2):
        candidates, upcoming = drawn(settings, run.step), drawn(settings, run.step + 1)
        with HostReads() as reads:
            taken = loop.take_step(run, candidates, upcoming)
        assert reads.waits == []
        assert taken.totals.shape == (8,)
    assert run.optimizer.state[run.model.wte.weight]["exp_avg"].device.type == "meta"


def test_what_is_waited_for_is_seen():
    value = torch.ones(3, device="meta")
    with HostReads() as reads:
        for wait in (lambda: value[0].item(), lambda: value[value > 0], lambda: value.cpu(), lambda: value.unique()):
            with contextlib.suppress(RuntimeError, NotImplementedError):
                wait()
        torch.ones(3).to("meta")
        value.to("cpu", non_blocking=True)
        torch.ones(3).to("meta", non_blocking=True)
    assert reads.waits == ["_local_scalar_dense", "index", "copy to cpu", "_unique2", "copy to meta"]
