"""Runs tiny trainings again and again, and counts how they end: a finished run ends with 0, every time.

    python -m tests.soak                       # 200 runs of two ranks
    python -m tests.soak --runs 20 --keep out  # the output of those that failed stays in out/

Each is a torchrun of its own, on a dataset that is made first. What it costs is mostly the start of its processes.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.prepare.build import prepare
from pipeline.prepare.recipe import Recipe

# A network of two layers; a scored step among plain ones, a checkpoint, evaluations: all that speaks to other ranks.
TINY = """
[data]
workers = 0
[model]
n_layer = 2
n_head = 2
n_embd = 16
[train]
steps = 6
groups = 2
warmup_steps = 2
eval_every = 3
eval_samples = 8
checkpoint_every = 3
[selection]
method = "topk"
candidates = 4
picks = 2
[selection.direction]
samples = 3
rank = 2
decay = 0.9
[selection.amortise]
every = 4
drawn = 8
"""


@dataclass(frozen=True)
class Options:
    runs: int = 200
    """Runs in a row."""
    ranks: int = 2
    """Processes of a run."""
    keep: Path | None = None
    """Folder for the output of runs that failed."""


def make_dataset(folder: Path) -> Path:
    """Sentences of drawn letters, enough for a few steps."""
    draw = random.Random(0)
    texts = ("".join(draw.choices("abcdefgh ", k=160)) for _ in range(200))
    lines = [json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(lines))
    files = (str(folder / "corpus.jsonl"),)
    prepare(Recipe("json", folder / "data", files, id_field="id", vocab_size=270, seq_len=16))
    return folder / "data"


def run(folder: Path, dataset: Path, number: int, ranks: int) -> tuple[int, str]:
    """(exit code, output) of one run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "scripts.train", "--config", str(folder / "tiny.toml"), "--data.path", str(dataset)]
    command += ["--train.groups", str(ranks), "--out", str(folder / f"run-{number}")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return ended.returncode, ended.stdout


def whole(folder: Path, number: int, output: str) -> bool:
    """Whether all that a finished run says and writes is there."""
    metrics = (folder / f"run-{number}" / "metrics.jsonl").read_text().splitlines()
    ended = json.loads((folder / f"run-{number}" / "ended.json").read_text())
    return ended["how"] == "finished" and json.loads(metrics[-1])["step"] == 6 and "step      6  val" in output


def soak(options: Options, folder: Path) -> Counter:
    """How often which exit code came; -1 stands for 0 with something missing."""
    dataset, codes = make_dataset(folder), Counter()
    (folder / "tiny.toml").write_text(TINY)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("soaking", total=options.runs)
        for number in range(options.runs):
            code, output = run(folder, dataset, number, options.ranks)
            if code == 0 and not whole(folder, number, output):
                code = -1
            codes[code] += 1
            if code and options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"run-{number}.log").write_text(output)
            progress.update(task, advance=1, description=f"soaking, {codes.total() - codes[0]} failed")
    return codes


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 1 where any run did not end with 0, 130 where it was interrupted."""
    options = tyro.cli(Options, args=arguments, prog="tests.soak", description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        try:
            codes = soak(options, Path(folder))
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
    told = ", ".join(f"{count} with {'0 but not all was there' if code < 0 else code}" for code, count in codes.items())
    print(f"{codes[0]} of {codes.total()} runs of {options.ranks} ranks ended with exit code 0 ({told})")
    return int(codes[0] < codes.total())


if __name__ == "__main__":
    sys.exit(main())
