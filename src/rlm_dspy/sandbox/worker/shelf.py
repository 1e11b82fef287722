"""Modules kept as bytecode in memory, imported when they are asked for.

Finding and reading a file takes longer than running what is in it, and nothing can be read after the lock-down: so
the host hands all bytes over at the start, and modules run on demand or while the zygote has nothing else to do.
"""

import marshal
from _frozen_importlib import ModuleSpec
from _imp import _fix_co_filename  # type: ignore[attr-defined]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


class BytecodeImporter:
    """A finder and loader of the modules that were put on it."""

    def __init__(self) -> None:
        self.books: dict[str, tuple[memoryview, bool]] = {}
        self.after: dict[str, Callable[[], None]] = {}

    def __repr__(self) -> str:
        return "<library>"

    def add(self, index: "dict[str, tuple[int, int, bool]]", codes: memoryview) -> None:
        """Put modules on the shelf: where each one's code is, and whether it is a package."""
        for name, (start, stop, package) in index.items():
            self.books[name] = (codes[start:stop], package)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module on the shelf."""
        if name not in self.books:
            return None
        return ModuleSpec(name, self, is_package=self.books[name][1])  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system to make the module."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's bytecode."""
        code = marshal.loads(self.books[module.__name__][0])
        _fix_co_filename(code, f"<{module.__name__}>")  # instead of the host's path
        exec(code, module.__dict__)
        action = self.after.get(module.__name__)
        if action is not None:
            action()
