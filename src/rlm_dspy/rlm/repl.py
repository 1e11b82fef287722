"""An interpreter of any kind, as the loop uses it: open it with the inputs, run cells, close it."""

from __future__ import annotations

import ast
import base64
import datetime
import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dspy
from dspy.adapters.types.tool import Tool
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreter, FinalOutput
from dspy.primitives.facade import HOST_TOKEN_VAR
from dspy.primitives.sandbox_serializable import SandboxSerializable

from rlm_dspy.errors import SandboxError
from rlm_dspy.rlm import prompts
from rlm_dspy.rlm.loop import Observation
from rlm_dspy.run import cut_text
from rlm_dspy.sandbox import Sandbox, toolkit
from rlm_dspy.sandbox.cell import Compiled
from rlm_dspy.sandbox.worker import tables

PRELUDE = Path(__file__).with_name("prelude.py").read_text(encoding="utf-8")
OPENING = Compiled(f"{PRELUDE}\nprint('ready')")  # the first code of every session
RESTARTED = "the sandbox ended in this turn: variables, imports and functions of earlier turns are lost"
LOADABLE = frozenset({"numpy", "pandas"})  # loaded by the sandbox itself when an input needs them
# Everything that a foreign interpreter lacks, in the one cell that DSPy's own RLM uses for its facade. Its SUBMIT takes
# keywords.
_SETUP = """
{toolkit}
_own = {{name: globals()[name] for name in {names!r} if name in globals()}}
bind(globals(), {main!r})
def FINAL(value):
    SUBMIT({first}=value)
def FINAL_VAR(name):
    SUBMIT({first}=globals()[name])
{corpora}
{main_alias}
globals().update(_own)
exec({prelude!r}, {{"__name__": "rlm", "repl": globals(), "taken": frozenset({names!r}), "main": {main!r}}})
print("ready")
"""


