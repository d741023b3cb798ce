"""A tokenizer's own chat template, and which part of what it writes the assistant says.

Written by `transformers`. A template does not tell where contents go, so a conversation is written twice: as it is, and
with a mark in place of each thing that the assistant says. Loss is on these, and on the special token right after each,
which ends the turn.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SPEAKER = "assistant"  # the role whose turns carry loss
_CONFIG = "tokenizer_config.json"


class ChatTemplate:
    """The chat template of a tokenizer's folder."""

    templated = True

    def __init__(self, folder: str, tokenizer: Any):
        self.folder, self._tokenizer = folder, tokenizer
        added = tokenizer.added_tokens_decoder.values()
        specials = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        self.special_tokens = sorted(specials, key=lambda token: (-len(token), token))  # the longest match first

    @classmethod
    @cache
    def of(cls, folder: str) -> "ChatTemplate":
        """ValueError where the folder, or a name on the hub, has no tokenizer with a chat template."""
        if find_spec("transformers") is None:
            raise ValueError("--chat-template needs transformers: pip install 'greats[peers]'")
        from transformers import PreTrainedTokenizerFast

        what = f"the tokenizer's files ({_CONFIG} or chat_template.jinja, tokenizer.json) are expected there"
        if Path(folder).is_file():
            raise ValueError(f"--chat-template {folder} is a file: give the folder that it is in")
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"--chat-template {folder} cannot be read ({reason}): {what}") from error
        if not isinstance(tokenizer.chat_template, str):
            raise ValueError(f"--chat-template {folder} has no chat template: {what}; without it, LESS's form is used")
        return cls(folder, tokenizer)

    def write(self, turns: list[tuple[str, str]], where: str) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text, and its characters [first, last) that carry loss, one stretch for each of the assistant's turns.

        ValueError, naming the conversation by `where`, where the template refuses it or changes what is said.
        """
        said = [content for role, content in turns if role == SPEAKER]
        marks = [f"\ue000{number}\ue001" for number in range(len(said))]
        left = iter(marks)
        marked = self._written([(role, next(left) if role == SPEAKER else what) for role, what in turns], where)
        between, rest = [], marked
        for mark in marks:
            before, found, rest = rest.partition(mark)
            between.append(before)
            if not found:
                break
        between.append(rest)
        text = self._written(turns, where)
        if len(between) != len(said) + 1 or text != "".join(map("".join, zip(between, [*said, ""], strict=True))):
            raise ValueError(
                f"{where}: the chat template of {self.folder} does not write what the assistant says as it is, so "
                "which text carries loss cannot be told: take it out, or leave --chat-template out"
            )
        loss, at = [], 0
        for before, content, after in zip(between, said, between[1:], strict=False):
            first = at + len(before)
            at = first + len(content)
            loss.append((first, at + self._end(after)))
        return text, tuple(loss)

    def prompt(self, turns: list[tuple[str, str]]) -> str:
        """The text up to where the assistant begins to answer."""
        return self._written(turns, "the prompt", add_generation_prompt=True)

    def _written(self, turns: list[tuple[str, str]], where: str, **how) -> str:
        from jinja2 import TemplateError

        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, **how)
        except TemplateError as error:
            raise ValueError(f"{where}: the chat template of {self.folder} refuses it: {error}") from None

    def _end(self, after: str) -> int:
        """How many characters the special token takes that `after` begins with, white space before it included."""
        begin = after.lstrip()
        for token in self.special_tokens:
            if begin.startswith(token):
                return len(after) - len(begin) + len(token)
        return 0
