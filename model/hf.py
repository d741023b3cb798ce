"""Any causal language model of `transformers`, with or without LoRA, under the contract of our GPT-2.

    network = network_of(settings, torch.float32, seed=0)     # from a folder or a name on the hub
    model = CausalLM(network)
    losses_N = model(tokens_NT, targets_NT)                   # targets of -1 are ignored
    logits_NTV = model(tokens_NT)

`transformers` and `peft` are imported when a model of this kind is asked for. N samples, T tokens a sample, D width,
V vocabulary.
"""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from .loss import IGNORED, OutputHead, token_scale
from .settings import Lora, Model

END_OF_TEXT = "<|endoftext|>"


class CausalLM(nn.Module):
    """losses_N = model(tokens_NT, targets_NT); logits_NTV = model(tokens_NT).

    Where the logits are a plain linear head of the last hidden states the head is fused with its loss (model/loss.py).
    What a block is the network says itself: `_no_split_modules` names the class.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        if hasattr(network, "get_base_model"):  # a PeftModel: the adapters are inside
            network = network.get_base_model()
        self.network = network
        kinds = set(network._no_split_modules or ())
        lists = [(path, module) for path, module in self.named_modules() if isinstance(module, nn.ModuleList)]
        self._paths = [
            f"{path}.{name}" for path, held in lists for name, m in held.named_children() if type(m).__name__ in kinds
        ]
        if not self._paths:
            raise ValueError(f"{type(network).__name__} names no blocks: it is not known how to shard it")
        self.fused = ends_in_plain_head(network)
        if self.fused:
            network.set_output_embeddings(_fused(network.get_output_embeddings()))

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.get_submodule(path) for path in self._paths]

    def is_block(self, name: str) -> bool:
        """Whether the parameter of this name belongs to a block, not to the embeddings or what follows the blocks."""
        return name.startswith(tuple(f"{path}." for path in self._paths))

    def forward(self, tokens_NT: Tensor, targets_NT: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of each sample, [N] (targets of -1 are ignored); logits [N, T, V] without targets."""
        if targets_NT is None or not self.fused:
            logits_NTV = self.network(input_ids=tokens_NT, use_cache=False).logits
            return logits_NTV if targets_NT is None else _mean_losses(logits_NTV, targets_NT)
        hidden_NTD = self.network.base_model(input_ids=tokens_NT, use_cache=False).last_hidden_state
        losses_N, _ = self.network.get_output_embeddings()(hidden_NTD, targets_NT)
        return losses_N


def _mean_losses(logits_NTV: Tensor, targets_NT: Tensor) -> Tensor:
    wide_NVT = logits_NTV.to(torch.promote_types(logits_NTV.dtype, torch.float32)).transpose(1, 2)
    losses_NT = F.cross_entropy(wide_NVT, targets_NT, ignore_index=IGNORED, reduction="none")
    return (losses_NT * token_scale(targets_NT, losses_NT.dtype)).sum(dim=1)


@torch.no_grad()
def ends_in_plain_head(network: nn.Module) -> bool:
    """Whether the logits are what a linear head without bias gives for the body's last hidden states, and no more.

    The network itself is asked, by a pass of one token: a soft cap or a scale would make other tensors of them.
    """
    head = network.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or network.base_model is network:
        return False
    seen = []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    body = network.base_model.register_forward_hook(lambda _, inputs, output: seen.append(output.last_hidden_state))
    logits = network(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False).logits
    hook.remove()
    body.remove()
    hidden, (head_input, head_output) = seen
    return logits is head_output and head_input.is_set_to(hidden)


def _fused(head: nn.Linear) -> OutputHead:
    with torch.device("meta"):
        fused = OutputHead(head.in_features, head.out_features)
    fused.weight = head.weight  # also an embedding's, where these are tied
    return fused


def network_of(settings: Model, kept: torch.dtype, seed: int) -> nn.Module:
    """The network of [model] on the CPU, what is trained in `kept`; with LoRA a PeftModel, the rest as it is stored.

    seed: of the adapters' first weights. ValueError as of read_network, and for targets that are not there.
    """
    if settings.lora.rank == 0:
        return read_network(settings, kept)
    return adapt(read_network(settings, "auto"), settings.lora, kept, seed)


