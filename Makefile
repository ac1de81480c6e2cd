# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV   := .venv
PYTHON := $(VENV)/bin/python
EXTRAS ?= dev
STAMP  := $(VENV)/installed-$(EXTRAS)
comma  := ,
# For the programs, e.g. make reenact ARGS="photo.jpg clip.mp4 -o out.mp4"
ARGS   ?=
# What else stands on make's command line: settings of a training.
SETTINGS = $(filter-out ARGS=% CONFIG=% EXTRAS=% PYTHON=% VENV=%,$(MAKEOVERRIDES))

# soname:package of what the wheels expect from the system (mediapipe's OpenCV and its GL context), Debian and Ubuntu names.
SYSTEM_LIBRARIES := libGL.so.1:libgl1 libEGL.so.1:libegl1 libGLESv2.so.2:libgles2 libglib-2.0.so.0:libglib2.0-0

.PHONY: help setup demo reenact track test test-browser lint format fuzz kill train eval data bench bench-gpu

help:  ## list the targets
	@awk '/^[a-z-]+:.*  ## /{name = $$1; sub(/.*  ## /, ""); printf "  %-14s%s\n", name, $$0}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install everything, once: make setup EXTRAS=dev,train

demo: $(STAMP)  ## bring a real photo to life with a real clip: outputs/demo/reenacted.mp4
	@mkdir -p outputs/demo
	source=$$($(PYTHON) -m gpavatar.assets path astronaut)
	driving=$$($(PYTHON) -m gpavatar.assets path pexels_clip)
	$(PYTHON) -m gpavatar.reenact "$$source" "$$driving" -o outputs/demo/reenacted.mp4 --compare

reenact: $(STAMP)  ## drive photos with a clip: make reenact ARGS="photo.jpg clip.mp4 -o out.mp4"
	$(PYTHON) -m gpavatar.reenact $(ARGS)

track: $(STAMP)  ## head parameters and camera of a clip: make track ARGS="clip.mp4 -o tracks.npz"
	$(PYTHON) -m gpavatar.track $(ARGS)

test: $(VENV)/installed-dev$(comma)train$(comma)prep  ## run the tests: make test ARGS="-k camera"
	$(PYTHON) -m pytest -n 2 $(ARGS)

test-browser: $(VENV)/installed-dev$(comma)train$(comma)prep  ## load an evaluation's report in a browser without network
	@if ! command -v chromium chromium-browser google-chrome >/dev/null; then
	  as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo"
	  install="apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium"
	  command -v apt-get >/dev/null && $$as_root env DEBIAN_FRONTEND=noninteractive sh -c "$$install" ||
	    { echo "a browser is missing; as root run: $$install" >&2; exit 2; }
	fi
	$(PYTHON) -m pytest tests/evaluation/test_browser.py $(ARGS)

lint: $(STAMP)  ## check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

fuzz: $(STAMP)  ## break N files and have every reader read them: make fuzz N=10000
	PYTHONPATH=tests $(PYTHON) -m fuzz --cases $(or $(N),1000) $(ARGS)

kill: $(STAMP)  ## cut the power of reenact, track and assets fetch, N times each: make kill N=30
	PYTHONPATH=tests $(PYTHON) -m fuzz.kill --kills $(or $(N),5) $(ARGS)

format: $(STAMP)  ## put imports and formatting right
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

train: $(VENV)/installed-dev$(comma)train  ## train a method: make train CONFIG=configs/gpavatar.yaml key.sub=value ...
	@set -f +B  # settings are no patterns
	$(PYTHON) -m gpavatar.train $(CONFIG) $(SETTINGS) $(ARGS)

eval: $(VENV)/installed-dev$(comma)eval$(comma)train  ## measure methods: make eval CONFIG=configs/eval_val.yaml MODEL=name
	$(PYTHON) -m gpavatar.eval $(addprefix --config ,$(CONFIG)) $(addprefix --model ,$(MODEL)) $(ARGS)

data: $(VENV)/installed-dev$(comma)prep  ## raw video to training shards: make data ARGS="..."
	$(PYTHON) -m data_prep $(ARGS)

bench: $(VENV)/installed-dev$(comma)train$(comma)prep  ## run every benchmark; results land in benchmarks/results/
	@for program in benchmarks/*.py; do
	  echo "== $$program"
	  PYTHONPATH=. $(PYTHON) $$program
	done

bench-gpu:  ## on a GPU: check the fused kernels, then measure
	@nvidia-smi -L 2>/dev/null | grep -q . || { echo "bench-gpu needs an NVIDIA GPU, and nvidia-smi finds none here" >&2; exit 2; }
	$(MAKE) setup EXTRAS=dev,gpu,train,prep
	$(PYTHON) -m pytest tests/field/test_knn_triton.py tests/render/test_volume_triton.py tests/render/test_captured.py \
	  tests/training/test_guard.py
	for run in "kernels" "kernels --device cuda" "knn --device cuda" \
	  "render --size paper --device cuda" "render --size lite --device cuda" \
	  "train_step --size paper" "train_step --size lite"; do
	  set -- $$run
	  echo "== benchmarks/$$1.py $${*:2}"
	  PYTHONPATH=. $(PYTHON) benchmarks/$$1.py "$${@:2}"
	done

# The first Python that is new enough and really runs (a name may be a shim without a version behind it).
$(VENV)/installed-%: setup.cfg pyproject.toml constraints.txt
	@python=
	for candidate in python3.11 python3 python3.12 python3.13; do
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi
	done
	[ -n "$$python" ] || { echo "Python 3.11 or newer is needed: install it, then run this again" >&2; exit 2; }
	missing=
	for library in $(SYSTEM_LIBRARIES); do
	  $$python -c "import ctypes; ctypes.CDLL('$${library%%:*}')" 2>/dev/null || missing="$$missing $${library##*:}"
	done
	$$python -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"
	if [ -n "$$missing" ]; then
	  as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo"
	  install="apt-get update -qq && apt-get install -qq -y --no-install-recommends$$missing"
	  echo "installing system packages:$$missing"
	  command -v apt-get >/dev/null && $$as_root env DEBIAN_FRONTEND=noninteractive sh -c "$$install" ||
	    { echo "system packages are missing; as root run: $$install" >&2; exit 2; }
	fi
	$(PYTHON) -m pip --version >/dev/null 2>&1 || $$python -m venv --clear $(VENV)
	$(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -e .[$*]
	touch $@