class Repl:
    """An interpreter with its tools, inputs and toolkit installed."""

    def __init__(
        self,
        interpreter: CodeInterpreter,
        values: Mapping[str, Any],
        tools: Mapping[str, Callable[..., Any]],
        output_fields: list[dict[str, Any]],
        main: str | None,
        release: Callable[[CodeInterpreter], None] | None = None,
    ) -> None:
        self.interpreter = interpreter
        self._release = release
        self._values = dict(values)
        self._main = main
        self._fields = output_fields
        self._plain: dict[str, Any] = {}  # passed to a foreign interpreter with each cell, as DSPy does
        self._bare = False  # whether the session lacks the prelude
        self.has_toolkit = True
        self.warnings: list[str] = []
        for name, tool in tools.items():
            if not isinstance(interpreter, Sandbox):
                interpreter.tools[name] = _fit_foreign(tool)
            elif name not in ("llm_query", "llm_query_batched"):  # in our sandbox the prelude defines these
                interpreter.tools[name] = _fit_ours(tool)
        if hasattr(interpreter, "output_fields"):
            interpreter.output_fields = output_fields
        if hasattr(interpreter, "_tools_registered"):
            interpreter._tools_registered = False
        if isinstance(interpreter, Sandbox):
            interpreter.main = main
            interpreter.protected = tuple(values)

    def open(self) -> None:
        """Start the interpreter, hand over the inputs, and check that it responds.

        A foreign interpreter gets one set-up cell, as in DSPy, for the toolkit and the functions. If it cannot run
        them, it goes without, and ``has_toolkit`` is False.

        Raises:
            SandboxError: the interpreter cannot execute even a trivial cell.
        """
        if not isinstance(self.interpreter, Sandbox):
            self._open_foreign()
            return
        self.interpreter.load_modules(needed_modules(self._values))
        self.interpreter.start()
        seen = self.run(OPENING, variables=self._values)
        if "ready" not in seen.text:
            raise SandboxError(f"the sandbox does not execute code: {seen.error or seen.text or 'it printed nothing'}")

    def _open_foreign(self) -> None:
        corpora = {}
        for name, value in self._values.items():
            if isinstance(value, SandboxSerializable):
                continue
            table = tables.plain_data(value)
            if hasattr(value, "sandbox_index"):
                corpora[f"_raw_{name}"] = dict(value.items())
            else:
                self._plain[name] = value if table is tables.OTHER else table
        lines = [f"{raw.removeprefix('_raw_')} = Corpus.from_texts({raw})" for raw in corpora]
        setup = _SETUP.format(
            toolkit=toolkit.source(),
            names=sorted({*self.interpreter.tools, *self._plain}),  # a user's names take precedence over the toolkit's
            main=self._main,
            first=self._fields[0]["name"],
            prelude=PRELUDE,
            corpora="\n".join(lines),
            main_alias=f"P = {self._main}" if self._main and self._main != "P" else "",
        )
        try:
            shown = self.interpreter.execute(setup, variables={HOST_TOKEN_VAR: "", **self._plain, **corpora})
        except (CodeExecutionError, SyntaxError) as error:
            self.has_toolkit = False
            self.warnings.append(f"{name_of(self.interpreter)} cannot take the toolkit: {cut_text(str(error))}")
            shown = "ready"
        if "ready" not in str(shown):
            self.warnings.append(f"{name_of(self.interpreter)} returned no output of a cell that prints: is it a mock?")
        self.interpreter.start()  # after the set-up cell, as in DSPy
        for name, value in self._values.items():
            if isinstance(value, SandboxSerializable):
                self._assign_input(name, value)

    def _assign_input(self, name: str, value: SandboxSerializable) -> None:
        """Hand over one of DSPy's serialisable types using its own code."""
        payload = value.to_sandbox()
        raw = f"_raw_{name}"
        code = f"{value.sandbox_setup()}\n{value.sandbox_assignment(name, raw)}"
        try:
            handed = {raw: payload.decode() if isinstance(payload, bytes) else payload}
        except UnicodeDecodeError:
            encoded = base64.b64encode(payload if isinstance(payload, bytes) else payload.encode()).decode()
            handed = {f"{raw}_base64": encoded}
            code = f"import base64\n{raw} = base64.b64decode({raw}_base64)\n{code}"
        seen = self.run(code, variables=handed)
        if seen.error:
            raise SandboxError(f"input `{name}` cannot be passed to the interpreter: {seen.error}")

    def run(self, code: str, *, variables: Mapping[str, Any] | None = None) -> Observation:
        """Run one cell; errors of the code are part of the observation and are never raised."""
        if isinstance(self.interpreter, Sandbox):
            if self._bare:
                self._bare = self.interpreter.run(OPENING).kind == "died"
            done = self.interpreter.run(code, dict(variables or {}))
            self._bare = self._bare or done.kind == "died"  # the inputs are restored automatically
            if done.kind == "died" and self._release:
                self.warnings.append(RESTARTED)
            return Observation(
                text=done.text,
                restored=self._restored_note(done.restored),
                submitted=done.final,
                has_submitted=done.has_final,
                error=done.exception,
                timed_out=done.timed_out,
                seconds=done.seconds,
            )
        started = time.perf_counter()
        try:
            result = self.interpreter.execute(code, variables={**self._plain, **(variables or {})})
        except (CodeExecutionError, SyntaxError) as error:
            text = f"[Error] {error}"
            return Observation(text=text, error=text, seconds=time.perf_counter() - started)
        seconds = time.perf_counter() - started
        if isinstance(result, FinalOutput):
            return Observation(submitted=result.output, has_submitted=True, seconds=seconds)
        text = "" if result is None else str(result)
        if result and isinstance(result, list) and all(isinstance(line, str) for line in result):
            text = "\n".join(result)
        return Observation(text=text, seconds=seconds)

    def _restored_note(self, names: Sequence[str]) -> str:
        """Describe the inputs and functions that a cell had rebound and that were restored."""
        notes = []
        for name in names:
            if name in self._values:
                what = f"input ({prompts.size_of(self._values[name])})"
            else:
                what = "function"
            notes.append(f"`{name}` is again the {what}")
        if names:
            return f"[{'; '.join(notes)}; use another name.]"
        return ""

    def take_warnings(self) -> list[str]:
        """Return the warnings since the last call."""
        taken, self.warnings = self.warnings, []
        return taken

    def interrupt(self) -> None:
        """Interrupt the running cell, if the interpreter supports it."""
        if isinstance(self.interpreter, Sandbox):
            self.interpreter.interrupt()

    def close(self) -> None:
        """Give the interpreter back, or shut it down if it was made for this run."""
        if self._release:
            self._release(self.interpreter)
        else:
            self.interpreter.shutdown()


