# The commands of the project. What they do is in tools/task.py; they need Rust 1.88 and Python 3.11, or newer, and
# install everything else into target/. RLOOP_INSTALL=1 allows them to install missing packages into the system too.

PYTHON ?= python3

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 28

demo:  ## serve an ASGI application on rloop and on asyncio, check every answer, compare
	@$(PYTHON) tools/task.py demo

test:  ## check everything: lint, Rust tests, Python tests on every Python there is, sdist, conformance, demo, soak
	@$(PYTHON) tools/task.py test

lint:  ## format, clippy, types
	@$(PYTHON) tools/task.py lint

bench:  ## measure rloop beside asyncio, uvloop, aiofastnet and zuvloop (ARGS="--quick", ARGS="--only tcp", ...)
	@$(PYTHON) tools/task.py bench $(ARGS)

conformance:  ## run asyncio's own tests on rloop (ARGS="test_events", ARGS="--loop asyncio", ...)
	@$(PYTHON) tools/task.py conformance $(ARGS)

conformance-left-out:  ## run what conformance leaves out, and name what passes all the same
	@$(PYTHON) tools/task.py conformance-left-out $(ARGS)

conformance-all:  ## the same on every Python, and the table of docs/compatibility.md
	@$(PYTHON) tools/task.py conformance-all

.PHONY: help demo test lint bench conformance conformance-left-out conformance-all
.DEFAULT_GOAL := help
