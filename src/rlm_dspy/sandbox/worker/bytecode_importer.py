"""Import modules on demand from bytecode in memory.

Finding and reading a file takes longer than running the module, and nothing can be read after the lock-down. So
the host sends all bytecode at the start, and modules run on demand or while the zygote is idle.
"""

import marshal
from _frozen_importlib import ModuleSpec
from _imp import _fix_co_filename  # type: ignore[attr-defined]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


class BytecodeImporter:
    """A finder and loader for modules added as bytecode."""

    def __init__(self) -> None:
        self.compiled: dict[str, tuple[memoryview, bool]] = {}
        self.after: dict[str, Callable[[], None]] = {}

    def __repr__(self) -> str:
        return "<library>"

    def add(self, index: "dict[str, tuple[int, int, bool]]", codes: memoryview) -> None:
        """Add modules: where the code of each one is, and whether it is a package."""
        for name, (start, stop, package) in index.items():
            self.compiled[name] = (codes[start:stop], package)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module, or None if it was not added."""
        if name not in self.compiled:
            return None
        return ModuleSpec(name, self, is_package=self.compiled[name][1])  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make the module."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's bytecode."""
        code = marshal.loads(self.compiled[module.__name__][0])
        _fix_co_filename(code, f"<{module.__name__}>")  # instead of the host's path
        exec(code, module.__dict__)
        action = self.after.get(module.__name__)
        if action is not None:
            action()
