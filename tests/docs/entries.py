"""Which commands of the README and of docs/ are run by tests/docs/test_commands.py, and why the others are not.

An entry stands for the one command line of its page that it is part of. In RUN what is appended to make it small, in
NOT_RUN why it does not run.
"""

NET = "--model.n-layer 1 --model.n-head 1 --model.n-embd 8 --train.groups 1"
TINY = f"{NET} --train.steps 2 --train.warmup-steps 1 --train.eval-samples 2 --train.eval-every 2"
HF = "--train.groups 1 --train.steps 2 --train.warmup-steps 1 --train.eval-samples 2 --train.eval-every 2"
SMALL = "--vocab-size 300 --seq-len 32"
REPORT = ""

# What is appended to a command line that runs. Options given twice take the later value.
RUN = {
    "README.md": {"--out data/news": SMALL, "--out runs/news": TINY, "report runs/news": REPORT},
    "docs/data.md": {
        "json --data-files": SMALL,
        "inspect data/news --html": "",
        "verify data/news": "",
        "verify data/news --drop": "",
        "--dataset ./web": SMALL,
        "'shards-{000..001}.tar'": SMALL,
        "--out data/talks": SMALL,
        "--out data/task": SMALL,
        "--out data/chat": "--seq-len 64",
        "--out data/mmlu": SMALL.replace("32", "200"),
        "--out data/tydiqa": SMALL.replace("32", "200"),
        "--out data/samsum": SMALL.replace("32", "200"),
        "--target-files 'news/news.jsonl.gz'": SMALL,
        "--recipe mix.toml": SMALL,
        "--duplicates drop --near-duplicates 0.8": SMALL,
    },
    "docs/running.md": {
        "verify data/demo": "",
        "--data.path data/demo --out runs/demo": TINY,
        "--out runs/one-process": TINY,
        "--out runs/exact": TINY,
        "--out runs/regular": TINY,
        "scripts.compare.pools": "",
        "scripts.taylor": "--pool 64 --targets 2 --batches 3 --walks 3 --steps 1 --checkpoints 2",
        "--data.path data/demo --out runs/demo --train.resume auto": TINY.replace("steps 2", "steps 3", 1),
    },
    "docs/models.md": {
        "--out runs/llama": HF,
        "--out runs/lora": HF,
        "export runs/llama": "",
        "export runs/lora models/adapters": "",
        "export runs/lora models/merged": "",
        "--out runs/first": TINY,
        "export runs/first": "",
        "--out runs/second": TINY,
        "evaluate runs/llama": "",
        "evaluate models/merged --data": "",
        "generate runs/llama": "",
        "generate models/merged": "",
        "--task mmlu": "",
        "--task tydiqa": "",
        "--task samsum": "",
    },
    "docs/results.md": {
        "--pool homogeneous": "",
        "--out data/plays": SMALL,
        "--out runs/plays-3": TINY,
        "--out runs/scored": f"{TINY} --train.steps 24 --train.eval-every 24 --train.checkpoint-every 8",
        "scripts.bench predictor": "--draws 1",
        "--out runs/stages": TINY,
        "scripts.taylor": "--pool 64 --targets 2 --batches 3 --walks 3 --steps 1",
    },
    "docs/pools.md": {
        "--pool known --out": "",
        "--out runs/stages-need": f"{TINY} --train.init-from= --selection.candidates 10",
        "--out runs/need-48": f"{TINY} --selection.candidates 10",
    },
    "docs/costs.md": {"--out runs/stages": f"{TINY} --train.steps 3 --train.checkpoint-every 1"},
    "docs/log.md": {
        f"report runs/{rest}": REPORT
        for rest in (
            "demo",
            "demo --html",
            "demo --sample",
            "demo --document",
            "demo --source",
            "demo --step",
            "demo --ask bias",
            "mine --ask predictor",
            "demo --against runs/other",
            "demo --ask samples",
            "demo --export-picks picks.jsonl",
            "demo --export-picks best.jsonl",
        )
    },
}

