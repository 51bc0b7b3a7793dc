"""Finds the package rloop in the program that hosts this interpreter: the files that were compiled into it.

package.rs calls `install` once.
"""

import importlib.machinery
import sys

NATIVE = "rloop._rloop"


class Importer:
    """A finder and loader (`importlib.abc.MetaPathFinder`, `InspectLoader`) in front of all others.

    So a wheel of another version that is installed as well is not seen, and none of its files is mixed in.
    """

    def __init__(self, sources, native, executable):
        # {module name: (file name, text)}
        self._sources = sources
        # The module `rloop._rloop`.
        self._native = native
        # The path of the program.
        self._executable = executable

    def find_spec(self, name, path=None, target=None):
        if name == NATIVE:
            return importlib.machinery.ModuleSpec(name, self, origin=self._executable)
        if name not in self._sources:
            if name.startswith("rloop."):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=self._place(name), is_package=self.is_package(name))
        # For `__file__`, by which `inspect` finds the source. As with zipimport, it names no file that can be opened.
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return self._native if spec.name == NATIVE else None

    def exec_module(self, module):
        # The native module has run its own start when it was made.
        if module is not self._native:
            exec(self.get_code(module.__name__), module.__dict__)

    def is_package(self, name):
        return name == "rloop"

    def get_code(self, name):
        source = self.get_source(name)
        return source and compile(source, self._place(name), "exec", dont_inherit=True)

    def get_source(self, name):
        """The text, by which tracebacks show the lines (`linecache`)."""
        return self._sources[name][1] if name in self._sources else None

    def _place(self, name):
        return f"<rloop in {self._executable}>/{self._sources[name][0]}"


def install(sources, native, executable):
    sys.meta_path.insert(0, Importer(sources, native, executable))
