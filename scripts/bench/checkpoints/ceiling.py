"""How well anything could predict scores: the noise of the target samples' gradients, on the checkpoints of a run.

A score <g_i, v> with v the mean gradient of m target samples is, for a predictor, a true score (m without end) and the
noise of which samples these were. Scores along two directions of m other samples each have independent noise, so
their correlation r is the share of variance that is true, and no predictor correlates with either of them by more than
sqrt(r): Spearman's attenuation (1904).

Shapes: N candidates of a group, P target samples, V token types, D width.
"""

import math
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from model.gpt2 import GPT2
from pipeline.stream import CandidateStream
from scripts.bench.checkpoints.stage import Stage
from selection.direction.exact import whole
from selection.prefilters.ngrams import ngram_features
from selection.selector import joined

STEPS, SPLITS, MOST_TARGETS = 16, 50, 128


class Look(NamedTuple):
    """What a checkpoint and the STEPS steps after it show: the groups of candidates of these steps, and <g_i, g_p> of
    each with every one of P target samples, by the weights of its step; |g_i|; the checkpoint's token embeddings."""

    step: int
    features_gNF: np.ndarray
    products_gNP: np.ndarray
    norms_gN: np.ndarray
    embedding_VD: np.ndarray


def look(stage: Stage) -> Look:
    """Trains on from a checkpoint, on the candidates of the highest scores. ValueError where the dataset has fewer than
    2m target samples.

    A single step would not do: scores swing with the weights, and a predictor is right at one step and wrong at the
    next.
    """
    config, m = stage.config, stage.config.selection.direction.samples
    weights_VD = embedding(stage.model)
    lanes = range(config.train.groups)
    stream = CandidateStream(
        stage.manifest,
        groups=len(lanes),
        drawn=config.selection.drawn,
        seed=config.train.seed,
        lanes=lanes,
        step=stage.step,
        features=ngram_features,
    )
    everything = stage.manifest.sample_ids("target", np.arange(stage.manifest.samples("target")))
    samples_P = np.random.default_rng(stage.step).permutation(everything)[:MOST_TARGETS].tolist()
    if len(samples_P) < 2 * m:
        raise ValueError(f"two halves of {m} target samples are compared, and {config.data.path} has {len(samples_P)}")
    features, products, norms = [], [], []
    for candidates in islice(stream, STEPS):
        best, fresh_m = [], np.random.default_rng(candidates.step).permutation(len(samples_P))[:m]
        for tokens_NT1 in candidates.tokens_GnT1:
            gram, N = gram_with_targets(stage, tokens_NT1, samples_P), len(tokens_NT1)
            products.append(gram[:N, N:])
            norms.append(np.sqrt(np.diag(gram)[:N]))
            best.append(tokens_NT1[np.argsort(-products[-1][:, fresh_m].mean(1))])
        features.extend(candidates.features_GnF)
        stage.advance(candidates._replace(tokens_GnT1=torch.stack(best)))
    return Look(stage.step, np.stack(features), np.stack(products), np.stack(norms), weights_VD)


def gram_with_targets(stage: Stage, tokens_NT1: torch.Tensor, samples_P: list[int]) -> np.ndarray:
    """Inner products of all gradients, [N + P, N + P]: candidates and target samples in one pass."""
    batch = joined(stage.batch(tokens_NT1), stage.target.share(samples_P))
    with stage.recorder:
        stage.model(*batch).sum().backward()
    gram = stage.recorder.gram().double().numpy()
    stage.recorder.release()
    return gram


def embedding(model: GPT2) -> np.ndarray:
    return whole(model.wte.weight.detach()).float().numpy().copy()


def halves(products_NP: np.ndarray, m: int, random: np.random.Generator) -> np.ndarray:
    """Scores [2, N] along the mean gradients of two disjoint choices of m target samples."""
    chosen = random.permutation(products_NP.shape[1])[: 2 * m].reshape(2, m)
    return np.stack([products_NP[:, half].mean(1) for half in chosen])


def ceiling(products_gNP: np.ndarray, predicted_dgN: np.ndarray, m: int) -> dict[str, float | None]:
    """r, sqrt(r) (None where r is not positive), and the correlation of d predictors with scores along m samples; means
    over groups and SPLITS pairs of halves, with standard errors over groups."""
    random, found_g = np.random.default_rng(m), []
    for group, products_NP in enumerate(products_gNP):
        splits = (halves(products_NP, m, random) for _ in range(SPLITS))
        found = [np.corrcoef(np.concatenate([split, predicted_dgN[:, group]])) for split in splits]
        mean = np.mean(found, axis=0)
        found_g.append((mean[0, 1], mean[:2, 2:].mean()))
    (r, predictor), errors = np.mean(found_g, axis=0), np.std(found_g, axis=0) / math.sqrt(max(1, len(found_g) - 1))
    return {
        "r": float(r),
        "r_error": float(errors[0]),
        "ceiling": math.sqrt(r) if r > 0 else None,
        "predictor": float(predictor),
        "predictor_error": float(errors[1]),
    }


def ceilings(seen: Look, predicted_dgN: np.ndarray, m: int) -> list[dict]:
    """One row for scores and for cosines, along m and along 32 samples (or half of what there are)."""
    most = seen.products_gNP.shape[2] // 2
    kinds = {"score": seen.products_gNP, "cosine": seen.products_gNP / seen.norms_gN[..., None]}
    return [
        {"step": seen.step, "of": name, "samples": size, **ceiling(products_gNP, predicted_dgN, size)}
        for name, products_gNP in kinds.items()
        for size in dict.fromkeys((m, min(32, most)))
    ]


def table(found: list[dict]) -> Group:
    note = (
        f"Over the {STEPS} steps after each checkpoint, ±: standard errors over their groups. r: correlation of a "
        "group's scores along two disjoint halves of 2m target samples; no prediction of scores along m samples "
        "correlates with them by more than sqrt(r). shipped: what the shipped predictor (all target samples), trained "
        "until the checkpoint, does; share: of the ceiling. Cosine: score / |g_i|."
    )
    shown = Table(title="The ceiling", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("step", "of", "m", "r", "±", "sqrt(r)", "shipped", "±", "share"):
        shown.add_column(name, justify="left" if name == "of" else "right", no_wrap=True)
    for row in found:
        top = row["ceiling"]
        shown.add_row(
            str(row["step"]),
            row["of"],
            str(row["samples"]),
            f"{row['r']:.3f}",
            f"{row['r_error']:.3f}",
            f"{top:.3f}" if top else "-",
            f"{row['predictor']:.3f}",
            f"{row['predictor_error']:.3f}",
            f"{100 * row['predictor'] / top:.0f} %" if top else "-",
        )
    return Group(shown, Text(note))
