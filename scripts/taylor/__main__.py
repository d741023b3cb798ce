"""Predicted against actual change of the target loss, on the checkpoints of a run.

    python -m scripts.train --config scripts/configs/study.toml --selection.method regular --data.path data/mix \
        --train.checkpoint-every 100 --train.keep-checkpoints 9 --out runs/stages
    python -m scripts.taylor --run runs/stages --out taylor/stages

From every checkpoint steps are made on random batches of the pool, by plain gradient descent and by AdamW as it stood,
one step and several. What that does to the loss of a few target samples is compared with what Taylor's formula says:
first order, with interactions (H = I; H = c I with a measured c; exact Hessian-vector products), and the raw and the
preconditioned scores. Over several steps all predictions are made at the checkpoint, from gradients there. Then one
thing at a time is varied: the target samples that make the direction, N / k, the learning rate, the size of a batch.

Writes batches.csv (every batch), correlations.csv, scatter.png and curves.png, whole after each checkpoint.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress

from pipeline.atomic import write_whole
from scripts.taylor.figures import curves, scatter
from scripts.taylor.open_stage import open_stages
from scripts.taylor.stage import BATCHES, POOLS, PREDICTORS, Sizes
from scripts.taylor.tables import COLUMNS, FOUND, VALUES, as_csv, correlations, table
from scripts.train.record import read_run


@dataclass(frozen=True)
class Options:
    """python -m scripts.taylor"""

    run: Path
    """A run folder with checkpoints of a GPT-2 of ours."""
    out: Path
    """The folder to write to."""
    data: str = ""
    """Its dataset, where that is not at the run's data.path."""
    checkpoints: tuple[int, ...] = ()
    """Steps of the checkpoints to take; all by default."""
    targets: int = 32
    """Target samples whose loss is foreseen."""
    pool: int = 256
    """Samples of the pool that batches are drawn from."""
    picks: int = 8
    """k: samples of a batch."""
    steps: tuple[int, ...] = (1, 8, 24)
    """Steps of a walk."""
    batches: int = 48
    """Random batches for one step, in every experiment."""
    walks: int = 16
    """Random walks of several steps, and batches at each learning rate."""
    sgd_rate: float = 0.02
    """Learning rate of plain gradient descent; AdamW has the checkpoint's."""
    seed: int = 0
    """Of the batches."""

    def check(self) -> None:
        """ValueError for a value out of its range."""
        for name, value, least in (
            ("targets", self.targets, 1),
            ("picks", self.picks, 1),
            ("batches", self.batches, 3),
            ("walks", self.walks, 3),
            ("pool", self.pool, max(*BATCHES, POOLS[-1] * self.picks)),
            ("steps", min(self.steps, default=0), 1),
        ):
            if value < least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
        if self.sgd_rate <= 0:
            raise ValueError(f"--sgd-rate is {self.sgd_rate}; it must be above 0")


def run(options: Options, console: Console) -> None:
    """Measures, writes, and prints the table."""
    options.check()
    config = dataclasses.replace(read_run(options.run).settings, out=str(options.run))
    if options.data:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=options.data))
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(options.steps, options.batches, options.walks, options.picks, options.seed)
    samples = options.pool, options.targets, options.sgd_rate
    rows: list[dict] = []
    with Progress(console=console, transient=True) as progress:
        for stage in open_stages(config, options.checkpoints, *samples, sizes):
            task = progress.add_task(f"checkpoint {stage.step}", total=stage.count)
            for row in stage.rows():
                rows.append(row)
                progress.advance(task)
            found = correlations(rows)
            write_whole(options.out / "batches.csv", as_csv(rows, COLUMNS))
            write_whole(options.out / "correlations.csv", as_csv(found, (*FOUND, *VALUES)))
            scatter(rows, options.out / "scatter.png")
            curves(found, options.out / "curves.png")
    console.print(table(found))
    for name, meaning in PREDICTORS.items():
        console.print(f"  {name:14} {meaning}", highlight=False)
    console.print(f"{options.out}: batches.csv, correlations.csv, scatter.png, curves.png", soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=arguments, prog="scripts.taylor", description=__doc__)
    try:
        run(options, Console(width=None if Console().is_terminal else 100))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from scripts.train.ending import leave_process

    leave_process(main())
