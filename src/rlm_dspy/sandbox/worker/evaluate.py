"""Run one cell's source: compile, run, echo the last expression, report errors in terms of the cell's lines."""

from __future__ import annotations

import builtins
import re
import sys
from collections import Counter
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any

from . import output, own

if TYPE_CHECKING:
    import ast
else:
    ast = own.ast

CELL = "<cell"
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
MAX_TRACEBACK = 8000
CO_COROUTINE = 0x80  # as in inspect, which takes longer to import than most cells to run
CANCELS, CANCEL_SECONDS = 3, 0.1

_READ_ONLY_CALLS = {name: getattr(builtins, name) for name in ("print", "len", "type", "isinstance", "dir")}
_PLAIN = frozenset(
    {str, bytes, int, float, bool, complex, list, tuple, dict, Counter, set, frozenset, range, re.Pattern, re.Match}
    | {NoneType, type, FunctionType, BuiltinFunctionType, MethodType, ModuleType}
)
_READ_ONLY_NODES = frozenset(
    {ast.Module, ast.Expr, ast.Constant, ast.Name, ast.Load, ast.Subscript, ast.Slice, ast.UnaryOp, ast.USub, ast.Not}
    | {ast.Tuple, ast.List, ast.Dict, ast.keyword, ast.JoinedStr, ast.FormattedValue, ast.Call, ast.BinOp, ast.Add}
    | {ast.Sub, ast.Compare, *ast.cmpop.__subclasses__(), ast.BoolOp, *ast.boolop.__subclasses__()}
)


_lines: dict[str, tuple[int, None, list[str], str]] = {}  # lines of the cells in linecache's format


def remember_lines() -> None:
    """Add the lines of all cells to the newly imported ``linecache``."""
    sys.modules["linecache"].cache.update(_lines)


def parse_cell(source: str, number: int) -> ast.Module:
    """Parse a cell and remember its lines for tracebacks."""
    name = f"{CELL} {number}>"
    _lines[name] = (len(source), None, source.splitlines(keepends=True), name)
    cache = getattr(sys.modules.get("linecache"), "cache", None)
    if type(cache) is dict:
        cache[name] = _lines[name]
    tree: ast.Module = compile(source, name, "exec", FLAGS | ast.PyCF_ONLY_AST)
    return tree


class ReadOnlyCheck:
    """Decides whether a cell is read-only, so that it leaves the session's state unchanged.

    Names must be bound to values of plain types or to the known functions, and subscripts must be of plain
    containers. A ``__repr__`` or ``__eq__`` of their items that changes state goes unnoticed.
    """

    def __init__(self, namespace: dict[str, Any], toolkit: Any) -> None:
        tools = () if toolkit is None else ("peek", "grep", "search", "select")
        texts = () if toolkit is None else (toolkit.CorpusTexts, toolkit.Hit, toolkit.Matches)
        self.namespace = namespace
        self.calls = _READ_ONLY_CALLS | {name: namespace[name] for name in tools}
        self.plain = _PLAIN.union(texts)
        self.texts = (str, bytes, *texts[:2])

    def is_read_only(self, tree: ast.Module) -> bool:
        """Return whether a cell is read-only."""
        try:
            return all(map(self._is_harmless, own.walk(tree)))
        except (LookupError, TypeError, AttributeError):
            return False

    def _is_harmless(self, node: ast.AST) -> bool:
        kind = type(node)
        if kind is ast.Name or kind is ast.Subscript:
            self._static_value(node)
        elif isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name) and self._static_value(node.func) is self.calls.get(node.func.id)
            return known and not any(keyword.arg in (None, "file") for keyword in node.keywords)
        return kind in _READ_ONLY_NODES

    def _static_value(self, node: ast.AST) -> Any:
        """Return a value of an expression's type; raise ``LookupError`` if only running it would show the type."""
        if isinstance(node, ast.Name):
            if node.id in self.namespace:
                value = self.namespace[node.id]
            else:
                value = self.namespace["__builtins__"][node.id]
        elif isinstance(node, ast.Subscript):
            value = self._subscript_value(self._static_value(node.value), node.slice)
        elif isinstance(node, ast.Constant):
            return node.value
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._static_value(node.operand)
        elif isinstance(node, ast.Tuple):
            return tuple(map(self._static_value, node.elts))
        else:
            raise LookupError
        if type(value) not in self.plain:
            raise LookupError
        return value

    def _subscript_value(self, whole: Any, index: ast.AST) -> Any:
        if type(whole) in self.texts:
            return ""
        if not isinstance(whole, list | tuple | dict):
            raise LookupError
        if isinstance(index, ast.Slice):
            return type(whole)()
        return whole[self._static_value(index)]


def run_cell(tree: ast.Module, namespace: dict[str, Any], number: int) -> Any:
    """Run a parsed cell; return the value of its last expression, or None if it ends in a statement."""
    name = f"{CELL} {number}>"
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body.pop()
    else:
        last = None
    codes = []
    if tree.body:
        codes.append(compile(tree, name, "exec", FLAGS, dont_inherit=True))
    if isinstance(last, ast.Expr):
        codes.append(compile(ast.Expression(last.value), name, "eval", FLAGS, dont_inherit=True))
    if any(code.co_flags & CO_COROUTINE for code in codes):
        return _run_on_loop(_run_async_codes(codes, namespace))
    value = None
    for code in codes:
        value = eval(code, namespace)
    if isinstance(last, ast.Expr):
        return value
    return None


