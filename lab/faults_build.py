"""Builds rloop with the cargo feature `faults`, for parts of the laboratory: a package of its own below target/lab/.

The build has debug assertions, and no wheel is made of it. `python lab/faults_build.py` prints the folder to put into
PYTHONPATH. What the feature does is in `src/reactor/sys/faults.rs`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import builds


def build() -> Path:
    """Build the extension for this Python; return the folder that has the package `rloop`.

    RLOOP_LAB_PACKAGE names such a folder that is there already, for a run beside changes of the sources.
    """
    if given := os.environ.get("RLOOP_LAB_PACKAGE"):
        return Path(given)
    folder = builds.OUTPUT.resolve() / "faults" / f"{sys.version_info.major}.{sys.version_info.minor}"
    library = builds.extension(folder, features=["faults"])
    package = folder / "package"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(builds.ROOT / "python", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(library, package / "rloop" / "_rloop.so")
    return package


def environment(package: Path, **more: str) -> dict[str, str]:
    """The environment of a process that imports this build, and what the tests share (`support`)."""
    path = os.pathsep.join([str(package), str(builds.ROOT / "tests"), str(builds.ROOT / "lab")])
    return {**os.environ, "PYTHONPATH": path, **more}


if __name__ == "__main__":
    print(build())
