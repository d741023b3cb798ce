"""Writes on from a prompt, by the model of a run's newest checkpoint or of a folder of `transformers`.

    python -m scripts.generate runs/demo --prompt 'the model'
    python -m scripts.generate models/llama --prompt 'Once' --tokens 200 --temperature 0.8 --top-p 0.95 --seed 3

What is written is the continuation alone. The sampling is that of `transformers`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from model.world import choose_device
from scripts.export import Opened, open_model


@dataclass(frozen=True)
class Generate:
    model: tyro.conf.Positional[Path]
    """Run folder, or folder of `transformers` or `peft`."""
    prompt: str
    """The text to go on from."""
    tokens: int = 100
    """Tokens written at most; <|endoftext|> ends it before."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Drawn are the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of what is drawn."""
    stop: tuple[str, ...] = ()
    """Texts that end it; what is written ends before them."""

    def check(self) -> None:
        """ValueError for a value out of its range."""
        if not self.prompt:
            raise ValueError("--prompt is empty: give the text to go on from")
        if self.tokens < 1:
            raise ValueError(f"--tokens must be at least 1, not {self.tokens}")
        if self.temperature < 0:
            raise ValueError(f"--temperature must be at least 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p must be above 0 and at most 1, not {self.top_p}")
        if "" in self.stop:
            raise ValueError("--stop has an empty text: leave it out")


@torch.no_grad()
def generate(opened: Opened, chosen: Generate) -> str:
    """The continuation. ValueError where prompt and tokens are more than the model takes."""
    chosen.check()
    network, tokenizer = opened.network, opened.tokenizer
    prompt_1T = tokenizer(chosen.prompt, return_tensors="pt").input_ids
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    length = prompt_1T.shape[1]
    if length + chosen.tokens > positions:
        raise ValueError(
            f"the prompt has {length} tokens and --tokens asks for {chosen.tokens} more, and the model takes "
            f"{positions} in all: give less of either"
        )
    device = choose_device("auto")[0]
    network.to(device)
    torch.manual_seed(chosen.seed)
    drawn = {"do_sample": True, "temperature": chosen.temperature, "top_p": chosen.top_p, "top_k": 0}
    written_1T = network.generate(
        input_ids=prompt_1T.to(device),
        attention_mask=torch.ones_like(prompt_1T).to(device),
        max_new_tokens=chosen.tokens,
        pad_token_id=tokenizer.eos_token_id,
        **(drawn if chosen.temperature else {"do_sample": False}),
        **({"stop_strings": list(chosen.stop), "tokenizer": tokenizer} if chosen.stop else {}),
    )
    text = tokenizer.decode(written_1T[0, length:], skip_special_tokens=True)
    ends = [at for at in map(text.find, chosen.stop) if at >= 0]
    return text[: min(ends, default=len(text))]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input or a file is at fault."""
    chosen = tyro.cli(Generate, args=arguments, description=__doc__, prog="scripts.generate")
    try:
        chosen.check()
        print(generate(open_model(chosen.model), chosen))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
