"""Makes rloop the loop of this process: what `python -m rloop` does to the program that it starts.

`_launch.py` writes the wishes into the environment, and `_site/sitecustomize.py` calls `begin()` when a Python starts.
This runs in every child Python, so nothing is imported here before the program needs it: neither asyncio nor rloop.
Reading the command line is not done here.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

# The wishes, separated by commas: "loop" (rloop is the loop), "uvloop" (and is found under that name, too), and
# "once" (child processes do not inherit the wishes).
VARIABLE = "RLOOP_LAUNCHER"

PACKAGE = os.path.dirname(os.path.abspath(__file__))
SITE = os.path.join(PACKAGE, "_site")

# `uvloop.__version__` of the module that `--as-uvloop` makes: the version of uvloop whose names it has. Programs
# compare it with the one that they need. rloop's own version is added to it.
UVLOOP = "0.22.1"


def begin() -> None:
    """Do what the environment asks for. Called once, before the program runs."""
    wishes = os.environ.get(VARIABLE, "").split(",")
    if "once" in wishes:
        forget(os.environ)
    if "loop" not in wishes or not is_importable(None):
        return
    actions: dict[str, Callable[[ModuleType], None]] = {}
    if "asyncio" in sys.modules:
        switch_asyncio(sys.modules["asyncio"])
    else:
        actions["asyncio"] = switch_asyncio
    if "uvloop" in wishes:
        sys.meta_path.insert(0, _UvloopFinder())
    if actions:
        sys.meta_path.insert(0, _AfterImport(actions))


def is_importable(path: list[str] | None) -> bool:
    """Whether `import rloop` finds this package on `path`, or on `sys.path` if that is None.

    A child may be another Python, which has no rloop or another one. It keeps the loop of asyncio.
    """
    try:
        if path is None:
            spec = importlib.util.find_spec("rloop")
        else:
            spec = importlib.machinery.PathFinder.find_spec("rloop", path)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and os.path.samefile(os.path.dirname(spec.origin), PACKAGE)


def forget(environ: Any) -> None:
    """Take the wishes out of an environment, so that child processes do not inherit them."""
    environ.pop(VARIABLE, None)
    if "PYTHONPATH" in environ:
        rest = [entry for entry in environ["PYTHONPATH"].split(os.pathsep) if entry != SITE]
        if any(rest):
            environ["PYTHONPATH"] = os.pathsep.join(rest)
        else:
            del environ["PYTHONPATH"]


# -------------------------------------------------------------------------------------------- asyncio


def _new_event_loop() -> asyncio.AbstractEventLoop:
    import rloop

    return rloop.new_event_loop()


def switch_asyncio(asyncio: Any) -> None:
    """Make rloop's loop the one that `asyncio.run`, `asyncio.Runner` and `asyncio.new_event_loop` make by default.

    asyncio's default policy makes the loop where nobody names one. The factory in it is replaced, not the policy:
    setting a policy is deprecated from Python 3.14 on, and a program that sets asyncio's own default policy has no
    wish for another loop either.
    """
    events = asyncio.unix_events
    policy = getattr(events, "_DefaultEventLoopPolicy", None) or asyncio.DefaultEventLoopPolicy
    policy._loop_factory = staticmethod(_new_event_loop)
    own = asyncio.SelectorEventLoop
    init = asyncio.Runner.__init__

    # A loop factory that is asyncio's own class is what a program passes that has no wish, as uvicorn does.
    @functools.wraps(init)
    def __init__(self: Any, *, debug: bool | None = None, loop_factory: Any = None) -> None:
        init(self, debug=debug, loop_factory=_new_event_loop if loop_factory is own else loop_factory)

    asyncio.Runner.__init__ = __init__


# ---------------------------------------------------------------------------------------- imports


class _AfterImport:
    """A finder in `sys.meta_path`, which calls a function with a module once that has been imported."""

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._actions = actions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        action = self._actions.get(name)
        if action is None:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        loader: Any = spec and spec.loader
        if loader is None:
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            # Not before this: an import that fails is tried again.
            del loader.exec_module
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            action(module)

        loader.exec_module = exec_module
        return spec


class _UvloopFinder:
    """A finder in `sys.meta_path` for `uvloop` and `uvloop.loop`: modules with the names of rloop's."""

    NAMES = ("uvloop", "uvloop.loop")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self.NAMES:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=name == "uvloop")  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        import rloop

        module.Loop = rloop.Loop
        if module.__name__ == "uvloop":
            module.new_event_loop, module.run = rloop.new_event_loop, rloop.run
            module.__version__ = f"{UVLOOP}+rloop.{rloop.__version__}"
            module.__all__ = ["Loop", "new_event_loop", "run"]
            if sys.version_info < (3, 16):
                module.EventLoopPolicy, module.install = rloop.EventLoopPolicy, rloop.install
                module.__all__ += ["EventLoopPolicy", "install"]
            importlib.import_module("uvloop.loop")
