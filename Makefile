# A fresh machine needs Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3.11
BIN    := .venv/bin
# One thread a rank; and glibc keeps what a step frees, since fresh pages cost a CPU more than the sums they hold.
RUN    := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2000000000 \
          $(BIN)/torchrun --standalone --nproc-per-node 2

.PHONY: env demo test lint clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers]'
	touch $@

# Real text that is on the machine already, a small GPT-2 on two ranks under FSDP2, GREATS choosing the batch.
demo: env
	test -f data/demo/manifest.json || $(BIN)/python -m scripts.prepare --corpus installed-docs --out data/demo
	rm -rf runs/demo
	$(RUN) -m scripts.train --config scripts/configs/demo.toml --data.path data/demo --out runs/demo
	$(BIN)/python -m scripts.report runs/demo

test: env
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv data/demo runs/demo
