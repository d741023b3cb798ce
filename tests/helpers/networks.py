"""Tiny models of `transformers`, randomly initialised, as modules and as folders."""

import shutil
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the peers extra is not installed")
pytest.importorskip("peft", reason="the peers extra is not installed")

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 12, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

# What every kind is made of: its name in `transformers` and its shape.
NETWORKS = {
    "GPT-2": ("gpt2", GPT2 | NO_DROPOUT),
    "GPT-2, untied": ("gpt2", GPT2 | NO_DROPOUT | {"tie_word_embeddings": False}),
    "GPT-NeoX": ("gpt_neox", SHAPE),
    "Llama": ("llama", GROUPED),
    "Llama, tied": ("llama", GROUPED | {"tie_word_embeddings": True}),
    "Mistral": ("mistral", GROUPED | {"sliding_window": 4}),
    "Qwen2": ("qwen2", GROUPED),
    "Qwen3": ("qwen3", GROUPED | {"head_dim": 4}),
    "Gemma": ("gemma", GROUPED | {"head_dim": 4}),
    "Gemma 2": ("gemma2", GROUPED | {"head_dim": 4}),
    "Gemma 3": ("gemma3_text", GROUPED | {"head_dim": 4}),
}


def network(name: str, vocabulary: int = 23, positions: int = 9, **changes) -> torch.nn.Module:
    """A model of NETWORKS, away from the initialisation's zeros and ones; a function of its arguments."""
    kind, shape = NETWORKS[name]
    shape = shape | {"vocab_size": vocabulary, "max_position_embeddings": positions} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **shape))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def write_network(folder: Path, name: str, dataset: Path, dtype: torch.dtype = torch.float32, **changes) -> Path:
    """A folder with such a model and the tokenizer of a dataset, to be trained on it."""
    network(name, **{"vocabulary": 280, "positions": 16} | changes).to(dtype).save_pretrained(folder)
    shutil.copy(dataset / "tokenizer.json", folder)
    return folder
