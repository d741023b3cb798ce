"""GhostRecorder: per-sample gradient quantities from one backward pass, no per-sample gradient ever stored.

    recorder = GhostRecorder(model)
    with recorder:
        model(tokens, targets).sum().backward()
    scores_N, gram_NN = recorder.first_order_and_gram(direction)
    recorder.add_gradient(picks, scale)
    recorder.release()

While it records, parameters are frozen: autograd passes gradients through every layer but multiplies no weight
gradient out, and the recorder keeps the two factors of each instead (Wang et al., "GREATS", NeurIPS 2024,
section 4.2; the inner products go back to Goodfellow 2015). Under FSDP2 all ranks make the same calls in the same
order, since gradients and directions travel between them, in buckets of many parameters.

N samples of the recorded pass.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..direction.buckets import sum_over_ranks
from ..direction.exact import Direction
from ..direction.low_rank import LowRank
from .coverage import find_rules, refuse_compiled, refuse_other_shapes
from .factors import Use
from .inputs import HeldInputs, StartOfGraph
from .layers import is_fused_head
from .parameters import gradient_of, gram_has_short_cut, gram_of, precision_of, rows_of_samples, sketched_gram
from .probe import Probe
from .sharded import Parameters
from .streaming import Stream

Read = Callable[["GhostRecorder"], Any]  # what a pass is asked: from the recorder with what it recorded


class GhostRecorder:
    """Records (input, output gradient) of every layer that holds trainable parameters, in one pass.

    model: any module whose forward takes the batch first, before or after fully_shard; its first call's first
        tensor has N samples in its first dimension, and the loss is a sum over samples of what each sample gives.
    scored: which parameter names count in scores and gram (all by default); gradients always have all.

    ValueError names every trainable parameter that no rule of selection.ghost.layers covers.
    """

    def __init__(self, model: nn.Module, scored: Callable[[str], bool] = lambda name: True):
        self._model = model
        self._scored = scored
        refuse_compiled(model)
        self._rules, self._names = find_rules(model)
        self._parameter_names = list(dict.fromkeys(self._names.values()))
        self._uses: dict[str, list[Use]] = {}
        self._samples = 0
        self._hooks: list = []
        self._frozen: dict[str, nn.Parameter] = {}
        self._parameters = Parameters(model)
        self._expected: Direction | None = None
        self._probes: dict[nn.Module, Probe] = {}
        self._read: Read | None = None
        self._streams = False
        self._stream: Stream | None = None  # of the pass at hand, where it is read while it runs
        self.answer: Any = None

    def scored_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that count in scores and gram, by name, as the optimizer has them."""
        return {name: self._parameters.by_name[name] for name in self._parameter_names if self._scored(name)}

    # Recording

    def along(self, direction: Direction | None) -> "GhostRecorder":
        """For `with recorder.along(direction):`, where the next pass will be scored along a low-rank direction.

        A fused head then measures its share of those scores on the way and need not make its logits again.
        """
        self._expected = direction
        return self

    def asked(self, read: Read, streamed: bool) -> "GhostRecorder":
        """For `with recorder.asked(read, streamed):`, where `answer` is what read(recorder) gives of the next pass.

        streamed: read is called as backward reaches a layer, once for every scored parameter, while nothing else is
        recorded, and what it gives is added up. Nothing is recorded after the pass then.
        """
        self._read, self._streams = read, streamed
        return self

    def __enter__(self) -> "GhostRecorder":
        refuse_compiled(self._model)
        self.release()
        self._parameters.look()
        self._frozen = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        for parameter in self._frozen.values():
            parameter.requires_grad_(False)
        self._anchor = torch.zeros((), requires_grad=True)
        self._hooks = [self._model.register_forward_pre_hook(self._before_model, with_kwargs=True)]
        self._hooks += [module.register_forward_hook(self._after_layer) for module in self._rules]
        if self._expected is not None:
            self._hooks += [m.register_forward_pre_hook(self._before_head) for m in self._rules if is_fused_head(m)]
        if self._streams:
            self._stream = Stream(functools.partial(self._read_one, self._read), Counter(self._names.values()))
            self._hooks += self._stream.hooks(self._model, [m for m in self._rules if not is_fused_head(m)])
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for hook in self._hooks:
            hook.remove()
        for probe in self._probes.values():  # of a forward that raised half-way
            probe.restore_weight()
        shown = dict(self._model.named_parameters())  # others, where FSDP2 gathered in the pass and has not resharded
        for name, parameter in self._frozen.items():
            parameter.requires_grad_(True)
            shown[name].requires_grad_(True)
        self._probes.clear()
        stream, self._stream, self._expected = self._stream, None, None
        read, self._read, self._streams = self._read, None, False
        if error is not None:
            self.release()
            return
        self._parameters.tell()
        seen = self._uses if stream is None else stream.finish()
        missing = [name for name in self._parameter_names if name not in seen]
        if missing:
            self._parameters.untell()
            self.release()
            raise ValueError(
                f"no gradient was recorded for {', '.join(missing)}: either the pass had no backward inside the "
                "recorder, or these parameters are not used through their module's own forward"
            )
        if read is not None:
            self.answer = read(self) if stream is None else stream.answer

    def _before_model(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._samples:
            raise ValueError("the recorder takes one forward pass at a time: leave the `with` block in between")
        self._samples = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

    def _before_head(self, module: nn.Module, inputs: tuple) -> tuple | None:
        name = self._names.get((self._rules[module][0], "weight"))
        block = self._expected.blocks.get(name)
        if not isinstance(block, LowRank) or len(inputs) == 1 or not torch.is_grad_enabled():
            return None
        self._probes[module] = Probe(block, module)
        return self._probes[module].widen(*inputs)

    def _after_layer(self, module: nn.Module, inputs: tuple, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        probe = self._probes.pop(module, None)
        if probe is not None:
            inputs = probe.restore(*inputs)
        result = output[0] if isinstance(output, tuple) else output
        spread = len(result) == 1 != self._samples  # one row for all samples, as GPT-2's positions: give each its own
        if spread:
            result = result.expand(self._samples, *result.shape[1:])
        path, rule = self._rules[module]
        refuse_other_shapes(path, inputs, result, self._samples)
        self._device = result.device
        if not result.requires_grad:
            result = StartOfGraph.apply(result, self._anchor)
        given, stream = (result, *output[1:]) if isinstance(output, tuple) else result, self._stream
        if stream is not None and stream.replays(module):
            return given
        names = {key: self._names[path, key] for key in module._parameters if (path, key) in self._names}
        take = self._keep if stream is None else stream.take
        held = (stream and stream.inputs_of(module, names.values())) or HeldInputs(path, inputs)
        # Nothing of the graph: a hook that held its own tensor would be a cycle, and keep the whole pass alive.
        further = [x.detach() for x in output[1:]] if isinstance(output, tuple) else []

        def receive(gradient: Tensor) -> None:
            read = held.take()
            if spread:
                read = [x.expand(len(gradient), *x.shape[1:]) for x in read]
            uses = rule(module, read, further, gradient)
            if probe is not None:
                uses["weight"].probe = probe
            for key, use in uses.items():
                if key in names:  # a frozen parameter has no gradient
                    take(names[key], use)

        result.register_hook(receive)
        return given

    def _keep(self, name: str, use: Use) -> None:
        self._uses.setdefault(name, []).append(use)

    def _read_one(self, read: Read, name: str, uses: list[Use]) -> Any:
        """What a streamed pass is asked, of one parameter."""
        if not self._scored(name):
            return None
        self._uses = {name: uses}
        answer, self._uses = read(self), {}
        return answer

    def release(self) -> None:
        """Forgets the recorded pass and frees its memory."""
        self._uses.clear()
        self._samples, self.answer = 0, None

    def set_aside(self) -> tuple[dict[str, list[Use]], int]:
        """Gives the recorded pass out of hand, to be taken up again after others."""
        aside = self._uses, self._samples
        self._uses, self._samples = {}, 0
        return aside

    def take_up(self, aside: tuple[dict[str, list[Use]], int]) -> None:
        """Has the pass again that `set_aside` gave."""
        self._uses, self._samples = aside

    # Reading

    def _recorded(self) -> Iterator[tuple[str, list[Use]]]:
        """(parameter name, its uses) in the model's order, which is the same on every rank."""
        if not self._uses:
            raise ValueError("nothing is recorded: run forward and backward inside `with recorder:` first")
        return ((name, self._uses[name]) for name in self._parameter_names if name in self._uses)

    @torch.no_grad()
    def direction(self, samples: int | None = None, rank: int = 0) -> Direction:
        """The mean gradient over the recorded samples of all ranks, for the scored parameters.

        samples: what the sum is divided by; by default the recorded samples of all ranks. Give it where some of
            them are masked padding. rank: above 0, the low-rank form (see Direction.low_rank). Of passes in half
            precision, what a rank adds to the sum travels in that too, rounded once.
        """
        uses = dict(self._recorded())
        samples = self._parameters.samples(self._samples, self._device) if samples is None else samples
        scored = {name: p for name, p in self.scored_parameters().items() if name in uses}
        means = sum_over_ranks(scored, lambda name: gradient_of(uses[name], None).div_(samples), precision_of(uses))
        direction = Direction(dict(means))
        return direction.low_rank(rank) if rank else direction

    @torch.no_grad()
    def first_order(self, direction: Direction) -> Tensor:
        """<g_i, v> over the scored parameters, [N], in the loss's own units per unit of learning rate."""
        scores_N = 0.0
        for name, uses in self._recorded():
            if self._scored(name):
                block = direction.block(name)
                scores_N = scores_N + sum(use.first_order(block) for use in uses)
        return scores_N

    @torch.no_grad()
    def gram(self, sketch: int = 0) -> Tensor:
        """<g_i, g_j> over the scored parameters, [N, N].

        sketch: above 0, each weight's gradient is first projected to sketch x sketch numbers, at random but the same
        for all samples, which keeps inner products in expectation (Johnson & Lindenstrauss).
        """
        scored = ((name, uses) for name, uses in self._recorded() if self._scored(name))
        return sum(sketched_gram(name, uses, sketch) if sketch else gram_of(uses) for name, uses in scored)

    @torch.no_grad()
    def squared_norms(self) -> Tensor:
        """|g_i|^2 over the scored parameters, [N]: the gram's diagonal for a fraction of its cost."""
        norms_N = 0.0
        for name, uses in self._recorded():
            if self._scored(name):
                norms_N = norms_N + sum(rows_Nr.square().sum(dim=1) for _, _, rows_Nr in rows_of_samples(uses))
        return norms_N

    @torch.no_grad()
    def first_order_and_gram(self, direction: Direction, divisors: Direction | None = None) -> tuple[Tensor, Tensor]:
        """Both, for less than the two alone: a block of rows made for the gram serves the scores as well.

        divisors: the gram is then that of g_i / divisors, entry by entry; the scores stay those of g_i.
        """
        scores_N, gram_NN = 0.0, 0.0
        for name, uses in self._recorded():
            if not self._scored(name):
                continue
            block = direction.block(name)
            divisor = None if divisors is None else divisors.block(name)
            if divisor is None and gram_has_short_cut(uses):
                scores_N, gram_NN = scores_N + uses[0].first_order(block), gram_NN + gram_of(uses)
                continue
            block = block.whole() if isinstance(block, LowRank) else block
            for start, stop, rows_Nr in rows_of_samples(uses):
                scores_N = scores_N + rows_Nr @ block[start:stop].flatten().to(rows_Nr.dtype)
                if divisor is not None:
                    rows_Nr = rows_Nr / divisor[start:stop].flatten().to(rows_Nr.dtype)
                gram_NN = gram_NN + rows_Nr @ rows_Nr.T
        return scores_N, gram_NN

    @torch.no_grad()
    def add_gradient(self, picks: Sequence[int] | Tensor, scale: float, more: bool = False) -> None:
        """Adds scale * sum over picks of g_i, summed over ranks, to `.grad` of every parameter.

        picks: positions in the recorded batch. more: whether picks of another pass follow. Under FSDP2 the gradient of
        these then stays on this rank, whole, and is sent with theirs: ranks are to follow up equally often.
        """
        uses = dict(self._recorded())
        picks = torch.as_tensor(picks, dtype=torch.long, device=self._device)
        self._parameters.add(uses, lambda name: gradient_of(uses[name], picks).mul_(scale), more)
