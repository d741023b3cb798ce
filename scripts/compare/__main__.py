"""Compares ways of choosing the training data: every arm tuned alike, then run on several seeds.

    python -m scripts.compare --config scripts/configs/study.toml --data.path data/mix --seeds 0 1 2 --out runs/study
    ... --arms regular greats-every-1     # some of the file's arms; the first is what the others are measured against

The file is a run's configuration with two tables more:

    [compare]
    learning_rates = [3e-4, 6e-4, 1.2e-3, 2.4e-3]
    [arms.regular]
    selection.method = "regular"
    [arms.low-rank]
    selection.direction.rank = 8

Every arm runs at every learning rate on the first seed, and on the other seeds at that of its lowest final val loss.
A run is `python -m scripts.train` in a folder of its own, OUT/ARM/lr-6e-04-seed-0, one at a time so that seconds are
fair. What is found so far is in OUT/README.md, results.csv and curves.png after every run. At the end picked.csv and
picked.png tell which sources the picks came from. The same command goes on where it was stopped, and runs nothing
twice. Several comparisons beside each other: python -m scripts.compare.pools.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.atomic import write_whole
from scripts.compare import picked
from scripts.compare.page import page
from scripts.compare.plot import draw
from scripts.compare.results import Result, Results, read_result
from scripts.compare.study import Study, Trial, read_study
from scripts.compare.tables import as_csv, tables
from scripts.train.options import to_toml


@dataclass(frozen=True)
class Options:
    config: tuple[Path, ...]
    """TOML files, the last of which wins: a run's configuration with tables [compare] and [arms.NAME]."""
    out: Path
    """Folder of the runs and of what is found."""
    arms: tuple[str, ...] = ()
    """Names of arms, the first of which is the reference; default: all, in the file's order."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the runs; learning rates are tuned on the first."""
    data_path: Annotated[str, tyro.conf.arg(name="data.path")] = ""
    """Dataset, where it is not the one in the file."""
    ranks: int = 1
    """Processes of a run; above 1 torchrun starts them."""


class RunFailed(Exception):
    """A run ended before its last step, and not because it diverged."""


def pending(results: Results) -> Iterator[Trial]:
    """The runs that are left, in order; what is next depends on the results there are by then.

    Arms take turns, so that a machine that gets slower does so for all of them.
    """
    study = results.study
    for rate in study.learning_rates:
        for arm in study.arms:
            if not results.of(arm, rate, study.seeds[0]):
                yield study.trial(arm, rate, study.seeds[0])
    for seed in study.seeds[1:]:
        for arm in study.arms:
            rate = results.chosen(arm)
            if rate is not None and not results.of(arm, rate, seed):
                yield study.trial(arm, rate, seed)


def runs_left(results: Results) -> int:
    """How many `pending` will yield; while an arm is not tuned, its other seeds all count."""
    study = results.study
    left = 0
    for arm in study.arms:
        tuning = len(study.learning_rates) - len(results.tuning(arm))
        diverged = not tuning and results.chosen(arm) is None
        seeds = 0 if diverged else len(study.seeds) - 1
        done = 0 if tuning else len([r for r in results.tuned(arm) if r.trial.seed != study.seeds[0]])
        left += tuning + seeds - done
    return left


def execute(trial: Trial, ranks: int) -> Result:
    """Runs the trial, or the rest of it."""
    trial.folder.parent.mkdir(parents=True, exist_ok=True)
    config, log = trial.beside(".toml"), trial.beside(".log")
    write_whole(config, to_toml(trial.config, {}))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "scripts.train", "--config", str(config)]
    code = launch(command + ["--train.resume", "yes"] * trial.folder.exists(), log)
    result = read_result(trial)
    if result is None:
        lines = log.read_text(errors="replace").split("\n")
        told = next((line for line in reversed(lines) if line.startswith("error")), f"exit code {code}")
        raise RunFailed(f"{trial.name} ended before its last step, see {log}: {told}")
    return result


def launch(command: list[str], log: Path) -> int:
    """Runs a command, its output going to the end of `log`; interrupted, it is told once and waited for.

    It has a session of its own, since torchrun that gets a terminal's signal and ours does not wait for its ranks.
    """
    with open(log, "a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # SIGINT would be ignored where it was when the comparison was started
            process.wait()
            raise
        finally:
            if process.poll() is None:  # interrupted again while it was waited for
                process.kill()


def write(results: Results, command: list[str]) -> None:
    """OUT/results.csv, curves.png and README.md, of the runs that are over."""
    out = results.study.out
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "results.csv", as_csv(results))
    draw(results, out / "curves.png")
    write_whole(out / "README.md", page(results, command))


def run(study: Study, command: list[str], console: Console) -> Results:
    """All runs that are left."""
    found = [result for trial in study.trials() if (result := read_result(trial))]
    results = Results(study, found)
    left = runs_left(results)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=left)
        for done, trial in enumerate(pending(results), 1):
            progress.update(task, description=f"{trial.name}, {left} left")
            result = execute(trial, study.ranks)
            results.add(result)
            write(results, command)
            left = runs_left(results)
            progress.update(task, completed=done, total=done + left)
            ended = "diverged" if result.diverged else f"val {result.final('val'):.4f}  test {result.final('test'):.4f}"
            console.print(f"{trial.name}  {ended}  {result.seconds:.1f} s, {left} left", highlight=False)
    write(results, command)
    if rows := picked.picked(results):
        write_whole(study.out / "picked.csv", picked.as_csv(rows))
        picked.draw(rows, study.out / "picked.png")
    return results


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input is at fault, 1 where a run failed,
    130 where it was interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = tyro.cli(Options, args=arguments, prog="scripts.compare", description=__doc__)
    console = Console()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # not where nohup has them ignored
            signal.signal(number, signal.default_int_handler)
    try:
        study = read_study(options.config, options.out, options.arms, options.seeds, options.data_path, options.ranks)
        study.check()
        results = run(study, ["python", "-m", "scripts.compare", *arguments], console)
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError, RunFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
