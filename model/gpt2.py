"""GPT-2: pre-norm transformer, learned positions, token embedding tied to the output head.

The network of Radford et al. 2019, in nanoGPT's reading of it, with one loss per sample.
N samples, T tokens a sample, D width, H heads, V vocabulary.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loss import OutputHead

# Of the token table: a multiple, as the kernels of a GPU want it. The rows after the vocabulary's are of no token.
ROWS = 64


@dataclass(frozen=True)
class GPT2Config:
    """Shape of the network; `sequence_length` is T, the longest input."""

    vocab_size: int
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    sequence_length: int = 1024

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"model.{name} must be at least 1, not {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"model.n_embd ({self.n_embd}) must be a multiple of model.n_head ({self.n_head})")


class Attention(nn.Module):
    """Causal self-attention; SDPA picks the flash kernel where there is one."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, hidden_NTD: Tensor) -> Tensor:
        N, T, D = hidden_NTD.shape
        query, key, value = (
            part.view(N, T, self.n_head, D // self.n_head).transpose(1, 2)  # [N, H, T, D/H]
            for part in self.qkv(hidden_NTD).split(D, dim=2)
        )
        mixed_NHTd = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.proj(mixed_NHTd.transpose(1, 2).reshape(N, T, D))


class MLP(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, hidden_NTD: Tensor) -> Tensor:
        return self.proj(F.gelu(self.fc(hidden_NTD), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, hidden_NTD: Tensor) -> Tensor:
        hidden_NTD = hidden_NTD + self.attn(self.ln_1(hidden_NTD))
        return hidden_NTD + self.mlp(self.ln_2(hidden_NTD))


class GPT2(nn.Module):
    """losses_N = model(tokens_NT, targets_NT); logits_NTV = model(tokens_NT)."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        rows = -(-config.vocab_size // ROWS) * ROWS
        self.wte = nn.Embedding(rows, config.n_embd)
        self.wpe = nn.Embedding(config.sequence_length, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = OutputHead(config.n_embd, rows, config.vocab_size)
        self.tie()
        if self.wte.weight.device.type != "meta":
            self.initialise(seed=0)

    def tie(self) -> None:
        """Makes embedding and head one parameter; needed again after a move off the meta device."""
        self.head.weight = self.wte.weight

    def forward(self, tokens_NT: Tensor, targets_NT: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of each sample, [N] (targets of -1 are ignored); logits [N, T, V] without targets."""
        T = tokens_NT.shape[1]
        positions_1T = torch.arange(T, device=tokens_NT.device)[None]
        hidden_NTD = self.wte(tokens_NT) + self.wpe(positions_1T)
        for block in self.blocks:
            hidden_NTD = block(hidden_NTD)
        hidden_NTD = self.ln_f(hidden_NTD)
        if targets_NT is None:
            return self.head(hidden_NTD)
        losses_N, _ = self.head(hidden_NTD, targets_NT)
        return losses_N

    @staticmethod
    def is_block(name: str) -> bool:
        """Whether the parameter of this name belongs to a block, not to the embeddings or what follows the blocks."""
        return name.startswith("blocks.")

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """GPT-2's initialisation: a function of (seed, parameter name), whatever the sharding.

        Normal(0, 0.02) for matrices, the projections into the residual stream scaled by 1/sqrt(2 n_layer);
        ones for LayerNorm weights, zeros for biases.
        """
        for name, parameter in self.named_parameters():
            fill(parameter, with_rows(self._initial_value(name, parameter.shape, seed), len(parameter)))

    def _initial_value(self, name: str, shape: torch.Size, seed: int) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        if name == "wte.weight":
            shape = torch.Size((self.config.vocab_size, shape[1]))
        residual = name.endswith("proj.weight")
        std = 0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(shape, generator=generator) * std

    def flops_per_token(self) -> int:
        """Floating-point operations of forward and backward for one token: 6 a parameter, plus attention.

        Chowdhery et al. 2022 (PaLM), appendix B; the embedding table counts once, as the output head.
        """
        config = self.config
        parameters = sum(p.numel() for p in self.parameters()) - self.wpe.weight.numel()
        return 6 * parameters + 12 * config.n_layer * config.n_embd * config.sequence_length


def with_rows(value: Tensor, rows: int) -> Tensor:
    """A value for a parameter of so many rows: cut, or filled up with zeros, which stay so in training."""
    return torch.cat([value[:rows], value.new_zeros(max(rows - len(value), 0), *value.shape[1:])])


@torch.no_grad()
def fill(parameter: Tensor, value: Tensor) -> None:
    """Copies a full tensor, the same on every rank, into a parameter or its shard; nothing is sent."""
    if hasattr(parameter, "placements"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    parameter.copy_(value)
