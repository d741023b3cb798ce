"""Which layers a model's trainable parameters are in, by what rule each is read, and what cannot be."""

from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from .layers import Rule, rule_for

Rules = dict[nn.Module, tuple[str, Rule]]  # module -> (its path in the model, the rule of its parameters)
Names = dict[tuple[str, str], str]  # (path, attribute) -> the parameter's one name, in the model's order


def find_rules(model: nn.Module) -> tuple[Rules, Names]:
    """The rules of all layers that hold trainable parameters, and what these are called.

    A parameter that several layers share has the name it is met by first. ValueError names every trainable parameter
    that no rule of selection.ghost.layers covers.
    """
    rules: Rules = {}
    names: Names = {}
    first_name: dict[nn.Parameter, str] = {}
    uncovered = []
    for path, module in model.named_modules(remove_duplicate=True):
        held = [(key, p) for key, p in module.named_parameters(recurse=False) if p.requires_grad]
        rule = rule_for(module)
        for key, parameter in held:
            name = first_name.setdefault(parameter, f"{path}.{key}".lstrip("."))
            names[path, key] = name
            if rule is None:
                uncovered.append(name)
        if held and rule is not None:
            rules[module] = (path, rule)
    if uncovered:
        raise ValueError(
            f"no ghost rule covers {', '.join(uncovered)}: freeze it, or add a rule to selection/ghost/layers.py"
        )
    return rules, names


def refuse_compiled(model: nn.Module) -> None:
    """ValueError for a model under torch.compile, which leaves hooks out."""
    if any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in model.modules()):
        raise ValueError(
            "the model is compiled: torch.compile leaves the recorder's hooks out, so give GhostRecorder the "
            "model as it was before torch.compile"
        )


def refuse_other_shapes(path: str, inputs: tuple, result: Tensor, samples: int) -> None:
    """ValueError for a layer's call that the recorder cannot read."""
    if not any(isinstance(x, Tensor) for x in inputs):
        raise ValueError(f"layer {path} was called without a positional input: the recorder needs to see it")
    if len(result) != samples:
        raise ValueError(
            f"layer {path} has {len(result)} rows in its first dimension for a batch of {samples} samples: the "
            "recorder needs the samples there"
        )
