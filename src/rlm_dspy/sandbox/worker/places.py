"""Hide the host's paths of Python and of this package: they reveal user names and differ between machines.

Holds: no attribute of ``sys`` or of a module, and no file name of code or of a frame, reveals a path. Does not hold:
the raw memory of the process and the bytecode from the host still contain paths.
"""

from __future__ import annotations

import _frozen_importlib_external
import _imp
import gc
import sys
from types import FrameType, FunctionType, ModuleType
from typing import Any

external: Any = _frozen_importlib_external

_EMPTY = ("executable", "_base_executable", "_home", "_stdlib_dir", "pycache_prefix", "_framework")
_PREFIXES = ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix")
PREFIX = "/python"


def name_code() -> None:
    """Name all code loaded from now on after its module."""
    load = external.SourceLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        code = load(self, name)
        if code is not None:
            _imp._fix_co_filename(code, f"<{name}>")  # type: ignore[attr-defined]
        return code

    external.SourceLoader.get_code = get_code


def hide_paths() -> None:
    """Remove the paths from ``sys``, from all modules, and from code that is already loaded."""
    for name in _EMPTY:
        if getattr(sys, name, None):
            setattr(sys, name, "")
    for name in _PREFIXES:
        setattr(sys, name, PREFIX)
    sys.argv[:], sys.orig_argv[:] = [""], []
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            _hide_module(module)
    for function in gc.get_objects():
        if type(function) is FunctionType:
            _rename_code(function.__code__, function.__module__ or "python")
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        _rename_code(frame.f_code, "worker")
        frame = frame.f_back


def _rename_code(code: Any, module: str) -> None:
    if code.co_filename.startswith("/"):
        _imp._fix_co_filename(code, f"<{module}>")  # type: ignore[attr-defined]


def _hide_module(module: ModuleType) -> None:
    space = module.__dict__
    for name in ("__file__", "__cached__"):
        if space.get(name):
            space[name] = f"<{module.__name__}>"
    if "__path__" in space:
        space["__path__"] = []
    loaders: tuple[Any, ...] = (space.get("__loader__"), getattr(space.get("__spec__"), "loader", None))
    for loader in loaders:
        if hasattr(loader, "path") and hasattr(loader, "__dict__"):
            loader.path = f"<{loader.name}>"
    spec = space.get("__spec__")
    if spec is not None:
        spec.cached = None
        if str(spec.origin).startswith("/"):
            spec.origin, spec.has_location = None, False
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations = []
