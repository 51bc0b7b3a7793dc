"""A kernel of Jupyter whose loop is rloop's: `python -m rloop.contrib.jupyter install`.

The kernel is ipykernel, which `python -m rloop` starts. So whatever a notebook awaits runs on rloop. rloop itself never
imports this.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

NAME = "rloop"


def spec() -> dict[str, object]:
    """What Jupyter is told of the kernel: how this Python starts it, and its name in menus."""
    return {
        "argv": [sys.executable, "-m", "rloop", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (rloop)",
        "language": "python",
        "metadata": {"debugger": True},
    }


def install(prefix: str | None = None) -> str:
    """Install the kernel for the user or, with `prefix`, below that folder. Return the folder that it is in.

    Raises an ImportError if jupyter-client is not installed, and an OSError if the folder cannot be written.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.json").write_text(json.dumps(spec(), indent=1))
        return str(KernelSpecManager().install_kernel_spec(folder, NAME, user=prefix is None, prefix=prefix))


def main(arguments: Sequence[str]) -> int:
    reader = argparse.ArgumentParser("python -m rloop.contrib.jupyter", description="A Jupyter kernel on rloop's loop.")
    reader.add_argument("command", choices=["install"])
    where = reader.add_mutually_exclusive_group()
    where.add_argument("--prefix", help="install it below this folder, instead of for the user")
    where.add_argument("--sys-prefix", action="store_true", help="install it into the environment of this Python")
    options = reader.parse_args(arguments)
    print(f"installed in {install(sys.prefix if options.sys_prefix else options.prefix)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
