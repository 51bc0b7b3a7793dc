"""Where `python -m rloop.contrib.jupyter install` puts the kernel. That it runs is shown by test_snippets.py."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
pytest.importorskip("jupyter_client")


def test_install(tmp_path):
    command = [sys.executable, "-m", "rloop.contrib.jupyter", "install", "--prefix", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=True)
    folder = tmp_path / "share" / "jupyter" / "kernels" / "rloop"
    assert done.stdout == f"installed in {folder}\n"
    kernel = json.loads((folder / "kernel.json").read_text())
    assert kernel["argv"] == [sys.executable, "-m", "rloop", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert (kernel["language"], kernel["display_name"]) == ("python", "Python 3 (rloop)")
