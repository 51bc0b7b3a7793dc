# The commands of the project. What they do is in tools/task.py; they need Rust and Python 3.11 or newer, and
# install everything else into target/.

PYTHON ?= python3

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo:  ## serve an ASGI application on rloop and on asyncio, check every answer, compare
	@$(PYTHON) tools/task.py demo

test:  ## check everything: lint, Rust tests, Python tests on every Python there is, demo, soak
	@$(PYTHON) tools/task.py test

lint:  ## format, clippy, types
	@$(PYTHON) tools/task.py lint

bench:  ## measure rloop beside asyncio, uvloop, aiofastnet and zuvloop (ARGS="--quick", ARGS="--only tcp", ...)
	@$(PYTHON) tools/task.py bench $(ARGS)

.PHONY: help demo test lint bench
.DEFAULT_GOAL := help
