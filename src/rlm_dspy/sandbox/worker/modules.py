"""Which modules a cell may import, and what it is told about the others.

This is a courtesy, not a boundary: it turns a hopeless ``import os`` into a clear message at once.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable
from typing import Any

_ALLOWED = """
    __future__ abc array ast asyncio base64 binascii bisect builtins bz2 calendar cmath collections colorsys
    concurrent configparser contextlib contextvars copy copyreg csv dataclasses datetime decimal difflib email
    encodings enum errno fnmatch fractions functools gc graphlib gzip hashlib heapq hmac html inspect io
    itertools json keyword linecache locale logging lzma math numbers operator pathlib pickle posixpath pprint
    queue quopri random re re2 reprlib secrets shlex statistics string stringprep struct sys textwrap threading
    time token tokenize tomllib traceback types typing unicodedata urllib uuid warnings weakref xml zlib
"""
ALLOWED = frozenset(_ALLOWED.split())

# Loaded before the lock-down, because nothing can be loaded after it.
_PRELOADED = """
    re json math collections collections.abc itertools functools operator string textwrap datetime random re2
    statistics dataclasses typing enum heapq bisect io traceback linecache copy time types contextlib threading
    abc array ast asyncio base64 binascii bz2 calendar cmath colorsys concurrent.futures
    concurrent.futures.thread configparser contextvars copyreg csv decimal difflib email.message email.parser
    email.policy encodings.ascii encodings.idna encodings.latin_1 encodings.raw_unicode_escape
    encodings.unicode_escape encodings.utf_16 encodings.utf_16_be encodings.utf_16_le encodings.utf_32
    encodings.utf_32_be encodings.utf_32_le encodings.utf_8_sig encodings.cp1252 encodings.punycode errno
    fnmatch fractions gc graphlib gzip hashlib hmac html html.entities html.parser inspect keyword locale
    logging lzma numbers pathlib pickle pprint queue quopri reprlib secrets shlex stringprep struct token
    tokenize tomllib unicodedata urllib.parse uuid warnings weakref xml.etree.ElementTree zlib _strptime
"""
PRELOADED = tuple(_PRELOADED.split())

REFUSED = "is not allowed in this sandbox"
ADVICE = {
    "os": "There are no files, processes or environment here; the inputs are variables.",
    "subprocess": "No process can be started here.",
    "socket": "There is no network here; use the functions that were given to you.",
    "requests": "There is no network here; use the functions that were given to you.",
}

_HOPELESS = {
    "open": "open() is not allowed in this sandbox: there are no files here; the inputs are variables.",
    "input": "input() is not allowed in this sandbox: nobody can type an answer.",
    "breakpoint": "breakpoint() is not allowed in this sandbox: there is no debugger.",
    "help": "help() is not allowed in this sandbox; print(x.__doc__) instead.",
}


class NotAllowedError(PermissionError):
    """What was asked for does not exist inside the sandbox."""


NotAllowedError.__name__ = NotAllowedError.__qualname__ = "PermissionError"


def refusal(module: str) -> str:
    """Return what the model is told about a module it cannot have."""
    root = module.partition(".")[0]
    advice = ADVICE.get(root) or f"Available: {', '.join(sorted(ALLOWED - {'builtins', 'copyreg', 'token'}))}."
    return f"import of {root!r} {REFUSED}. {advice}"


def guarded_builtins(extra: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the builtins a cell sees."""
    names = dict(vars(builtins))
    original = builtins.__import__

    def __import__(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and not _may_import(name.partition(".")[0], extra):
            raise ImportError(refusal(name), name=name)
        return original(name, globals, locals, fromlist, level)

    names["__import__"] = __import__
    for name, text in _HOPELESS.items():
        names[name] = _hopeless(name, text)
    names["exit"] = names["quit"] = _leave
    for name in ("copyright", "credits", "license"):
        names.pop(name, None)
    return names


_ours = frozenset(name.partition(".")[0] for name in sys.modules)


def remember() -> None:
    """Note what is loaded before any cell runs; what a cell itself puts into ``sys.modules`` it may import."""
    global _ours
    _ours = frozenset(name.partition(".")[0] for name in sys.modules)


def _may_import(root: str, extra: frozenset[str]) -> bool:
    if root in ALLOWED or root in extra or root.startswith("_"):
        return True
    return root in sys.modules and root not in _ours


def _hopeless(name: str, text: str) -> Callable[..., None]:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise NotAllowedError(text)

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def _leave(code: Any = None) -> None:
    raise SystemExit(code)


def hopeless(tree: ast.Module, namespace: dict[str, Any], extra: frozenset[str] = frozenset()) -> str | None:
    """Return why this cell cannot work: an unconditional statement asks for what does not exist here."""
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for root in _roots(statement):
                if not _may_import(root, extra):
                    return f"ImportError: {refusal(root)}"
        elif isinstance(statement, ast.Expr | ast.Assign) and isinstance(statement.value, ast.Call):
            function = statement.value.func
            if isinstance(function, ast.Name) and function.id in _HOPELESS and function.id not in namespace:
                return f"PermissionError: {_HOPELESS[function.id]}"
    return None


def _roots(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.ImportFrom):
        return [] if statement.level else [(statement.module or "").partition(".")[0]]
    return [alias.name.partition(".")[0] for alias in statement.names]
