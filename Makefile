# The commands of the project. tools/task.py does the work. It needs Rust 1.88 and Python 3.11, or newer, and it
# installs everything else into target/. It installs packages into the system only if RLOOP_INSTALL=1 is set.
# Every command takes PYTHON=python3.13 to run with another Python.

PYTHON ?= python3

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 28

build:  ## build rloop without optimisation, into a virtual environment in target/ with all that tests need
	@$(PYTHON) tools/task.py build

check:  ## build, then run some tests: ARGS="tests/tls -k pause" is what pytest is given
	@$(PYTHON) tools/task.py check $(ARGS)

fmt:  ## format all Rust and Python code
	@$(PYTHON) tools/task.py fmt

lint:  ## check the format, lints and types of all Rust and Python code
	@$(PYTHON) tools/task.py lint

test:  ## check everything: lint, Rust tests, Python tests on every Python there is, sdist, conformance, demo, site
	@$(PYTHON) tools/task.py test

demo:  ## serve an ASGI application on rloop and on asyncio, check every answer, compare
	@$(PYTHON) tools/task.py demo

frameworks:  ## start each server and framework of docs/frameworks.md on rloop, and write the table of that page
	@$(PYTHON) tools/task.py frameworks

docs:  ## build the site of docs/ into target/site, and check every link (needs no Rust)
	@$(PYTHON) tools/task.py docs

bench:  ## measure rloop beside asyncio, uvloop and other loops (ARGS="--quick", ARGS="--only tcp", ...)
	@$(PYTHON) tools/task.py bench $(ARGS)

bench-compare:  ## count the instructions of this checkout and of a commit: REV=main~3 (ARGS='--only call_soon')
	@$(PYTHON) tools/task.py bench-compare $(or $(REV),$(error REV is missing: make bench-compare REV=COMMIT)) $(ARGS)

lab:  ## look for what tests do not: failing calls, hostile peers, long runs, sanitizers (ARGS="faults soak", ...)
	@$(PYTHON) tools/task.py lab $(ARGS)

asan:  ## run the tests of the extension, and of programs that host Python, under AddressSanitizer (a part of the lab)
	@$(PYTHON) tools/task.py lab asan

soak:  ## run real servers under load for hours, and look for what grows (HOURS=2; the lab does ten minutes of it)
	@$(PYTHON) tools/task.py soak $(HOURS)

reach:  ## run the tests in a sandbox, as process 1, with few files, ... (ARGS="--seconds 3600 --mode pid-1"; a part of the lab)
	@$(PYTHON) tools/task.py reach $(ARGS)

conformance:  ## run asyncio's own tests on rloop (ARGS="test_events", ARGS="--loop asyncio", ...)
	@$(PYTHON) tools/task.py conformance $(ARGS)

conformance-left-out:  ## run the tests that conformance leaves out, and name those that pass all the same
	@$(PYTHON) tools/task.py conformance-left-out $(ARGS)

conformance-all:  ## run conformance on every Python, and write the table of docs/compatibility.md
	@$(PYTHON) tools/task.py conformance-all

wheels:  ## build, check and try the wheels that are published (PYTHONS="3.11 3.14" ARCH=aarch64 LIBC=musl ARGS=--twice)
	@$(PYTHON) tools/wheels.py --pythons "$(PYTHONS)" --arch "$(ARCH)" --libc "$(LIBC)" $(ARGS)

targets:  ## type-check the crate for macOS, FreeBSD, musl and aarch64, as far as this machine can
	@$(PYTHON) tools/targets.py

release-check:  ## whether this checkout could be published as it is (TAG=v0.1.0: as that version)
	@$(PYTHON) tools/release.py --tag "$(TAG)"

.PHONY: help build check fmt lint test demo frameworks docs bench bench-compare lab asan soak reach conformance \
  conformance-left-out conformance-all wheels targets release-check
.DEFAULT_GOAL := help
