"""Running one cell's source: compile, run, echo the last expression, tell errors in the cell's own terms."""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
import traceback
from typing import Any

from . import output

CELL = "<cell"
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
MAX_TRACEBACK = 8000
CO_COROUTINE = 0x80  # as in inspect, whose import takes longer than this cell

_TAME_CALLS = frozenset({"print", "len", "type", "peek", "grep", "search", "select", "isinstance", "dir"})
_TAME_NODES = (
    ast.Module,
    ast.Expr,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.Subscript,
    ast.Slice,
    ast.UnaryOp,
    ast.USub,
    ast.Not,
    ast.Tuple,
    ast.List,
    ast.Dict,
    ast.keyword,
    ast.JoinedStr,
    ast.FormattedValue,
    ast.Compare,
    ast.cmpop,
    ast.BoolOp,
    ast.boolop,
    ast.Call,
    ast.BinOp,
    ast.Add,
    ast.Sub,
)


def parse(source: str, number: int) -> ast.Module:
    """Parse a cell and remember its lines for tracebacks."""
    name = f"{CELL} {number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    tree: ast.Module = compile(source, name, "exec", FLAGS | ast.PyCF_ONLY_AST)
    return tree


def tame(tree: ast.Module) -> bool:
    """Tell whether the cell only looks at names, so that the state it leaves is the state it found."""
    for node in ast.walk(tree):
        if not isinstance(node, _TAME_NODES):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _TAME_CALLS):
            return False
    return True


def run(tree: ast.Module, namespace: dict[str, Any], number: int, flags: int) -> Any:
    """Run a parsed cell and return the value of its last expression, None if it ends in a statement."""
    name = f"{CELL} {number}>"
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    codes = []
    if tree.body:
        codes.append(compile(tree, name, "exec", FLAGS | flags, dont_inherit=True))
    if isinstance(last, ast.Expr):
        codes.append(compile(ast.Expression(last.value), name, "eval", FLAGS | flags, dont_inherit=True))
    if any(code.co_flags & CO_COROUTINE for code in codes):
        return _loop().run_until_complete(_awaited(codes, namespace))
    value = None
    for code in codes:
        value = eval(code, namespace)
    return value if isinstance(last, ast.Expr) else None


async def _awaited(codes: list[Any], namespace: dict[str, Any]) -> Any:
    """Run a cell that awaits, all of it inside the loop."""
    value = None
    for code in codes:
        value = eval(code, namespace)
        if code.co_flags & CO_COROUTINE:
            value = await value
    return value


_loops: list[Any] = []


def _loop() -> Any:
    """Return the session's event loop, made when the first cell awaits."""
    if not _loops or _loops[0].is_closed():
        import asyncio  # most sessions never await, and this import takes longer than all others together

        _loops[:] = [asyncio.new_event_loop()]
        asyncio.set_event_loop(_loops[0])
    return _loops[0]


def echo(value: Any, cap: int) -> str:
    """Return the repr of a cell's last value, without building one far longer than is shown."""
    if isinstance(value, str | bytes) and len(value) > 4 * cap:
        half = repr(value[: 2 * cap]), repr(value[-2 * cap :])
        return output.shorten(half[0], half[1], len(value), cap)
    return output.without_addresses(output.clip(repr(value), cap)[0])


def explain(error: BaseException) -> str:
    """Return the traceback of the model's own lines; never fails, whatever the exception does."""
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        _own_lines(told)
        return output.clip("".join(told.format()).strip(), MAX_TRACEBACK)[0]
    except BaseException:
        return f"{type(error).__name__}: (this exception cannot be shown)"


def _own_lines(told: Any, depth: int = 0) -> None:
    own = [frame for frame in told.stack if frame.filename.startswith(CELL)]
    told.stack[:] = own
    for linked in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        if linked is not None and depth < 20:
            _own_lines(linked, depth + 1)


def summary(error: BaseException) -> str:
    """Return ``TypeName: message`` of an exception, however odd."""
    try:
        return output.clip("".join(traceback.format_exception_only(type(error), error)).strip(), MAX_TRACEBACK)[0]
    except BaseException:
        return type(error).__name__


def drop_frames() -> None:
    """Forget the last exception, whose frames keep the cell's temporaries alive."""
    sys.last_value = sys.last_traceback = None


def error_class(name: str) -> type[Exception]:
    """Return the exception class that a tool's failure is raised as: a builtin one, or one of that name."""
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception) and known not in (StopIteration, StopAsyncIteration):
        if known in (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, BaseExceptionGroup, ExceptionGroup):
            return ValueError
        return known
    if not name.isidentifier():
        name = "ToolError"
    return type(name, (RuntimeError,), {"__module__": "__main__"})
