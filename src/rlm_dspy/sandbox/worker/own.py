"""The worker's own references to the standard library, unaffected by a cell's changes to its modules.

Holds: a cell that sets or deletes names of ``json``, ``ast``, ``threading`` or ``os`` changes them for itself and later
cells, not for the worker; ``builtins`` and the finders of modules are restored. Does not hold: against code that
changes the worker's own objects, which ends the session.
"""

from __future__ import annotations

import ast as _ast
import builtins
import json
import sys
from collections import deque
from collections.abc import Iterator
from json import encoder
from types import SimpleNamespace
from typing import Any

ast: Any = SimpleNamespace(**vars(_ast))

_SYSTEM = ("modules", "meta_path", "path", "path_hooks", "path_importer_cache", "exc_info", "_getframe")
_builtins, _standard = vars(builtins), dict(vars(builtins))
_sys, _system = vars(sys), {name: vars(sys)[name] for name in _SYSTEM}
_finders = {name: (vars(sys)[name], tuple(vars(sys)[name])) for name in ("meta_path", "path_hooks")}
_scan: Any = vars(json.JSONDecoder())["scan_once"]


def _no_json(value: object) -> None:
    raise TypeError(f"a {type(value).__name__} is not JSON serializable")


_make: Any = vars(encoder)["c_make_encoder"]
if _make is not None:  # neither this nor the scanner runs any Python code
    _chunks = _make(None, _no_json, encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
else:
    _chunks = json.JSONEncoder(check_circular=False, separators=(",", ":")).iterencode


def dumps(value: Any) -> str:
    """Return a value without cycles as JSON."""
    return "".join(_chunks(value, 0))


def loads(text: str | bytes) -> Any:
    """Parse compact JSON from the host, which is trusted and needs no more checks."""
    return _scan(text.decode() if isinstance(text, bytes) else text, 0)[0]


def walk(node: Any) -> Iterator[Any]:
    """Yield a syntax tree's nodes, like ``ast.walk``."""
    todo = deque([node])
    while todo:
        node = todo.popleft()
        for name in node._fields:
            part = getattr(node, name, None)
            if isinstance(part, list):
                todo.extend(item for item in part if hasattr(item, "_fields"))
            elif hasattr(part, "_fields"):
                todo.append(part)
        yield node


def restore_system() -> None:
    """Restore the names and the finders of modules that the worker depends on, without using them."""
    _builtins.update(_standard)
    _sys.update(_system)
    for finders, standard in _finders.values():
        for finder in standard:
            if not any(present is finder for present in finders):
                finders.append(finder)
