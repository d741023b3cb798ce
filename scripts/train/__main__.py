"""Trains a GPT-2 from scratch and chooses, at every step, what it trains on.

    torchrun --standalone --nproc-per-node 2 -m scripts.train --config scripts/configs/demo.toml \
        --data.path data/demo --out runs/demo
    python -m scripts.train --config scripts/configs/demo.toml --data.path data/demo --out runs/one-process
    ... --selection.method regular            # the same run without selection
    ... --config scripts/configs/demo.toml scripts/configs/selection/exact.toml    # the last file wins
    ... --train.resume yes                    # goes on from the newest checkpoint of --out, with the same settings
                                              # (scripts/train/config.py lists under MAY_CHANGE those that may differ);
                                              # `auto` begins where there is no run yet
    python -m scripts.train --help            # every option

A step is G groups, dealt to the ranks. Of a group's N candidates the k picks are those whose gradients lower the
loss on the step's fresh target samples most; all G k picks make one AdamW update. With
`selection.amortise.every` above 1 the steps between are not scored: a prefilter that learns from the scores picks
from all that are drawn.
"""

from contextlib import suppress
from datetime import timedelta

from rich.console import Console

from model.world import World
from scripts.train.ending import StopSignal, leave_process, say_what_ended
from scripts.train.loop import train
from scripts.train.options import parse
from scripts.train.run import Run
from scripts.train.run_folder import RunFolder
from selection.log.reader import first_line


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 2 after a sentence on standard error where the input or a file is at fault.

    SIGTERM and SIGINT end it after the step at hand, with a checkpoint and exit code 0.
    """
    console = Console()
    world, run, stop = None, None, StopSignal()
    try:
        config = parse(arguments)
        config.check()
        RunFolder(config.out).check(config.train.resume)
        options, timeout = config.train, timedelta(minutes=config.train.timeout)
        world = World.join(options.device, timeout, options.replicas, options.deterministic)
        run = Run(config, world)
        if world.leads:
            parameters = sum(p.numel() for p in run.model.parameters())
            console.print(
                f"{parameters / 1e6:.1f} M parameters on {world.size} x {world.device.type}, method "
                f"{config.selection.method}, steps {run.step} to {config.train.steps}, run folder {config.out}",
                highlight=False,
            )
        with run.stop as stop:
            train(run, console)
        if world.leads and run.step >= config.train.steps:
            run.folder.end("finished", run.step)
        elif world.leads:
            name = stop.name or "a signal to another rank"
            run.folder.end("stopped", run.step, name)
            print(f"stopped by {name} after {run.step} of {config.train.steps} steps, with a checkpoint: go on with")
            print("the same command" + " and --train.resume yes" * (config.train.resume == "no"))
    except Exception as error:
        if run and world.leads:
            with suppress(OSError):  # the disk may be what failed
                run.folder.end("failed", run.step, first_line(error))
        code = say_what_ended(error, world.rank if world else 0, world.size if world else 1, stop)
        if world and world.size == 1:
            world.leave()
        return code  # with other ranks, leaving would wait for them
    world.leave()
    return 0


if __name__ == "__main__":
    leave_process(main())