FRESH = "makes an environment and takes minutes; continuous integration runs it"
MINUTES = "takes minutes; the tests of its folder run it small"
GPUS = "needs GPUs, or takes weeks"
HUB = "needs the hub; tests/pipeline/corpora/test_hub.py streams from a stand-in"
AFAR = "needs a place elsewhere; tests/pipeline/dataset/test_remote.py has one on loopback"
SHARDS_AFAR = (
    "needs a place elsewhere; tests/pipeline/corpora/test_webdataset.py has one on loopback, and runs commands"
)
INSTALLED = "reads all that is installed here; tests/pipeline/corpora and tests/scripts/test_mix.py do it small"
KNOWN = "tests/scripts/prepare/test_known.py does it, and trains by what it made"
NOT_RUN = {
    "docs/method.md": {
        "--out data/wanted": KNOWN,
        "--out runs/reference": KNOWN,
        "scripts.prepare losses": KNOWN,
        "scripts.prepare likeness": KNOWN,
        "--out runs/rho-loss": KNOWN,
    },
    "README.md": {
        "make demo": FRESH,
        "make test": FRESH,
        "make test-gpu": GPUS,
        "pip install .": "makes an installation",
    },
    "docs/data.md": {
        "installed-docs": INSTALLED,
        "--dataset owner/name": HUB,
        "openwebtext": HUB,
        "https://host/shards": SHARDS_AFAR,
        "pipe:aws s3 cp s3://bucket/shards": SHARDS_AFAR,
    },
    "docs/running.md": {
        "make test-gpu": "needs a GPU",
        "installed-docs": INSTALLED,
        "openwebtext": HUB,
        "--standalone --nproc-per-node 8": GPUS,
        "--max-restarts 3 --rdzv-backend": GPUS,
        "--train.replicas 4": "needs 32 ranks; tests/scripts/train/test_modes.py has four as two replicas",
        "--data.path https": AFAR,
        "--data.path s3": AFAR,
        "--data.path 'pipe": AFAR,
        "scripts.mix": INSTALLED,
        "scripts.compare": MINUTES,
        "tests.soak": MINUTES,
        "make demo": FRESH,
    },
    "docs/results.md": {
        "--out data/mix.jsonl.gz": INSTALLED,
        "--data-files data/mix.jsonl.gz": INSTALLED,
        "--out runs/study": MINUTES,
        "--out runs/homogeneous": MINUTES,
        "--out runs/talks-lora": MINUTES,
        "--out runs/talks-whole": MINUTES,
        "--out runs/stages-regular": MINUTES,
        "bench criterion": MINUTES,
        "--out runs/demo-regular": "docs/running.md has it too, and there it runs",
        "make demo": FRESH,
    },
    "docs/pools.md": {
        "--pool two-wanted --out": INSTALLED,
        "--out data/two-wanted": INSTALLED,
        "--out runs/two-wanted": MINUTES,
        "--out data/known": MINUTES,
        "--out runs/known": MINUTES,
        "--out runs/continued": MINUTES,
        "--out runs/fixed-mix": MINUTES,
        "scripts.evaluate runs/fixed-mix": MINUTES,
        "--out runs/mixed": MINUTES,
        "--out runs/repeated": MINUTES,
        "--out runs/groups": MINUTES,
        "bench criterion": MINUTES,
    },
    "docs/costs.md": {
        "bench step --rounds": MINUTES,
        "bench step --n-layer": MINUTES,
        "--length 128 --rounds 3 --json": MINUTES,
        "bench step --run": MINUTES,
        "bench log": MINUTES,
        "bench log --amortised": MINUTES,
        "bench loader --rounds": MINUTES,
        "bench loader --run": MINUTES,
        "bench prepare": MINUTES,
    },
    "docs/scale.md": {
        "bench checkpoint": MINUTES,
        "bench memory": MINUTES,
        "bench kernels": MINUTES,
        "bench scale --ranks 8 1024": MINUTES,
        "--groups 4": MINUTES,
        "--groups 1": MINUTES,
        "--here 1 2 --project": MINUTES,
        "--sizes 350M 1.5B": MINUTES,
        "--arms regular --picks 16": MINUTES,
        "--arms amortised --picks 8": MINUTES,
    },
    "docs/models.md": {"bench step --lora": MINUTES},
    "docs/guarantees.md": {"make test": FRESH, "tests.soak": MINUTES, "verify data/owt --drop": HUB},
}
