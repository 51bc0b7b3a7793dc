"""Coverage-guided fuzzing of the parts of rloop that need no Python, each beside a plain model.

The targets are in `fuzz/targets/`, their inputs in `fuzz/corpus/`. A target reads its input as calls, makes them on
rloop's code and on the model, and compares after each. libFuzzer chooses inputs by what code they reach; stable Rust
counts that by LLVM's own pass.

    python lab/fuzzers.py --seconds 60 [--seed 7] [--targets timers,outbox]
    python lab/fuzzers.py --seconds 600 --keep      (what is new and reaches more is added to the corpus)

An input that fails is printed, and kept in `target/lab/fuzz/`. Run the target's program with that file to see it again.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import builds

LAB = Path(__file__).resolve().parent
FOLDER = LAB / "fuzz"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", LAB.parent / "target"))
# The targets are built for a named platform, so that the flags do not reach build scripts.
FLAGS = (
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
)
NAMES = sorted(path.stem for path in (FOLDER / "targets").glob("*.rs"))
# What an input may have, and what one may take: seconds, megabytes.
LENGTH, SECONDS, MEMORY = 1024, 10, 1024
# How many inputs of each target are in the tree.
KEPT = 12


def missing() -> str | None:
    """What the machine lacks."""
    if shutil.which("cargo") is None:
        return "no cargo"
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        return "no C++ compiler, which libFuzzer needs"
    return None


def build() -> Path:
    """Builds the targets; returns where they are."""
    host = builds.triple()
    environment = {**os.environ, "RUSTFLAGS": " ".join(FLAGS), "CARGO_TARGET_DIR": str(TARGET / "fuzz")}
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--target", host]
    subprocess.run(command, cwd=FOLDER, env=environment, check=True)
    return TARGET / "fuzz" / host / "release"


def fuzz(program: Path, seconds: int, seed: int, keep: bool) -> tuple[int, bool]:
    """Runs one target; returns how many inputs it tried, and whether one failed."""
    corpus, artifacts = FOLDER / "corpus" / program.name, TARGET / "lab" / "fuzz"
    artifacts.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as found:
        options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LENGTH}", f"-timeout={SECONDS}"]
        options += [f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={artifacts}/{program.name}-", "-print_final_stats=1"]
        done = subprocess.run(
            [program, *options, found, corpus],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=2 * seconds + 60,
        )
        counts = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
        tried = int(counts[0]) if counts else 0
        print(f"{program.name}: {tried} inputs, seed {seed}", flush=True)
        if done.returncode != 0:
            print(f"FAILED with {done.returncode}\n{done.stderr[-3000:]}")
            for path in re.findall(r"Test unit written to (\S+)", done.stderr):
                print(f"{path}: {base64.b64encode(Path(path).read_bytes()).decode()}", flush=True)
        elif keep:
            merge(program, corpus, Path(found))
    return tried, done.returncode != 0


def merge(program: Path, corpus: Path, found: Path) -> None:
    """Makes the corpus as small as it can be without reaching less."""
    with tempfile.TemporaryDirectory() as merged:
        subprocess.run(
            [program, "-merge=1", f"-max_len={LENGTH}", merged, corpus, found], check=True, stderr=subprocess.DEVNULL
        )
        # Of these a few of each size are kept: they are where a run begins, and the fuzzer finds the rest again.
        paths = sorted(Path(merged).iterdir(), key=lambda path: path.stat().st_size)
        paths = paths[:: max(1, len(paths) // KEPT)]
        shutil.rmtree(corpus)
        corpus.mkdir()
        for path in paths[-KEPT:]:
            shutil.copy(path, corpus)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the parts of rloop that need no Python.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--targets", help=f"all, without any: {', '.join(NAMES)}")
    parser.add_argument("--keep", action="store_true", help="add what is found to the corpus, and minimise it")
    options = parser.parse_args()
    if why := missing():
        builds.skip(why)
    names = options.targets.split(",") if options.targets else NAMES
    seed = options.seed if options.seed is not None else random.randrange(1, 1 << 31)
    folder = build()
    tried = failed = 0
    for name in names:
        count, bad = fuzz(folder / name, max(1, options.seconds // len(names)), seed, options.keep)
        tried, failed = tried + count, failed + bad
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