async def _run_async_codes(codes: list[Any], namespace: dict[str, Any]) -> Any:
    """Run a cell that awaits entirely inside the loop."""
    value = None
    for code in codes:
        value = eval(code, namespace)
        if code.co_flags & CO_COROUTINE:
            value = await value
    return value


_loops: list[Any] = []
_begun: list[Any] = []  # the last awaiting cell's task, or the tasks it started that resist cancellation


def _run_on_loop(coroutine: Any) -> Any:
    """Run a cell on the session's loop; if it is stopped, its tasks are cancelled, else they may continue."""
    import asyncio  # most sessions never await, and this import takes longer than all others together

    loop = _session_loop(asyncio)
    earlier = asyncio.all_tasks(loop)
    main = loop.create_task(coroutine)
    _begun[:] = [main]
    try:
        return loop.run_until_complete(main)
    except BaseException as error:
        if not main.done() or isinstance(error, KeyboardInterrupt):
            with suppress(KeyboardInterrupt):  # the host interrupts until the cell has ended
                _cancel_tasks(asyncio, loop, earlier)
            if main.done() and not main.cancelled():
                return main.result()
        raise
    finally:
        _begun[:] = [task for task in _begun if not task.done()]  # finished tasks would keep their results alive


def _cancel_tasks(asyncio: Any, loop: Any, earlier: set[Any]) -> None:
    """Cancel the tasks that are not in ``earlier``, repeatedly if they resist."""
    for _ in range(CANCELS):
        _begun[:] = asyncio.all_tasks(loop) - earlier
        if not _begun:
            return
        for task in _begun:
            task.cancel()
        loop.run_until_complete(asyncio.wait(_begun, timeout=CANCEL_SECONDS))


def _session_loop(asyncio: Any) -> Any:
    """Return the session's event loop, or a new one at first use or if tasks of a stopped cell still resist."""
    if _loops and (_loops[0].is_running() or not all(task.done() for task in _begun)):
        asyncio._set_running_loop(None)  # it was interrupted at a bad moment
        _loops.clear()
    if not _loops or _loops[0].is_closed():
        _loops[:] = [asyncio.new_event_loop()]
        asyncio.set_event_loop(_loops[0])
    return _loops[0]


def renew_threads() -> None:
    """Give the loop new threads after a fork, which copies none."""
    for loop in _loops:
        loop.renew()


def echo_value(value: Any, cap: int) -> str:
    """Return the repr of a cell's last value, without building one much longer than shown."""
    if isinstance(value, str | bytes) and len(value) > 4 * cap:
        half = repr(value[: 2 * cap]), repr(value[-2 * cap :])
        return output.shorten(half[0], half[1], len(value), cap)
    return output.without_addresses(output.clip(repr(value), cap))


def cell_traceback(error: BaseException) -> str:
    """Return the traceback of the model's own lines; never fails, whatever the exception does."""
    import traceback  # takes longer than most cells, which never need it

    try:
        summary = traceback.TracebackException.from_exception(error, compact=True)
        _own_lines(summary)
        return output.without_addresses(output.clip("".join(summary.format()).strip(), MAX_TRACEBACK))
    except BaseException:
        return _name_and_text(error)


def _name_and_text(error: BaseException) -> str:
    """Return an exception's name and text when its traceback cannot be made."""
    try:
        return output.clip(f"{type(error).__name__}: {error}", MAX_TRACEBACK)
    except BaseException:
        return f"{type(error).__name__}: (this exception cannot be shown)"


def _own_lines(summary: Any, depth: int = 0) -> None:
    own = [frame for frame in summary.stack if frame.filename.startswith(CELL)]
    summary.stack[:] = own
    for linked in (summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())):
        if linked is not None and depth < 20:
            _own_lines(linked, depth + 1)


def error_summary(error: BaseException) -> str:
    """Return ``TypeName: message`` of an exception, however odd."""
    import traceback

    try:
        return output.clip("".join(traceback.format_exception_only(type(error), error)).strip(), MAX_TRACEBACK)
    except BaseException:
        return type(error).__name__


def thread_failed(failure: Any) -> None:
    """Report an exception that ended a thread."""
    if failure.exc_value is not None and failure.exc_type is not SystemExit:
        sys.stderr.write(f"in thread {getattr(failure.thread, 'name', '?')}: {cell_traceback(failure.exc_value)}\n")


def error_class(name: str) -> type[Exception]:
    """Return the exception class for a tool's failure: the builtin one, or a new one of that name."""
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception) and known not in (StopIteration, StopAsyncIteration):
        if known in (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, BaseExceptionGroup, ExceptionGroup):
            return ValueError
        return known
    if not name.isidentifier():
        name = "ToolError"
    return type(name, (RuntimeError,), {"__module__": "__main__"})
