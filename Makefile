SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install test test-all fuzz lint format types layers sizes demo operators wheel ci

help:       ## this menu
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*##/\t/' | expand -t 12
install:    ## editable install with everything for development
	pip install -e '.[dev]'
test:       ## the quick tests
	pytest
test-all:   ## every test, the slow ones too
	pytest -m "" -n auto
fuzz:       ## random models and damaged files with new seeds, until interrupted or something fails
	while S=$$RANDOM$$RANDOM && python -m whet.tests.fuzz models --count 500 --seed $$S && python -m whet.tests.fuzz onnx --count 2000 --seed $$S && python -m whet.tests.fuzz whet --count 5000 --seed $$S && WHET_SEED=$$RANDOM$$RANDOM pytest -q -x -m "" src/whet/tests/test_conform_random.py src/whet/tests/test_conform_kernels.py; do :; done
lint:       ## ruff, lint only
	ruff check .
format:     ## ruff, rewrite in place
	ruff format . && ruff check --fix .
types:      ## mypy, strict
	mypy
layers:     ## import contracts between the stages
	PYTHONPATH=src lint-imports
sizes:      ## caps on file and function size
	python scripts/check_sizes.py
operators:  ## write docs/operators.md
	PYTHONPATH=src python scripts/operators.py
demo:       ## compile, check and time ResNet-50
	whet demo
wheel:      ## build dist/*.whl
	pip wheel --no-deps -w dist .
ci:         ## what must pass before a merge
	.ci/run
