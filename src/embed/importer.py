"""Finds the package rloop in the program that hosts this interpreter: the files that were compiled into it.

Run once by package.rs, with `sources` ({module name: (file name, text)}), `native` (the module `rloop._rloop`) and
`executable` (the path of the program).
"""

import importlib.machinery
import sys


class Importer:
    """A finder and loader (`importlib.abc.MetaPathFinder`, `InspectLoader`) in front of all others.

    So a wheel of another version that is installed as well is not seen, and none of its files is mixed in.
    """

    def find_spec(self, name, path=None, target=None):
        if name == "rloop._rloop":
            return importlib.machinery.ModuleSpec(name, self, origin=executable)
        if name not in sources:
            if name.startswith("rloop."):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=self._place(name), is_package=self.is_package(name))
        # For `__file__`, by which `inspect` finds the source. As with zipimport, it names no file that can be opened.
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return native if spec.name == "rloop._rloop" else None

    def exec_module(self, module):
        # The native module has run its own start when it was made.
        if module is not native:
            exec(self.get_code(module.__name__), module.__dict__)

    def is_package(self, name):
        return name == "rloop"

    def get_code(self, name):
        return None if name == "rloop._rloop" else compile(sources[name][1], self._place(name), "exec", dont_inherit=True)

    def get_source(self, name):
        """The text, by which tracebacks show the lines (`linecache`)."""
        return sources[name][1] if name in sources else None

    def _place(self, name):
        return f"<rloop in {executable}>/{sources[name][0]}"


sys.meta_path.insert(0, Importer())
