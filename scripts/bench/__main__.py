"""Benchmarks: what a step costs and how faithful each cheaper way of scoring is, how well scores can be predicted,
what the batches of a criterion do, what a checkpoint and the log cost, what reading and preparing the data cost, and
what it all comes to on many ranks.

python -m scripts.bench step                              # costs of every mode, side by side
python -m scripts.bench step --run runs/stages            # and their fidelity on that run's checkpoints
python -m scripts.bench step --json > step.json
python -m scripts.bench kernels                           # the head and compiled blocks, beside torch's own ways
python -m scripts.bench scale --ranks 8 1024              # what travels and what memory it takes, on ranks not there
python -m scripts.bench memory                            # its estimate beside what a step takes
python -m scripts.bench predictor --run runs/scored       # the predictor, its rivals and their ceiling on that run
python -m scripts.bench criterion --run runs/stages       # what batches do over 1, 8 and 24 steps from its checkpoints
python -m scripts.bench checkpoint                        # how long training stands still for one
python -m scripts.bench log                               # what the selection log costs
python -m scripts.bench loader                            # what reading the data costs, beside other loaders
python -m scripts.bench prepare --text corpus.jsonl.gz    # what preparing it costs, beside others
python -m scripts.bench {step,kernels,scale,memory,predictor,criterion,checkpoint,log,loader,prepare} --help
"""

import sys
from importlib import import_module

BENCHMARKS = {  # and the module of each in scripts.bench
    "step": "steps.step",
    "kernels": "steps.kernels",
    "scale": "scale.scale",
    "memory": "scale.memory",
    "predictor": "checkpoints.predictor",
    "checkpoint": "checkpoints.save",
    "criterion": "checkpoints.criterion",
    "log": "data.log",
    "loader": "data.loader",
    "prepare": "data.prepare",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark; 2 after a sentence on standard error where the input is at fault."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"error: name a benchmark: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    # Imported where it is named: the processes that ask the log, whose memory is told, need no torch.
    benchmark = import_module(f"scripts.bench.{BENCHMARKS[arguments[0]]}")
    try:
        return benchmark.main(arguments[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    from scripts.train.ending import leave_process  # here: it loads torch, which not every benchmark needs

    leave_process(main())
