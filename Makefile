# The three commands: `make quickstart`, `make test` and `make real`. Each makes its environment first, and reuses it the next time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help audit quickstart test browser vllm openenv verifiers compose-check docs lint types format student larger gauntlet clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/.run-installed: pyproject.toml constraints.txt scripts/install
	scripts/install $(PYTHON) $(VENV) services,trainer
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt scripts/install
	scripts/install $(PYTHON) $(VENV) dev
	@touch $@ $(VENV)/.run-installed

quickstart: $(VENV)/.run-installed ## Watch a small language model learn from execution feedback
	@$(BIN)/preceptor quickstart $(ARGS)

real: $(VENV)/.run-installed ## Watch a pretrained model of 135 M parameters learn to multiply
	@$(BIN)/python examples/smollm2.py models/smollm2
	@$(BIN)/preceptor train examples/multiply/run.toml $(ARGS)

# Compiled modules are kept, also where the environment says not to: hundreds of processes start here.
test: $(VENV)/.dev-installed ## Run the test suite (starts its own broker and databases)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

browser: $(VENV)/.dev-installed ## Corrections and dashboards in a real Chromium (needs chromium, npm and prometheus)
	@$(BIN)/python -m pytest -q tests/browser -m browser $(ARGS)

vllm: $(VENV)/.dev-installed ## vLLM's CPU build as an expert, in an environment of its own
	@scripts/check-vllm $(VENV)

openenv: $(VENV)/.dev-installed ## OpenEnv's own server with an environment of its scaffold, in an environment of its own
	@scripts/check-openenv $(VENV)

verifiers: $(VENV)/.dev-installed ## verifiers' own server with a small taskset, in an environment of its own
	@scripts/check-verifiers $(VENV)

docs: $(VENV)/.dev-installed ## The documentation as a site, strictly, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

lint: $(VENV)/.dev-installed ## Style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev-installed ## Strict type check of the three packages
	$(BIN)/pyright

format: $(VENV)/.dev-installed ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

student: $(VENV)/.run-installed ## Make the shipped student again (an hour and a quarter on 2 cores)
	$(BIN)/python -m preceptor_trainer.student.pretrain --out trainer/preceptor_trainer/student/model
	$(BIN)/python -m preceptor_trainer.student.measure --out trainer/preceptor_trainer/student/measured.json

larger: $(VENV)/.run-installed ## Make the larger model that some compared methods learn from (1 3/4 hours on 2 cores)
	$(BIN)/python -m preceptor_trainer.student.larger --out runs/larger/model
	$(BIN)/python -m preceptor_trainer.student.measure --model runs/larger/model --out runs/larger/measured.json

audit: $(VENV)/.dev-installed ## Known advisories about the pinned packages (asks the Python index)
	@scripts/audit-dependencies $(BIN)/python

compose-check: ## docker-compose.yml on a real Docker: builds, trains, loses a container, ends
	@scripts/check-compose

gauntlet: $(VENV)/.dev-installed ## What takes longer than CI: endurance tests, benchmarks over five seeds
	$(BIN)/python scripts/gauntlet-rows
	$(BIN)/python -m pytest -q -m gauntlet
	$(BIN)/python benchmarks/soak.py
	scripts/check-vllm $(VENV) --every
	scripts/check-openenv $(VENV)
	scripts/check-verifiers $(VENV)
	scripts/check-compose --every
	$(BIN)/python benchmarks/exact_gradient.py
	$(BIN)/python benchmarks/quickstart.py
	$(BIN)/python benchmarks/correction_queue.py
	$(BIN)/python benchmarks/corrections.py
	$(BIN)/python benchmarks/serialisation.py
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/update.py
	$(BIN)/python benchmarks/discovery.py
	$(BIN)/python benchmarks/scoring_engine.py

clean: ## Remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
