"""A recorded pass that is read while it runs: as backward reaches a layer, its scores are added, its factors dropped.

What is asked of the pass is then known before it, and nothing of it is left to assemble a gradient from. What a layer
read is kept as autograd keeps what it needs itself, so that a block which is recomputed in backward makes it again.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .factors import Use
from .inputs import Saved, SavedInputs


class Stream:
    """Of one pass: what it has been asked, and what came of it.

    read: called in backward with the uses of one parameter at a time, once all of them are there. holders: how many
    layers hold each parameter. answer: the sum of what it returned.
    """

    def __init__(self, read: Callable[[str, list[Use]], Any], holders: Counter):
        self._read, self._holders = read, holders
        self._anchor = torch.zeros((), requires_grad=True)
        self._nodes: dict[nn.Module, Any] = {}  # of layers that are called and have not returned
        self._called: set[nn.Module] = set()
        self._calls: Counter = Counter()  # of layers that hold a parameter, by its name
        self._pending: dict[str, list[Use]] = {}
        self._forward_is_done = False
        self._done: set[str] = set()
        self.answer: Any = None

    def hooks(self, model: nn.Module, layers: Iterable[nn.Module]) -> list:
        """What has to be removed after the pass."""
        registered = [layer.register_forward_pre_hook(self.before_layer) for layer in layers]
        return [*registered, model.register_forward_hook(self.after_model)]

    def before_layer(self, module: nn.Module, inputs: tuple) -> None:
        """Forward pre-hook: before the layer itself keeps anything, so that a recomputation need not run the last."""
        if torch.is_grad_enabled():
            kept = Saved.apply(self._anchor, *(x.detach() for x in inputs if isinstance(x, Tensor)))
            self._nodes[module] = None if self.replays(module) else kept.grad_fn

    def after_model(self, model: nn.Module, args: tuple, output: Any) -> None:
        """Forward hook of the whole model: a layer called from now on is called again, to recompute what it gave."""
        self._forward_is_done = True

    def replays(self, module: nn.Module) -> bool:
        return self._forward_is_done and module in self._called

    def inputs_of(self, module: nn.Module, names: Iterable[str]) -> SavedInputs | None:
        """Of the layer that has just returned, which holds these parameters; None where it is to hold them itself."""
        if not self._forward_is_done:  # reentrant recomputation shows a layer for the first time in backward
            self._called.add(module)
        self._calls.update(names)
        node = self._nodes.pop(module, None)
        return None if node is None else SavedInputs(node)

    def take(self, name: str, use: Use) -> None:
        """One use of a parameter; the last has all of them read."""
        if name in self._done:
            raise ValueError(
                f"{name} is used again after what it gave was read, where blocks are recomputed by reentrant "
                "checkpointing: set selection.scoring.memory to kept"
            )
        uses = self._pending.setdefault(name, [])
        uses.append(use)
        if len(uses) >= max(self._calls[name], self._holders[name]):
            self._finish(name)

    def finish(self) -> set[str]:
        """After the pass: reads what had no gradient at one of its uses; the parameters that had one."""
        for name in list(self._pending):
            self._finish(name)
        return self._done

    def _finish(self, name: str) -> None:
        self._done.add(name)
        result = self._read(name, self._pending.pop(name))
        if result is not None:
            self.answer = result if self.answer is None else self.answer + result
