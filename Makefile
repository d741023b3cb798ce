# A fresh machine needs Python 3.11 or newer with its venv module, and make; everything else is installed into .venv.
# The first Python that will do; another one: make PYTHON=/opt/python/bin/python3.
WILL_DO := -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON  ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
             $$python $(WILL_DO) && echo $$python && break; done)
BIN    := .venv/bin
# One thread a rank; and glibc keeps what a step frees, since fresh pages cost a CPU more than the sums they hold.
RUN    := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2000000000 \
          $(BIN)/torchrun --standalone --nproc-per-node 2

.PHONY: env demo test test-gpu lint clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) $(WILL_DO) || { echo "error: Python 3.11 or newer with its venv module is needed, which" \
	    "$(or $(PYTHON),no python3 here) is not: install one, or name it by make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers,sbert,near,tasks]'
	touch $@

# Real text that is on the machine already, a small GPT-2 on two ranks under FSDP2, GREATS choosing the batch.
demo: env
	test -f data/demo/manifest.json || $(BIN)/python -m scripts.prepare --corpus installed-docs --out data/demo
	rm -rf runs/demo
	$(RUN) -m scripts.train --config scripts/configs/demo.toml --data.path data/demo --out runs/demo
	$(BIN)/python -m scripts.report runs/demo

test: env
	$(BIN)/python -m pytest

# What only a GPU can show; without one each test is skipped by name.
test-gpu: env
	$(BIN)/python -m pytest -m gpu -vv -rs

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv data/demo runs/demo
