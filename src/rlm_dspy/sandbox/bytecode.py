"""The modules a zygote may import, read by the host as bytecode while the zygote's interpreter is still starting.

They are sent in two sealed files, so that nothing waits for the second: the length of the index (8 bytes,
little-endian), the index (``marshal``: module name to start, stop and whether it is a package), then the code objects.
The zygote maps the files and searches no folder.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from .worker import modules

HEADER = 16

CompiledModules = dict[str, tuple[bytes, bool]]


def early_bytecode(folder: Path) -> Iterator[bytes]:
    """Yield the file of modules the zygote starts with; ``folder`` holds the worker and the toolkit."""
    return _file_chunks(_own_modules(folder) | _library_modules(modules.EARLY))


def late_bytecode() -> Iterator[bytes]:
    """Yield the file of modules that sessions may import."""
    return _file_chunks(_library_modules(modules.SHELVED))


def _file_chunks(compiled: CompiledModules) -> Iterator[bytes]:
    index, at = {}, 0
    for name, (code, package) in compiled.items():
        index[name] = (at, at + len(code), package)
        at += len(code)
    head = marshal.dumps(index)
    yield len(head).to_bytes(8, "little") + head
    yield from (code for code, _ in compiled.values())


@lru_cache(maxsize=1)
def _own_modules(folder: Path) -> CompiledModules:
    """Return the worker's own modules, recompiled if their sources changed."""
    compiled = {}
    for root, name in (("worker", "rlm_worker"), ("toolkit", "toolkit")):
        for path in (folder / root).glob("*.py"):
            package = path.stem == "__init__"
            code = SourceFileLoader(path.stem, str(path)).get_code(path.stem)
            compiled[name if package else f"{name}.{path.stem}"] = (marshal.dumps(code), package)
    return compiled


def _library_modules(names: Iterable[str]) -> CompiledModules:
    """Return the cached bytecode of standard library modules; the zygote imports the rest from its folder."""
    compiled: CompiledModules = {}
    library = os.path.dirname(os.__file__)
    for name in names:
        path = os.path.join(library, *name.split("."))
        if os.path.isdir(path):
            _add_package(compiled, path, name)
        else:
            _add_module(compiled, path, name)
    return compiled


def _add_package(compiled: CompiledModules, folder: str, name: str) -> None:
    if not _add_module(compiled, os.path.join(folder, "__init__"), name, package=True):
        return
    for entry in sorted(os.listdir(folder)):
        stem, extension = os.path.splitext(entry)
        inner = os.path.join(folder, stem)
        if extension == ".py" and stem not in ("__init__", "__main__"):
            _add_module(compiled, inner, f"{name}.{stem}")
        elif not extension and entry != "test" and os.path.isfile(os.path.join(inner, "__init__.py")):
            _add_package(compiled, inner, f"{name}.{entry}")


def _add_module(compiled: CompiledModules, path: str, name: str, *, package: bool = False) -> bool:
    folder, stem = os.path.split(path)
    try:
        with open(os.path.join(folder, "__pycache__", f"{stem}.{sys.implementation.cache_tag}.pyc"), "rb") as file:
            data = file.read()
    except OSError:
        return False
    if data[:4] != MAGIC_NUMBER:
        return False
    compiled[name] = (data[HEADER:], package)
    return True
