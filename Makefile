# Everything a person needs: `make demo` and `make test` set themselves up.
# PYTHON chooses the interpreter (3.10 or newer), VENV the folder of the virtual environment.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two processes at most: the suite starts processes of its own, and torch brings its threads.
TEST_PROCESSES ?= 2

.PHONY: help setup demo up walkthrough test test-slow crash crash-searches check format references docs bench bench-service build sbom vulnerabilities constraints tools clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make the virtual environment and install everything, versions pinned
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --upgrade pip
	@echo "Installing (torch is the large one; a few minutes) ..."
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --group dev --editable '.[demo]'
	@touch $(READY)

demo: $(READY)  ## Index and search real photos, as a library and as a system of processes; PHOTOS=~/Pictures takes your own, MODEL=... another model
	$(BIN)/visual-search demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(MODEL),--model "$(MODEL)")

up: $(READY)  ## Run the whole system in this terminal, web page included; ARGS='--workers 2'
	exec $(BIN)/visual-search up $(ARGS)

test: $(READY)  ## Run the tests with line coverage (at least 90 %)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not slow" --cov --cov-fail-under=90 $(ARGS)

test-slow: $(READY)  ## Run the tests of whole systems: several processes, killed, frozen, restarted
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) -m slow $(ARGS)

crash: $(READY)  ## Kill, freeze, wipe and fill whatever runs, then check every image; ARGS='--seed 7 --runs 12'
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python -m crash.run $(ARGS)

crash-searches: $(READY)  ## Kill and freeze query workers under load, check every answer; ARGS='--seed 8 --runs 6'
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python -m crash.searches $(ARGS)

check: $(READY)  ## Check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Format and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

references: $(READY)  ## Write the pages and tables of docs/ that are made from the program itself
	$(BIN)/python docs/programs/write_references.py

docs: $(VENV)-docs/.ready  ## Build the documentation site into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=docs/programs $(VENV)-docs/bin/mkdocs build --strict --quiet
	@echo "the site stands in build/site/index.html; to search in it: $(PYTHON) -m http.server --bind 127.0.0.1 --directory build/site"

$(VENV)-docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --quiet --constraint constraints.txt --upgrade pip
	$(VENV)-docs/bin/python -m pip install --quiet --quiet --constraint constraints.txt --group docs
	@touch $@

bench: $(READY)  ## Measure each stage beside its peers and the machine's limits; ARGS='--quick decode', DATA=folder takes your own photos
	$(BIN)/python benchmarks/bench.py $(ARGS) $(if $(DATA),--data "$(DATA)")

bench-service: $(READY)  ## Measure the query service and the queue; ARGS=--quick for a first look
	$(BIN)/python benchmarks/service_throughput.py $(ARGS)
	$(BIN)/python benchmarks/freshness.py $(ARGS)
	$(BIN)/python benchmarks/overload.py $(ARGS)
	$(if $(ARGS),,$(BIN)/python benchmarks/queue_throughput.py)

build: $(READY)  ## Build wheel and sdist, install the wheel into a clean environment and use it
	rm -rf dist build
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/python tests/release/check_wheel.py dist/*.whl --constraint constraints.txt

walkthrough: $(READY)  ## Run every command of docs/getting-started.md in an empty home, and tell the time; MODEL=... a real CLIP
	$(BIN)/python tests/release/walk_getting_started.py $(if $(MODEL),--model "$(MODEL)") $(ARGS)

sbom: $(READY)  ## List everything that is installed as a CycloneDX file, sbom.json
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --output-reproducible \
	  --pyproject pyproject.toml --of JSON -o sbom.json $(BIN)/python

vulnerabilities: $(READY)  ## Ask the public service for known flaws of the pinned packages (needs the network)
	@$(BIN)/uv tool run --from pip-audit==2.10.1 pip-audit --requirement constraints.txt --no-deps --disable-pip --strict \
	  || { echo "Not passed. A table above: these packages have known flaws. \"could not be audited\": the list of flaws cannot be"; \
	       echo "had from here, nothing was checked, and nothing is said about the packages. Run it where the network is open."; exit 1; }

constraints: $(READY)  ## Look up the newest versions and pin them
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --all-extras --group dev --group docs \
	  --no-emit-index-url --no-annotate --no-header --upgrade --output-file constraints.txt

tools:  ## Fetch what checks deploy/: Prometheus, Kustomize, the schema of Compose (Debian with npm; without them those tests skip)
	.ci/tools

clean:  ## Remove what the targets above made
	rm -rf $(VENV) $(VENV)-docs .tools build dist sbom.json demo-output .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
