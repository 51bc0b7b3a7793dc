"""Makes rloop the loop of a Python that `python -m rloop` has started, then runs the user's own `sitecustomize`.

`python -m rloop` puts this folder on PYTHONPATH, so every child Python finds this file. Some of them may be too old for
rloop: this file is written in what every Python understands. The work is in `_switch.py`; nothing else may be in this
folder.
"""

import os
import sys

_folder = os.path.dirname(os.path.abspath(__file__))
# Without this folder, `sys.path` is what it would be without rloop, and the import below finds the user's module.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _folder]
try:
    if sys.version_info >= (3, 11):  # noqa: UP036
        import importlib.util

        # By its path: importing the package `rloop` would import asyncio, which this Python may never need.
        _path = os.path.join(os.path.dirname(_folder), "_switch.py")
        _spec = importlib.util.spec_from_file_location("rloop._switch", _path)
        assert _spec is not None and _spec.loader is not None
        _switch = sys.modules["rloop._switch"] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(_switch)
        _switch.begin()
finally:
    # If the user has none, this raises ImportError, as Python expects of a `sitecustomize` that is not there.
    del sys.modules["sitecustomize"]
    import sitecustomize  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
