"""Let a cell await host calls: ``await llm_query(p)`` and ``asyncio.gather(*[llm_query(p) for p in prompts])``.

Host functions return their result directly, so their calls cannot be awaited. In a cell that awaits, each call whose
result is awaited therefore starts in a thread: a call under ``await`` or in ``gather`` and similar functions, directly
or through a name. Any other call in an ``async def`` is awaited there, so that other tasks can run. All other calls,
and all cells that do not await, stay as written.
"""

from __future__ import annotations

from ast import NodeTransformer
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from . import own

if TYPE_CHECKING:
    import ast
else:
    ast = own.ast

_BEGIN, _FINISH = "__rlm_begin__", "__rlm_finish__"
_TAKERS = frozenset({"gather", "wait", "wait_for", "as_completed", "create_task", "ensure_future", "shield"})
_COPIES = frozenset({"list", "tuple", "set", "reversed", "values", "copy"})
_PUTTERS = frozenset({"append", "add", "insert", "extend", "setdefault"})
_ASYNC = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
_SCOPES = (ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Begun:
    """A host call running in a thread: await it for its result; using it as a value also waits."""

    def __init__(self, future: Any) -> None:
        self._future = future
        self._steps: Any = None

    def __await__(self) -> Generator[Any, Any, Any]:
        import asyncio  # already imported: the cell awaits

        steps: Generator[Any, Any, Any] = asyncio.wrap_future(self._future).__await__()
        return steps

    # ``create_task`` takes only coroutines, so this class is one.

    def send(self, value: Any) -> Any:
        """Resume the coroutine."""
        self._steps = self._steps or self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the coroutine waits."""
        self._steps = self._steps or self.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        """End the coroutine; the call continues."""
        if self._steps is not None:
            self._steps.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "cr_", "gi_")):
            raise AttributeError(name)
        return getattr(self._future.result(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._future.result()[key]

    def __str__(self) -> str:
        return str(self._future.result())

    def __repr__(self) -> str:
        if self._future.done():
            return repr(self._future.result())
        return "<a call that has begun: await it>"


def start_call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Start a host call in a thread of the running loop; call other functions, or without a loop, directly."""
    import asyncio

    loop = asyncio._get_running_loop()
    start = getattr(loop, "begin", None)
    if start is None or not getattr(function, "host_call", False):
        return function(*arguments, **keywords)
    return Begun(start(function, *arguments, **keywords))


async def await_call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Make a host call while other tasks run."""
    begun = start_call(function, *arguments, **keywords)
    if isinstance(begun, Begun):
        return await begun
    return begun


def begin_calls(tree: ast.Module, namespace: dict[str, Any]) -> None:
    """Rewrite a cell so that host calls with awaited results start in threads."""
    nodes = list(own.walk(tree))
    if not any(isinstance(node, _ASYNC) for node in nodes):
        return
    calls = {name for name, value in namespace.items() if getattr(value, "host_call", False) is True}
    names = _awaited_names(nodes)
    for value in _awaited_expressions(nodes, names):
        for node in _held_nodes(value):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls:
                _rewrite_call(node, _BEGIN)
    for node in nodes:
        if isinstance(node, ast.AsyncFunctionDef):
            finisher = _Finisher(calls)
            node.body = [finisher.visit(statement) for statement in node.body]
    namespace.update({_BEGIN: start_call, _FINISH: await_call})


def _rewrite_call(call: ast.Call, name: str) -> None:
    """Turn ``f(x)`` into ``name(f, x)``."""
    call.args = [call.func, *call.args]
    call.func = ast.copy_location(ast.Name(name, ast.Load()), call.func)


class _Finisher(NodeTransformer):
    """Awaits the host calls in the body of an ``async def``, but not in nested scopes."""

    def __init__(self, calls: set[str]) -> None:
        self._calls = calls

    def visit(self, node: ast.AST) -> Any:
        """Return the replacement of a node."""
        if isinstance(node, (*_SCOPES, ast.AsyncFunctionDef)):
            return node
        self.generic_visit(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self._calls:
            _rewrite_call(node, _FINISH)
            return ast.copy_location(ast.Await(node), node)
        return node


def _called_name(node: ast.Call) -> str:
    return str(getattr(node.func, "attr", None) or getattr(node.func, "id", ""))


def _held_nodes(node: ast.AST | None) -> Iterator[ast.AST]:
    """Yield the names and calls whose values an expression is or contains as items."""
    parts: list[Any] = []
    if isinstance(node, (ast.Starred, ast.NamedExpr, ast.DictComp, ast.Subscript)):
        parts = [node.value]
    elif isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        parts = list(node.elts)
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
        parts = [node.elt]
    elif isinstance(node, ast.Dict):
        parts = list(node.values)
    elif isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Call) and _called_name(node) in _TAKERS | _COPIES:
        parts = list(node.args)
        if isinstance(node.func, ast.Attribute) and _called_name(node) in _COPIES:
            parts.append(node.func.value)
    elif node is not None:
        yield node
    for part in parts:
        yield from _held_nodes(part)


def _awaited_names(nodes: list[ast.AST]) -> set[str]:
    """Return the names whose values or items are awaited or passed to ``gather`` and similar functions."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Await):
            names.update(_names_in(node.value))
        elif isinstance(node, ast.Call) and _called_name(node) in _TAKERS:
            names.update(_names_in(node))
    size = -1
    while size < len(names):  # for task in tasks: await task
        size = len(names)
        for node in nodes:
            if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)) and names & set(_names_in(node.target)):
                names.update(_names_in(node.iter))
    return names


def _names_in(node: ast.AST) -> Iterator[str]:
    return (held.id for held in _held_nodes(node) if isinstance(held, ast.Name))


def _awaited_expressions(nodes: list[ast.AST], names: set[str]) -> Iterator[ast.AST | None]:
    """Yield the expressions whose values are awaited, directly or through one of these names."""
    for node in nodes:
        if isinstance(node, ast.Await):
            yield node.value
        elif isinstance(node, ast.Call):
            put = isinstance(node.func, ast.Attribute) and node.func.attr in _PUTTERS
            if _called_name(node) in _TAKERS or (put and names & set(_names_in(node.func.value))):  # type: ignore[attr-defined]
                yield from node.args
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            if isinstance(node, ast.Assign):
                targets = node.targets
            else:
                targets = [node.target]
            if any(names & set(_names_in(target)) for target in targets):
                yield node.value
