"""The README's example of the engine runs as it is written, and does what its comments say."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[2] / "README.md"


def test_the_engine_example_runs():
    section = README.read_text().partition("## What a step does")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    torch.manual_seed(0)
    names = {}
    for name, samples in (("target_tokens", 4), ("target_targets", 4), ("tokens", 16), ("targets", 16)):
        names[name] = torch.randint(0, 4096, (samples, 128))
    exec(compile(code, "README", "exec"), names)
    model, picks = names["model"], names["picks"]
    assembled = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(names["tokens"][picks], names["targets"][picks]).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(assembled[name], parameter.grad, rtol=1e-3, atol=1e-6)
