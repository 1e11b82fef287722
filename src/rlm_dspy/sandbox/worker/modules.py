"""The modules a cell may import, and the messages for all others.

This is a convenience, not a boundary: it turns a hopeless ``import os`` into a clear message.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import own

if TYPE_CHECKING:
    import ast
else:
    ast = own.ast

_ALLOWED = """
    __future__ abc array ast asyncio base64 binascii bisect builtins bz2 calendar cmath collections colorsys
    concurrent configparser contextlib contextvars copy copyreg csv dataclasses datetime decimal difflib email
    encodings enum errno fnmatch fractions functools gc graphlib gzip hashlib heapq hmac html inspect io itertools
    json keyword linecache locale logging lzma math numbers operator pathlib pickle posixpath pprint queue quopri
    random re re2 reprlib secrets shlex statistics string stringprep struct sys textwrap threading time token
    tokenize tomllib traceback types typing unicodedata urllib uuid warnings weakref xml zlib
"""
ALLOWED = frozenset(_ALLOWED.split())

# Loaded before the lock-down: modules nearly every session uses, and C extensions, which cannot be loaded later.
_PRELOADED = """
    re json math collections collections.abc itertools functools operator datetime heapq bisect io random time types
    contextlib threading enum copy array binascii cmath unicodedata zlib copyreg keyword errno _decimal _contextvars
    _posixsubprocess _pickle _csv _bz2 _lzma pyexpat _statistics _queue _uuid _opcode _md5 _sha1 _sha2 _sha256 _sha512
    _sha3 _blake2 encodings.ascii encodings.latin_1 encodings.raw_unicode_escape encodings.unicode_escape
    encodings.utf_16 encodings.utf_16_be encodings.utf_16_le encodings.utf_32 encodings.utf_32_be encodings.utf_32_le
    encodings.utf_8_sig encodings.cp1252 encodings.charmap encodings.hex_codec encodings.rot_13
"""
PRELOADED = tuple(_PRELOADED.split())

# Sent as bytecode: first the modules the zygote needs, then single modules and whole packages for sessions.
_EARLY = """
    __future__ _weakrefset ast ctypes csv decimal difflib fnmatch linecache numbers reprlib struct textwrap token
    tokenize traceback typing warnings weakref
"""
EARLY = (*_EARLY.split(), *PRELOADED)
_SHELVED = """
    abc asyncio base64 bz2 calendar codeop colorsys concurrent configparser contextvars dataclasses dis email
    encodings.idna encodings.punycode fractions getopt gettext glob graphlib gzip hashlib hmac html importlib inspect
    ipaddress locale logging lzma ntpath nturl2path opcode pathlib pickle pickletools platform posixpath pprint queue
    quopri secrets selectors shlex signal socket sre_compile sre_constants sre_parse statistics string stringprep
    subprocess symtable tomllib tty urllib uu uuid xml _bootlocale _compat_pickle _compression _markupbase
    _opcode_metadata _colorize _py_abc _strptime _threading_local annotationlib compression
"""
SHELVED = tuple(_SHELVED.split())

# Imported in advance by an idle zygote for later sessions.
_WARMED = """
    typing traceback linecache textwrap string dataclasses statistics inspect decimal fractions csv calendar hashlib
    difflib pprint asyncio concurrent.futures.thread logging base64 uuid html urllib.parse _strptime
"""
WARMED = tuple(_WARMED.split())

REFUSED = "is not allowed in this sandbox"
LOADABLE = frozenset({"numpy", "pandas", "scipy", "sklearn", "polars", "pyarrow"})  # modules that the caller may load
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
    """The requested module or function does not exist inside the sandbox."""


NotAllowedError.__name__ = NotAllowedError.__qualname__ = "PermissionError"


def import_refusal(module: str) -> str:
    """Return the message to the model about a module it cannot import."""
    root = module.partition(".")[0]
    advice = ADVICE.get(root) or f"Available: {', '.join(sorted(ALLOWED - {'builtins', 'copyreg', 'token'}))}."
    if root in LOADABLE:
        advice = f"The caller can have it loaded: Sandbox(modules=({root!r},)). {advice}"
    return f"import of {root!r} {REFUSED}. {advice}"


def guarded_builtins(extra: frozenset[str]) -> dict[str, Any]:
    """Return the builtins for cells."""
    names = dict(vars(builtins))
    original = builtins.__import__

    def __import__(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and not _may_import(name.partition(".")[0], extra):
            raise ImportError(import_refusal(name), name=name)
        return original(name, globals, locals, fromlist, level)

    names["__import__"] = __import__
    for name, text in _HOPELESS.items():
        names[name] = _refusing_function(name, text)
    names["exit"] = names["quit"] = _exit_cell
    for name in ("copyright", "credits", "license"):
        names.pop(name, None)
    return names


_ours: frozenset[str] = frozenset()
_loaded: dict[str, Any] = {}


def remember_loaded() -> None:
    """Record the modules loaded before any cell runs; a cell may import what it adds to ``sys.modules`` itself."""
    global _ours
    _ours = frozenset(name.partition(".")[0] for name in sys.modules)
    _loaded.update(sys.modules)


def restore_modules() -> None:
    """Restore the modules that a cell removed."""
    if len(sys.modules) < len(_loaded):
        sys.modules.update(_loaded)


def restore_builtins(namespace: dict[str, Any], ours: dict[str, Any]) -> None:
    """Restore the builtins that a cell removed."""
    theirs = namespace.get("__builtins__")
    if type(theirs) is not dict:
        namespace["__builtins__"] = dict(ours)
    elif not ours.keys() <= theirs.keys():
        theirs.update({name: value for name, value in ours.items() if name not in theirs})


def _may_import(root: str, extra: frozenset[str]) -> bool:
    if root in ALLOWED or root in extra or root.startswith("_"):
        return True
    return root in sys.modules and root not in _ours


def _refusing_function(name: str, text: str) -> Callable[..., None]:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise NotAllowedError(text)

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def _exit_cell(code: Any = None) -> None:
    raise SystemExit(code)


def hopeless_reason(tree: ast.Module, namespace: dict[str, Any], extra: frozenset[str]) -> str | None:
    """Return why this cell cannot work, if an unconditional statement needs something that does not exist here."""
    own = set(namespace)
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for root in _imported_roots(statement):
                if not _may_import(root, extra) and "sys" not in own:  # a cell with sys may add modules
                    return f"ImportError: {import_refusal(root)}"
        elif isinstance(statement, ast.Expr | ast.Assign) and isinstance(statement.value, ast.Call):
            function = statement.value.func
            if isinstance(function, ast.Name) and function.id in _HOPELESS and function.id not in own:
                return f"PermissionError: {_HOPELESS[function.id]}"
        if statement is not tree.body[-1]:
            own |= _bound_names(statement)
    return None


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement may bind."""
    names = set()
    for node in own.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names


def _imported_roots(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.ImportFrom):
        if statement.level:
            return []
        return [(statement.module or "").partition(".")[0]]
    return [alias.name.partition(".")[0] for alias in statement.names]
