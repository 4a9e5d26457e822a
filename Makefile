# The two commands of a new machine: `make pick` and `make test`. Both set up .venv from requirements.lock once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SAMPLE := $(CURDIR)/sample
PICKS := $(CURDIR)/output/sample

# huge pages for torch's memory: 1.3 to 1.7 times faster on CPUs
export THP_MEM_ALLOC_ENABLE ?= 1

.PHONY: pick test check format clean

pick: $(VENV)/ready
	cd bundle && $(BIN)/python -m monai.bundle run --config_file configs/inference.json \
		--dataset_dir $(SAMPLE) --output_dir $(PICKS)
	cd bundle && $(BIN)/python -m scripts.metrics $(SAMPLE)/truth.csv $(PICKS)/picks.csv
	@find $(PICKS) -type f | sort

test: $(VENV)/ready
	$(BIN)/python -m pytest

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy bundle/scripts
	$(BIN)/python -m pytest

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/ready: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@

clean:
	rm -rf $(VENV) output
