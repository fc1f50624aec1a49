# clew: everything runs inside .venv, which is made on first use and remade when the requirements change.
.POSIX:
.SUFFIXES:

PYTHON = python3
CONSTRAINTS = constraints.txt
LOCK = requirements.lock
# make venv LOCKED=1 installs nothing but the very files whose hashes are in $(LOCK).
LOCKED =
# More options for pip, for example a CPU-only torch on Linux:
#   make train PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PIP_ARGS =
# More options for clew or pytest: make train ARGS='--seed 1', make test ARGS='tests/agent -k returns'
ARGS =

VENV = .venv
BIN = $(VENV)/bin
# Apart from the rest of .venv: mamba-ssm without its CUDA extension is of no use but to the tests of its kernels.
KERNELS = $(VENV)/kernels
# Apart as well: what works on the lock is not part of it.
TOOLS = $(VENV)/tools
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS) $(PIP_ARGS)
PIP_LOCKED = $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps $(PIP_ARGS)

.PHONY: help venv dev train test test-kernels fuzz golden audit lock check format clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

train: $(VENV)/.installed ## train and evaluate an agent that must remember (the T-Maze recipe)
	@$(BIN)/clew train tmaze $(ARGS)

test: $(VENV)/.installed-dev ## run the tests on two cores
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-kernels: $(KERNELS)/.installed ## run mamba-ssm's kernels beside ours, without a GPU (Linux)
	@PYTHONPATH=$(KERNELS) $(BIN)/python -m pytest -n 2 tests/kernels $(ARGS)

fuzz: $(VENV)/.installed-dev ## type ten times as much nonsense as the tests do, elsewhere every time
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n 2 tests/runs/test_fuzz.py $(ARGS)

golden: $(VENV)/.installed-dev ## renew the golden losses and weights, where learning was meant to change
	@PYTHONPATH=. $(BIN)/python tests/runs/golden.py

audit: $(TOOLS)/.installed ## look what is locked up among known vulnerabilities (asks the network)
	@if PYTHONPATH=$(TOOLS) $(BIN)/python -m pip_audit --strict --disable-pip -r $(LOCK) $(ARGS) \
	  >$(TOOLS)/audit.log 2>&1; then cat $(TOOLS)/audit.log; \
	elif grep -q '^Found [0-9]' $(TOOLS)/audit.log; then cat $(TOOLS)/audit.log; exit 1; \
	else tail -n 1 $(TOOLS)/audit.log >&2; \
	  echo "audit: NOTHING WAS CHECKED: the database of vulnerabilities could not be asked. Try again with a network that reaches pypi.org, or ARGS='-s osv'." >&2; exit 2; fi

lock: $(TOOLS)/.installed ## write requirements.lock anew, after a change of versions
	@sed -n '/^#/p' $(LOCK) >$(TOOLS)/lock
	@printf 'hatchling>=1.26\neditables>=0.5\n' | PYTHONPATH=$(TOOLS) $(BIN)/python -m uv pip compile --quiet \
	  pyproject.toml - --extra dev -c $(CONSTRAINTS) --universal --python-version 3.10 --generate-hashes \
	  --no-header --no-annotate >>$(TOOLS)/lock
	@mv $(TOOLS)/lock $(LOCK)

check: $(VENV)/.installed-dev ## format, lint, types and import contracts, changing nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

venv: $(VENV)/.installed ## make the environment and install clew in it

dev: $(VENV)/.installed-dev ## the same, with the tools for development

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "clew needs Python 3.10 or newer, and '$(PYTHON)' was not found. Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "clew needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt install python3-venv. Or: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml $(CONSTRAINTS)
	@echo "installing clew (torch makes this take a few minutes the first time)"
	@if [ -n "$(LOCKED)" ]; then \
	  $(PIP_LOCKED) --require-hashes --only-binary :all: -r $(LOCK) && $(PIP_LOCKED) --no-build-isolation -e .; \
	else $(PIP) -e .; fi
	@touch $@

# The lock holds these tools too.
$(VENV)/.installed-dev: $(VENV)/.installed
	@[ -n "$(LOCKED)" ] || { echo "installing the tools for development"; $(PIP) -e '.[dev]'; }
	@touch $@

$(TOOLS)/.installed: $(VENV)/.made $(CONSTRAINTS)
	@echo "installing the tools that look after the lock"
	@rm -rf $(TOOLS)
	@$(PIP) --target $(TOOLS) uv pip-audit
	@touch $@

# Not from pip's cache, nor into it: what is built here must not be taken for the real one elsewhere.
$(KERNELS)/.installed: $(VENV)/.installed-dev
	@echo "installing mamba-ssm without its CUDA extension"
	@rm -rf $(KERNELS)
	@$(PIP) --target $(KERNELS) triton transformers wheel
	@PYTHONPATH=$(KERNELS) MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE \
	  $(PIP) --target $(KERNELS) --no-cache-dir --no-deps --no-build-isolation mamba-ssm
	@touch $@