def read_network(settings: Model, dtype: torch.dtype | Literal["auto"], where: str = "model.path") -> nn.Module:
    """The network of settings.path on the CPU; dtype "auto": as it is stored.

    ValueError, which names the key `where` the path is from, where there is none, or weights of it are missing.
    """
    need("transformers")
    from transformers import AutoModelForCausalLM

    try:
        network, found = AutoModelForCausalLM.from_pretrained(
            settings.path, revision=settings.revision or "main", dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{where} {settings.path} cannot be read as a causal language model of `transformers`: {reason}"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{where} {settings.path} lacks the weights {', '.join(missing[:3])}: give a whole model")
    return network


def adapt(network: nn.Module, lora: Lora, kept: torch.dtype, seed: int) -> nn.Module:
    """Puts adapters into the network: they alone are trainable then, and kept in `kept`. The PeftModel around it."""
    need("peft")
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it sets right by itself
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(network, lora_config(lora))
        except ValueError as error:
            raise ValueError(f"model.lora.targets {lora.targets}: {str(error).splitlines()[0]}") from error
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(kept)
    return adapted


def lora_config(lora: Lora):
    """`peft`'s form of [model.lora]."""
    from peft import LoraConfig

    targets = lora.targets if lora.targets == "all-linear" else [name.strip() for name in lora.targets.split(",")]
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )


def check_fit(
    network: nn.Module,
    settings: Model,
    vocabulary: Mapping[str, int],
    sequence_length: int,
    where: str = "model.path",
) -> None:
    """ValueError where the network was made for other tokens than those of `vocabulary`, or for shorter samples."""
    rows, config = len(network.get_input_embeddings().weight), network.config.get_text_config()
    if max(vocabulary.values()) >= rows:
        raise ValueError(
            f"the dataset's vocabulary has {max(vocabulary.values()) + 1} tokens and {where} {settings.path} knows "
            f"{rows}: prepare the dataset with the model's own tokenizer.json as --tokenizer"
        )
    theirs = _vocabulary_of(settings)
    if theirs is not None and theirs != vocabulary:
        raise ValueError(
            f"the dataset's tokenizer is not that of {where} {settings.path}: prepare the dataset with the model's "
            "own tokenizer.json as --tokenizer"
        )
    positions = getattr(config, "max_position_embeddings", sequence_length)
    if sequence_length > positions:
        raise ValueError(
            f"the dataset's samples have {sequence_length} tokens and {where} {settings.path} takes {positions}: "
            "prepare the dataset with a smaller --seq-len"
        )


def _vocabulary_of(settings: Model) -> dict[str, int] | None:
    """Token -> number, as the tokenizer.json beside the weights has it; None where there is none."""
    path = _file_of(settings, "tokenizer.json")
    return Tokenizer.from_file(path).get_vocab() if path else None


def read_tokenizer(settings: Model) -> Any:
    """The tokenizer beside the weights, as `transformers` has it; None where there is none."""
    from transformers import AutoTokenizer

    if _file_of(settings, "tokenizer_config.json"):
        return AutoTokenizer.from_pretrained(settings.path, revision=settings.revision or "main")
    path = _file_of(settings, "tokenizer.json")
    return as_tokenizer(Path(path)) if path else None


def as_tokenizer(path: Path, end_of_text: int | None = None) -> Any:
    """A tokenizer.json as a tokenizer of `transformers`. It ends a text with this token, or with <|endoftext|> where it
    knows that."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_file(str(path))
    if end_of_text is None:
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    end = None if end_of_text is None else tokenizer.id_to_token(end_of_text)
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=end)


def _file_of(settings: Model, name: str) -> str | None:
    from transformers.utils import cached_file

    revision = settings.revision or "main"
    return cached_file(settings.path, name, revision=revision, _raise_exceptions_for_missing_entries=False)


def need(library: str) -> None:
    if find_spec(library) is None:
        raise ValueError(f"model.kind hf needs {library}: pip install 'greats[peers]'")
