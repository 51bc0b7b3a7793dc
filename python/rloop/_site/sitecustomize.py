"""Makes rloop the loop of a Python that `python -m rloop` has started, then runs the user's own `sitecustomize`.

`python -m rloop` puts this folder on PYTHONPATH, so every child Python finds this file. Some of them may be too old for
rloop: this file is written in what every Python understands. The work is in `_switch.py`; nothing else may be in this
folder.
"""

import os
import sys


def _switch_over(package):
    # type: (str) -> None
    import importlib.util

    # By its path: importing the package `rloop` would import asyncio, which this Python may never need.
    spec = importlib.util.spec_from_file_location("rloop._switch", os.path.join(package, "_switch.py"))
    assert spec is not None and spec.loader is not None
    switch = sys.modules["rloop._switch"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(switch)
    switch.begin()


if __name__ == "sitecustomize":
    _folder = os.path.dirname(os.path.abspath(__file__))
    # Without this folder, `sys.path` is what it would be without rloop, and the import below finds the user's module.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _folder]
    try:
        if sys.version_info >= (3, 11):  # noqa: UP036
            _switch_over(os.path.dirname(_folder))
    finally:
        # If the user has none, this raises ImportError, as Python expects of a `sitecustomize` that is not there.
        del sys.modules["sitecustomize"]
        __import__("sitecustomize")
