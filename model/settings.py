"""The settings of a model: [model] of a configuration, and its table [model.lora]."""

from dataclasses import dataclass, field
from typing import Any, Literal

SHAPE = ("n_layer", "n_head", "n_embd")  # of our GPT-2; a model of another kind brings its own


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights (Hu et al. 2021), for kind `hf`."""

    rank: int = 0
    """Rank of the adapters, which then are all that is trained; 0 trains the model's own weights."""
    alpha: float = 16.0
    """An adapter's output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is set to zero at random while it is trained."""
    targets: str = "all-linear"
    """Layers that get adapters: `all-linear` (all but the output head), or names, as in `q_proj,v_proj`."""


@dataclass(frozen=True)
class Model:
    kind: Literal["gpt2", "hf"] = "gpt2"
    """`gpt2` is our own, from scratch; `hf` a causal language model of `transformers`, from `path`."""
    path: str = ""
    """For kind `hf`: a folder that `transformers` reads, or a name on the hub."""
    revision: str = ""
    """For kind `hf`: the commit, branch or tag of a model on the hub; empty: its newest."""
    n_layer: int = 12
    """Transformer blocks, for kind `gpt2`."""
    n_head: int = 12
    """Attention heads, for kind `gpt2`; must divide n_embd."""
    n_embd: int = 768
    """Width D, for kind `gpt2`."""
    recompute: bool = False
    """Make a block's activations again in the backward pass instead of keeping them."""
    lora: Lora = field(default_factory=Lora)

    def check(self) -> None:
        """ValueError for a value out of its range, or one that does nothing beside the others."""
        lora = self.lora
        if self.kind == "hf" and not self.path:
            raise ValueError("model.path is missing: kind hf needs a folder of `transformers`, or a name on the hub")
        if lora.rank < 0:
            raise ValueError(f"model.lora.rank must be at least 0, not {lora.rank}")
        if lora.alpha <= 0:
            raise ValueError(f"model.lora.alpha must be above 0, not {lora.alpha}")
        if not 0 <= lora.dropout < 1:
            raise ValueError(f"model.lora.dropout must be at least 0 and below 1, not {lora.dropout}")
        if not lora.targets:
            raise ValueError("model.lora.targets is empty: give all-linear, or names of layers, as in q_proj,v_proj")
        if idle := self.idle():
            key, value = next(iter(idle.items()))
            raise ValueError(f"model.{key} = {value} does nothing: {self.why_idle(key)}")

    def idle(self) -> dict[str, Any]:
        """Keys that are not at their defaults, and that nothing reads."""
        keys, read = _keys(self), {"kind", "recompute", *SHAPE}
        if self.kind == "hf":
            read = {"kind", "recompute", "path", "revision", "lora.rank"}
            read |= {key for key in keys if key.startswith("lora.")} if self.lora.rank else set()
        defaults = _keys(Model())
        return {k: value for k, value in keys.items() if k not in read and value != defaults[k]}

    def why_idle(self, key: str) -> str:
        """A sentence's second half: why `key` does nothing, and what to do."""
        if key in SHAPE:
            return "the shape of a model of kind hf is that of its folder; leave it out"
        if self.kind == "hf":
            return "without model.lora.rank there are no adapters; give it, or leave this out"
        return f"model.kind {self.kind} does not read it (read by hf): leave it out"


def _keys(model: Model) -> dict[str, Any]:
    own = {key: value for key, value in vars(model).items() if key != "lora"}
    return own | {f"lora.{key}": value for key, value in vars(model.lora).items()}
