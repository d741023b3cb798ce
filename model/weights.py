"""Our GPT-2's weights to and from GPT2LMHeadModel of `transformers`, whose linear layers hold [in, out]."""

from torch import Tensor, nn

from .gpt2 import GPT2, fill, with_rows

_RENAMED = (("blocks.", "h."), ("attn.qkv.", "attn.c_attn."), ("proj.", "c_proj."), ("mlp.fc.", "mlp.c_fc."))

# What our network computes; a config.json that says otherwise is of another network.
_FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}


def to_transformers(model: GPT2, end_of_text: int) -> nn.Module:
    """A GPT2LMHeadModel in float32 with the weights of an unsharded model of ours, and so with its logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = model.config
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.sequence_length,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    )
    network = GPT2LMHeadModel(config).eval()
    weights = {_their_name(name): _turned(name, value.detach().float()) for name, value in model.named_parameters()}
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][: shape.vocab_size].clone()
    network.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]})
    return network


def from_transformers(network: nn.Module, model: GPT2, where: str) -> None:
    """Fills our model, sharded or not, with the weights of a GPT2LMHeadModel that every rank holds whole.

    Of its positions the first are taken, as many as our model has. ValueError, beginning with `where`, for a network
    that is not of our model's shape or computes something else.
    """
    config, shape = network.config, model.config
    if config.model_type != "gpt2":
        raise ValueError(f"{where} is a {config.model_type}, which our GPT-2 cannot begin from: choose model.kind hf")
    sizes = ((key, getattr(shape, key), getattr(config, key)) for key in ("vocab_size", "n_layer", "n_head", "n_embd"))
    differing = [f"{key} is {ours}, its is {theirs}" for key, ours, theirs in sizes if ours != theirs]
    if config.n_inner not in (None, 4 * config.n_embd):
        differing.append(f"n_inner is {4 * config.n_embd}, its is {config.n_inner}")
    differing += [
        f"{key} is {ours}, its is {getattr(config, key)}"
        for key, ours in _FIXED.items()
        if getattr(config, key) != ours
    ]
    if differing:
        raise ValueError(f"{where} has another shape of model: {'; '.join(differing)}")
    weights = network.state_dict()
    for name, parameter in model.named_parameters():
        value = _turned(name, weights[_their_name(name)])
        fill(parameter, with_rows(value, len(parameter)).to(parameter.dtype))


def _their_name(name: str) -> str:
    """transformer.h.0.attn.c_attn.weight for blocks.0.attn.qkv.weight."""
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return f"transformer.{name}"


def _turned(name: str, value: Tensor) -> Tensor:
    return value.T.contiguous() if name.startswith("blocks.") and value.dim() == 2 else value
