# The two commands of a new machine: `make pick` and `make test`. Each target sets up what it needs, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SAMPLE := $(CURDIR)/sample
PICKS := $(CURDIR)/output/sample
SIMULATED := $(CURDIR)/output/simulated

# copick needs older Zarr libraries than the bundle, hence an environment of its own, without torch
COPICK_VENV := .venv-copick

# a browser's tests need neither torch nor MONAI
BROWSER_VENV := .venv-browser
# MLflow, without what is in the bundle's environment already; only its test looks here
MLFLOW := .mlflow
# timm and its torchvision likewise, for the tests of networks with its backbones
TIMM := .timm
# Optuna likewise, for the search of picking settings
OPTUNA := .optuna
TORCHVISION := $(CURDIR)/apps/monai_label/torchvision_without_cuda
# MONAI Label needs older NumPy and DICOM libraries than the rest; 127.0.0.1:$(LABEL_PORT) is where it listens
LABEL_VENV := .venv-label
LABEL_PORT ?= 8000
LABEL_DIR := $(CURDIR)/output/label

# what `make weights` is told; --smoke for a small and quick one, see tools/make_weights.py
OPTIONS ?= --install

# what `make picker` is told beside STRUCTURE and NAME; see docs/how_to/new_species.md
PICKER_OPTIONS ?=

# what `make bundle` is told; see docs/how_to/model_zoo.md
BUNDLE_OPTIONS ?=

# huge pages for torch's memory: 1.3 to 1.7 times faster on CPUs
export THP_MEM_ALLOC_ENABLE ?= 1

.PHONY: pick test simulate weights picker bundle label-server test-clients test-published test-label test-copick test-timm test-optuna test-browser soak soak-label check format clean

pick: $(VENV)/ready
	cd bundle && $(BIN)/python -m monai.bundle run --config_file configs/inference.json \
		--dataset_dir $(SAMPLE) --output_dir $(PICKS) --resume False --overwrite True
	cd bundle && $(BIN)/python -m scripts.scoring $(SAMPLE)/truth.csv $(PICKS)/picks.csv
	@find $(PICKS) -type f | sort

# two processes of one thread each; the tests of a module share what they prepare
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# four small tomograms out of phantoms, with known truth; docs/explanation/simulation.md has larger ones, and density maps
simulate: $(VENV)/ready
	cd bundle && $(BIN)/python -m monai.bundle run --config_file configs/simulate.json --dataset_dir $(SIMULATED)
	$(BIN)/python tools/draw_simulation.py dataset $(SIMULATED) $(SIMULATED)/overview.png
	@find $(SIMULATED) -name '*.zarr' -prune -print -o -type f -print | sort

# all that is behind the shipped weights
weights: $(VENV)/ready
	$(BIN)/python tools/make_weights.py $(OPTIONS)

# a picker for new species out of their structures: make picker STRUCTURE=p97.mrc NAME=p97
picker: $(VENV)/ready
	$(BIN)/python tools/make_picker.py --structure $(STRUCTURE) --name $(NAME) $(PICKER_OPTIONS)

# what is published: dist/cryoet_particle_segmentation and its zip, checked
bundle: $(VENV)/ready
	$(BIN)/python publish/make_bundle.py $(BUNDLE_OPTIONS)

# MONAI's own programs, on the published bundle
test-published: bundle $(MLFLOW)/ready
	$(BIN)/python -m pytest tests/clients

test-copick: $(COPICK_VENV)/ready
	$(CURDIR)/$(COPICK_VENV)/bin/python -m pytest tests/with_copick tests/test_copick_tree.py

test-timm: $(TIMM)/ready
	PYTHONPATH=$(CURDIR)/$(TIMM):$(TORCHVISION) $(BIN)/python -m pytest tests/with_timm

test-optuna: $(OPTUNA)/ready
	PYTHONPATH=$(CURDIR)/$(OPTUNA) $(BIN)/python -m pytest tests/with_optuna

# the pages in Chromium, which is installed where it is missing and Debian's packages can be
test-browser: $(BROWSER_VENV)/ready
	@command -v chromedriver >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update --quiet=2 \
			&& DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends chromium chromium-driver; } \
		|| { echo "Chromium and its driver are missing: sudo apt-get install chromium chromium-driver" >&2; exit 1; }
	$(CURDIR)/$(BROWSER_VENV)/bin/python -m pytest tests/with_browser

# MONAI Label with the sample as its study, for 3D Slicer; Ctrl-C ends it. STUDIES="--studies DIR" takes your own
label-server: $(LABEL_VENV)/ready
	$(CURDIR)/$(LABEL_VENV)/bin/python apps/monai_label/serve.py --folder $(LABEL_DIR) --port $(LABEL_PORT) $(STUDIES)

# the programs that bundles are used from, with the last line of each one's answers
test-clients: test-published test-label

test-label: $(LABEL_VENV)/ready
	$(CURDIR)/$(LABEL_VENV)/bin/python -m pytest -s tests/with_monai_label

# the long form of tests/faults: hours of kills, damaged headers and a large batch. SOAK="--kills 20" for less
soak: $(VENV)/ready
	PYTHONPATH=$(CURDIR)/bundle:$(CURDIR)/tests $(BIN)/python tests/faults/soak.py $(SOAK)

# 200 requests of four clients to MONAI Label's server, bad ones among them
soak-label: $(LABEL_VENV)/ready
	PYTHONPATH=$(CURDIR)/bundle:$(CURDIR)/tests $(LABEL_VENV)/bin/python tests/label_load.py $(SOAK)

# everything that can be told without running a test: layout, lint, types, layout of the configs
check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy bundle/scripts publish apps tools benchmarks
	$(BIN)/python tools/format_configs.py --check

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/format_configs.py

# a download that breaks off is not tried again by pip itself
thrice = $(1) || $(1) || $(1)

$(VENV)/ready: requirements/bundle.lock
$(COPICK_VENV)/ready: requirements/copick.lock
$(BROWSER_VENV)/ready: requirements/browser.lock
%/ready:
	$(PYTHON) -m venv $*
	$(call thrice,$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<)
	touch $@

$(MLFLOW)/ready: requirements/mlflow.lock $(VENV)/ready
$(TIMM)/ready: requirements/timm.lock $(VENV)/ready
$(OPTUNA)/ready: requirements/optuna.lock $(VENV)/ready
$(MLFLOW)/ready $(TIMM)/ready $(OPTUNA)/ready:
	$(call thrice,$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) \
		--requirement $<)
	touch $@

# torch first and by its number alone, so that the machine gets its own build; the last two without their requirements
$(LABEL_VENV)/ready: PIP = $(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
$(LABEL_VENV)/ready: requirements/label.lock
	$(PYTHON) -m venv $(LABEL_VENV)
	$(call thrice,$(PIP) torch==2.13.0)
	$(call thrice,$(PIP) --requirement $<)
	$(call thrice,$(PIP) --no-deps torchvision==0.28.0 monailabel==0.8.5)
	touch $@

clean:
	rm -rf $(VENV) $(COPICK_VENV) $(BROWSER_VENV) $(LABEL_VENV) $(MLFLOW) $(TIMM) $(OPTUNA) output dist
