"""Benchmarks: what a step costs and how faithful each cheaper way of scoring is, how well scores can be predicted,
what the log costs, and what reading the data costs.

python -m scripts.bench step                              # costs of every mode, side by side
python -m scripts.bench step --run runs/stages            # and their fidelity on that run's checkpoints
python -m scripts.bench step --json > step.json
python -m scripts.bench predictor --run runs/scored       # the predictor, its rivals and their ceiling on that run
python -m scripts.bench log                               # what the selection log costs
python -m scripts.bench loader                            # what reading the data costs, beside other loaders
python -m scripts.bench {step,predictor,log,loader} --help
"""

import sys

import tyro

from scripts.bench import loader as bench_loader
from scripts.bench import log as bench_log
from scripts.bench import predictor as bench_predictor
from scripts.bench import step as bench_step


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark; 2 after a sentence on standard error where the input is at fault."""
    arguments = sys.argv[1:] if arguments is None else arguments
    known = {"step": _step, "predictor": bench_predictor.main, "log": bench_log.main, "loader": bench_loader.main}
    if not arguments or arguments[0] not in known:
        print(f"error: name a benchmark: {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        return known[arguments[0]](arguments[1:]) or 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _step(arguments: list[str]) -> int:
    return bench_step.main(tyro.cli(bench_step.Options, args=arguments, prog="scripts.bench step"))


if __name__ == "__main__":
    sys.exit(main())
