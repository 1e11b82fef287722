"""Standard-library modules kept as bytecode in memory, imported only by sessions that ask for them.

Reading a file takes microseconds, running a module milliseconds, and nothing can be read after the lock-down: so
the bytes are fetched before it and run after it, on demand or while the zygote has nothing else to do.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER
from types import ModuleType

HEADER = 16


class Shelf:
    """A finder and loader of the modules that were put on it."""

    def __init__(self) -> None:
        self.books: dict[str, tuple[bytes, bool]] = {}
        self.after: dict[str, Callable[[], None]] = {}

    def fill(self, library: str, names: list[str]) -> list[str]:
        """Take up the modules and packages called ``names``; return those without usable bytecode."""
        missing = []
        for name in names:
            folder = os.path.join(library, name)
            if os.path.isdir(folder):
                missing += self._fill_package(folder, name)
            elif not self._take(library, name, name, package=False):
                missing.append(name)
        return missing

    def _fill_package(self, folder: str, name: str) -> list[str]:
        if not self._take(folder, "__init__", name, package=True):
            return [name]
        for entry in sorted(os.listdir(folder)):
            stem, extension = os.path.splitext(entry)
            inner = os.path.join(folder, entry)
            if extension == ".py" and stem not in ("__init__", "__main__"):
                self._take(folder, stem, f"{name}.{stem}", package=False)
            elif os.path.isfile(os.path.join(inner, "__init__.py")):
                self._fill_package(inner, f"{name}.{entry}")
        return []

    def _take(self, folder: str, stem: str, name: str, *, package: bool) -> bool:
        path = os.path.join(folder, "__pycache__", f"{stem}.{sys.implementation.cache_tag}.pyc")
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return False
        if data[:4] != MAGIC_NUMBER:
            return False
        self.books[name] = (data, package)
        return True

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module on the shelf."""
        if name not in self.books:
            return None
        return ModuleSpec(name, self, is_package=self.books[name][1])  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's bytecode."""
        exec(marshal.loads(memoryview(self.books[module.__name__][0])[HEADER:]), module.__dict__)
        action = self.after.get(module.__name__)
        if action is not None:
            action()
