# `make demo` and `make test` are all a newcomer needs; both set up .venv on the way.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Hundreds of processes of a test run would compile the same modules each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo cluster-demo train test test-beside test-ray lint jobs gpu bench scale soak clean help

help:
	@echo "make demo    encode about 200 sample photos and show the result"
	@echo "make cluster-demo  a cluster of several nodes on this machine: it grows, loses one, ends well"
	@echo "make train   train a small GPT on the codes of the demo's photos, a minute or two"
	@echo "make test    lint, types, import contracts and tests, some twenty minutes"
	@echo "make gpu     what wants a GPU: tests and figures, half an hour, with PYTHON=$(PYTHON) as it is"
	@echo "make bench   throughput against other means, and of the parts; an hour and a half"
	@echo "make scale   what a driver takes at a hundred thousand and a million shards, nothing of it stored"
	@echo "make soak    faults at random and all at once, fuzzing, the demo; two hours"
	@echo "make jobs    write the job definitions in jobs/ anew, after a change of options"
	@echo "make clean   remove .venv and the demo's output"

# Two libraries want torchvision, and one numpy below 2.2; what tests use of them needs neither.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[pipeline,test]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps litdata mosaicml-streaming
	@touch $(STAMP)

# The emulator of Azure's Blob Storage that tests run; without npm, they are skipped and say so.
AZURITE := $(VENV)/azurite/node_modules/.bin/azurite-blob
$(AZURITE): $(STAMP)
	npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@3.37.0 \
		|| echo "no Azurite: npm could not install it"

demo: $(STAMP)
	$(BIN)/python -m infra.demo.run

cluster-demo: $(STAMP)
	$(BIN)/python -m infra.demo.cluster

train: $(STAMP)
	test -d demo/codes/tars || $(BIN)/python -m infra.demo.run
	$(BIN)/vqpipe encode --source demo/sources/tars --sink demo/codes/small --model infra/demo/checkpoint \
		--resolution 64 --views ten-crop --keep txt
	VQPIPE_CACHE=demo/cache $(BIN)/python -m infra.demo.gpt demo/codes/small demo/gpt

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

jobs: $(STAMP)
	for stage in encode decode evaluate compact; do $(BIN)/vqpipe $$stage --print-job > jobs/$$stage.yaml || exit 1; done

# Runs on Ray wait for nearly half of their time; what only computes or writes files has that half.
BESIDE := tests/codec tests/quality tests/sink tests/tokenizers tests/vqgan
PYTEST := $(BIN)/python -m pytest --timeout 300
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs 2 lint $(AZURITE)
	OMP_NUM_THREADS=1 $(PYTEST) -m "not soak and not ray" --numprocesses 3 --dist worksteal $(BESIDE:%=--ignore=%)
	$(MAKE) --no-print-directory --jobs 2 --output-sync test-beside test-ray

test-beside: $(STAMP)
	OMP_NUM_THREADS=1 nice -n 19 $(PYTEST) -m "not soak and not ray" --numprocesses 2 --dist worksteal $(BESIDE)

# Ray's workers are nice themselves, by 15, unless it is told otherwise.
test-ray: $(STAMP)
	RAY_worker_niceness=0 $(PYTEST) -m "not soak and ray" $$(grep -rl --include='test_*.py' 'mark\.ray' tests)

# With PYTHON as it is: a GPU machine may lack all but torch. What else it is to have, `carry` fetches.
gpu:
	for call in 1 2 3; do $(PYTHON) -m tests.benchmarks.gpu --call $$call || failed=1; done; exit $${failed:-0}

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt daft==0.7.26 || echo "no Daft: not measured"
	$(BIN)/python -m tests.benchmarks.pipeline --picture tests/benchmarks/throughput.png
	$(BIN)/python -m tests.benchmarks.startup
	$(BIN)/python -m tests.benchmarks.growth
	$(BIN)/python -m tests.benchmarks.codec
	$(BIN)/python -m tests.benchmarks.nearest
	$(BIN)/python -m tests.benchmarks.audit
	$(BIN)/python -m tests.benchmarks.compacting
	$(BIN)/python -m tests.benchmarks.inspect
	$(BIN)/python -m tests.benchmarks.scale --shards 100000
	$(BIN)/python -m tests.benchmarks.shards
	$(BIN)/python -m tests.benchmarks.reading
	$(BIN)/python -m tests.benchmarks.dataset
	$(BIN)/python -m tests.benchmarks.opening
	$(BIN)/python -m tests.benchmarks.opening --codes

# At a million shards too, which `make bench` has no time for.
scale: $(STAMP)
	$(BIN)/python -m tests.benchmarks.scale
	$(BIN)/python -m tests.benchmarks.resume
	$(BIN)/python -m tests.benchmarks.shards

# SOAK=--seed 7 has the same faults again.
soak: $(STAMP) $(AZURITE)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt transformers==5.24.0 || echo "no transformers: not compared"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt megatron-core==0.16.1 || echo "no Megatron: not compared"
	$(BIN)/python -m pytest -m soak --timeout 1800
	$(BIN)/python -m tests.faults.soak $(SOAK)

clean:
	rm -rf $(VENV) demo
