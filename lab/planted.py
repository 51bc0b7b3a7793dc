"""A test of the tests: bugs are planted in a copy of the sources, one at a time. The part that is meant to find such a
bug must find it.

Each bug is a change of one file: the text that is there, and what it becomes. If the text is not there any more, the
part fails, and the bug has to be planted anew. A bug is found if its part fails and says what it has found. A
build that fails is no find.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import builds

FOLDER = builds.OUTPUT / "planted"
TREE = FOLDER / "tree"
# What the parts need of the source tree.
NEEDED = ("src", "python", "tests", "lab", "examples", "Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md")
NOT_COPIED = shutil.ignore_patterns("*.so", "__pycache__", "target")


@dataclass(frozen=True)
class Bug:
    name: str
    file: str
    old: str
    new: str
    # The command of the part that is meant to find it, without the interpreter.
    part: tuple[str, ...]
    # What that part says about it: a regular expression.
    evidence: str
    # Whether the part runs the rloop of the interpreter that runs it, instead of making a build of its own.
    installed: bool = False


BUGS = (
    Bug(
        name="a lost wake-up: the inbox is marked as empty after its lock was given back",
        file="src/reactor/ready.rs",
        old="        inbox.filled.store(false, Ordering::SeqCst);\n    }\n",
        new="        drop(sent);\n        inbox.filled.store(false, Ordering::SeqCst);\n    }\n",
        part=("models.py", "--seconds", "60"),
        evidence="deadlock",
    ),
    Bug(
        name="a missing retry on EINTR",
        file="src/reactor/sys/mod.rs",
        old="            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,\n",
        new="",
        part=("faults.py", "--seconds", "30", "--scenario", "tcp", "--errno", "EINTR"),
        evidence="FAILED.*EINTR",
    ),
    Bug(
        name="a double close: of a file that a Python object owns, and closes",
        file="src/transports/socket.rs",
        old="        let object = fd.object().bind(py);\n        // `_socket.socket`, also",
        new="""        let object = fd.object().bind(py);
        let number: RawFd = object.call_method0(intern!(py, "fileno")?)?.extract()?;
        // SAFETY: planted, and not true.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) });
        // `_socket.socket`, also""",
        part=("faults.py", "--seconds", "30", "--scenario", "udp"),
        evidence="Bad file descriptor|EBADF",
    ),
    Bug(
        name="a use after free: what is still to be written is read from a copy that is gone",
        file="src/py/bytes.rs",
        old="let (start, len) = (owner.as_bytes().as_ptr(), owner.as_bytes().len());",
        new="let (start, len) = (owner.as_bytes().to_vec().as_ptr(), owner.as_bytes().len());",
        part=("asan.py", "--seconds", "600", "tests/stream/test_write.py"),
        evidence="heap-use-after-free",
    ),
    Bug(
        name="a leak of one file in 1,000 connections",
        file="src/reactor/sys/sockets.rs",
        old="    Ok((fd, address))\n}\n",
        new="""    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    if COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1000 == 0 {
        std::mem::forget(fd.try_clone());
    }
    Ok((fd, address))
}
""",
        part=("soak.py", "--seconds", "60", "--connections", "3000"),
        evidence=r"\d+ files were left open",
        installed=True,
    ),
)


def copy() -> None:
    """Make the copy of the source tree."""
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    for name in NEEDED:
        source, target = builds.ROOT / name, TREE / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=NOT_COPIED)
        else:
            shutil.copy(source, target)


def look_for(bug: Bug, seconds: float) -> tuple[bool, str]:
    """Run the bug's part in the copy. Returns whether the part has found it, and the output."""
    python = Path(sys.executable)
    if bug.installed:
        library = builds.extension(FOLDER / "installed", tree=TREE)
        python = builds.environment_with(library, FOLDER / "venv", TREE)
    command = [str(python), str(TREE / "lab" / bug.part[0]), *bug.part[1:]]
    variables = {**os.environ, "CARGO_TARGET_DIR": str(FOLDER / "target"), "PYTHONPATH": str(TREE / "tests")}
    try:
        done = subprocess.run(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, cwd=TREE
        )
    except subprocess.TimeoutExpired:
        return False, "no end"
    output = done.stdout.decode(errors="replace")
    # A part that cannot begin, because nothing works, has found the bug as well. One that was not built has not.
    built = not re.search("could not compile|cannot be built|ModuleNotFoundError", output)
    return bool(done.returncode) and built and re.search(bug.evidence, output) is not None, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--bug", action="append", help="a word of its name; without any, all are planted")
    options = parser.parse_args()
    clock = builds.Clock(options.seconds * 2)
    if shutil.which("cargo") is None:
        builds.skip("cargo is not here")
    copy()
    tried = failed = 0
    for bug in BUGS:
        if options.bug and not any(word in bug.name for word in options.bug):
            continue
        path = TREE / bug.file
        text = path.read_text()
        if text.count(bug.old) != 1:
            print(f"{bug.file} does not have the text (once) that was to become: {bug.name}")
            tried, failed = tried + 1, failed + 1
            continue
        # A file that was written is newer than what was built of it, so that cargo builds it again.
        path.write_text(text.replace(bug.old, bug.new))
        found, output = look_for(bug, clock.left())
        path.write_text(text)
        print(f"{'found' if found else 'NOT FOUND'} by {bug.part[0]}: {bug.name}", flush=True)
        if not found:
            print(builds.shown(output), flush=True)
        tried, failed = tried + 1, failed + (not found)
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