def name_of(interpreter: Any) -> str:
    """Return the name of an interpreter's class."""
    return type(interpreter).__name__


def needed_modules(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the third-party modules that inputs need in the sandbox, for their types and their set-up code."""
    modules: set[str] = set()
    for value in values.values():
        modules.add(type(value).__module__.partition(".")[0])
        if isinstance(value, SandboxSerializable):
            for node in ast.walk(ast.parse(value.sandbox_setup())):
                if isinstance(node, ast.Import):
                    modules.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    modules.add(node.module.partition(".")[0])
    return tuple(sorted(name for name in modules & LOADABLE if find_spec(name)))


def _fit_ours(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a ``dspy.Tool``, which takes keywords only, so that it is called like the function it wraps."""
    if not isinstance(tool, Tool):
        return tool

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = _bound_arguments(tool, args, kwargs)
        for name, schema in (tool.args or {}).items():
            if name in arguments and schema.get("type", "Any") != "Any":  # DSPy checks these before it converts them
                arguments[name] = _json_form(arguments[name])
        with dspy.context(allow_tool_async_sync_conversion=True):
            return _as_data(tool(**arguments))

    return call


def _bound_arguments(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, bound as Python does.

    Raises:
        TypeError: they do not fit the function, or have no names.
    """
    signature = inspect.signature(tool.func)
    if not set(tool.args or {}) <= set(signature.parameters):  # a converted tool, whose function takes keywords only
        names = list(tool.args or {})
        if len(args) > len(names):
            raise TypeError(f"{tool.name}() takes {len(names)} positional arguments but {len(args)} were given")
        return {**dict(zip(names, args, strict=False)), **kwargs}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{tool.name}(): {error}") from None
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise TypeError(f"{tool.name}() can only be called with keyword arguments, and {name} has no name for one")
        else:
            named[name] = value
    return named


def _json_form(value: Any) -> Any:
    """Convert a value to plain JSON types, which is what DSPy validates tool arguments against."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(map(_json_form, value))
    if isinstance(value, dict):
        return {key: _json_form(item) for key, item in value.items()}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value


def _fit_foreign(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tool to return plain data, all that other interpreters support; its name and signature are kept."""
    function: Any = tool.func if isinstance(tool, Tool) else tool

    def call(*args: Any, **kwargs: Any) -> Any:
        return _as_data(tool(*args, **kwargs))

    async def acall(*args: Any, **kwargs: Any) -> Any:
        return _as_data(await (tool.acall if isinstance(tool, Tool) else tool)(*args, **kwargs))

    fitted: Any = acall if inspect.iscoroutinefunction(function) else call
    functools.update_wrapper(fitted, function)
    fitted.__signature__ = inspect.signature(function)
    fit: Callable[..., Any] = fitted
    return fit


def _as_data(result: Any) -> Any:
    """Return a tool's result with DSPy predictions and our own records converted to dicts."""
    if isinstance(result, dspy.Example):
        return dict(result.items())
    if isinstance(result, list):
        return list(map(_as_fields, result))
    return result


def _as_fields(item: Any) -> Any:
    if is_dataclass(item) and not isinstance(item, type):
        return asdict(item)
    return item
