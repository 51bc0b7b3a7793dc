"""`make targets`: type-checks the crate for systems that this machine is not, with Python and without.

Nothing is linked or run here, so a C compiler for the target, and its Python, are not needed: only Rust's standard
library for it, or that library's source. What is built for other systems is in wheels.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import machine
from machine import ROOT
from task import CARGO, TARGET, run, say

TARGETS = (
    "aarch64-apple-darwin",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-freebsd",
    "x86_64-unknown-linux-musl",
)
# rloop refuses this one, by a sentence that has to be the only error.
REFUSED = "x86_64-pc-windows-msvc"
REFUSAL = "rloop does not run on Windows"
# How long the installation of a standard library may take.
INSTALL_SECONDS = 90
FEATURES = (("--no-default-features",), ("--features", "tokio"))


def bring_standard_library(target: str) -> bool:
    """Whether Rust's standard library for this target is there. It is installed if packages may be installed."""
    if not machine.has_standard_library(target) and machine.may_install() and shutil.which("rustup"):
        # Without a network it is given up, and the target is skipped.
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["rustup", "target", "add", target], timeout=INSTALL_SECONDS)
    return machine.has_standard_library(target)


def command_for(target: str) -> list[str] | None:
    """The command that checks the crate for this target. None if this machine lacks what that needs."""
    command = ["cargo", "check", *CARGO, "--lib", "--target", target]
    if bring_standard_library(target):
        return command
    return [*command, "-Z", "build-std=std,panic_unwind"] if machine.has_library_source() else None


def environment_for(command: list[str]) -> dict[str, str]:
    environment = {
        "CARGO_TARGET_DIR": str(TARGET / "targets"),
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "PYO3_CROSS": "1",
        "PYO3_CROSS_PYTHON_VERSION": "3.13",
        "RUSTFLAGS": "-D warnings",
    }
    if any("musl" in part for part in command):
        # Else Rust warns that a program with a libc of its own cannot have an extension module.
        environment["RUSTFLAGS"] += " -C target-feature=-crt-static"
    if "-Z" in command:
        # A stable Rust has this option, too, but takes it only if this is set.
        environment["RUSTC_BOOTSTRAP"] = "1"
    return environment


def refuse(command: list[str]) -> None:
    """See to it that one sentence is all that a user of this target is told."""
    environment = {**os.environ, **environment_for(command)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    # Cargo adds that it could not compile the crate.
    if len(errors) != 2 or REFUSAL not in errors[0]:
        sys.exit(f"{REFUSED} is to be refused by one sentence, not by: {done.stderr}")


def main() -> None:
    machine.check_rust()
    for target in (*TARGETS, REFUSED):
        command = command_for(target)
        if command is None:
            say(f"Skipped: {target} needs `rustup target add {target}`, or `rustup component add rust-src`")
            continue
        say(f"The crate for {target}{', which is refused' if target == REFUSED else ', with Python and without'}")
        if target == REFUSED:
            refuse(command)
            continue
        for features in FEATURES:
            run(*command, *features, **environment_for(command))


if __name__ == "__main__":
    main()
