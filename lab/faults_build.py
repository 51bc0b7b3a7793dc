"""Builds rloop with the cargo feature `faults`, for parts of the laboratory: a package of its own below target/.

The build has debug assertions, and no wheel is made of it. `python lab/faults_build.py` prints the folder to put into
PYTHONPATH. What the feature does is in `src/reactor/sys/faults.rs`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "lab-faults"


def build() -> Path:
    """Build the extension for this Python; return the folder that has the package `rloop`.

    RLOOP_LAB_PACKAGE names such a folder that is there already, for a run beside changes of the sources.
    """
    if given := os.environ.get("RLOOP_LAB_PACKAGE"):
        return Path(given)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = TARGET / version
    environment = {
        **os.environ,
        "PYO3_PYTHON": sys.executable,
        # Without this, the extension would be linked to libpython.
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "CARGO_TARGET_DIR": str(target),
    }
    command = ["cargo", "build", "--quiet", "--locked", "--lib", "--features", "faults"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    package = target / "package"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "python", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(target / "debug" / "librloop.so", package / "rloop" / "_rloop.so")
    return package


def environment(package: Path, **more: str) -> dict[str, str]:
    """The environment of a process that imports this build, and what the tests share (`support`)."""
    path = os.pathsep.join([str(package), str(ROOT / "tests"), str(ROOT / "lab")])
    return {**os.environ, "PYTHONPATH": path, **more}


if __name__ == "__main__":
    print(build())
