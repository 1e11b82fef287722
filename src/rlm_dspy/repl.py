"""One interpreter of any make, as the loop sees it: opened with the inputs, given cells, closed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import dspy
from dspy.adapters.types.tool import Tool
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreter, FinalOutput
from dspy.primitives.sandbox_serializable import SandboxSerializable

from rlm_dspy import prelude, prompts
from rlm_dspy.errors import SandboxError
from rlm_dspy.loop import Observation
from rlm_dspy.sandbox import Sandbox, toolkit
from rlm_dspy.sandbox.cell import Compiled
from rlm_dspy.sandbox.worker import tables

PRELUDE = inspect.getsource(prelude)
OPENING = Compiled(f"{PRELUDE}\nprint('ready')")  # every session of every run begins with it
# What an interpreter that is not ours lacks; its own SUBMIT takes keywords.
_SETUP = """
{toolkit}
_tools = {{name: globals()[name] for name in {names!r} if name in globals()}}
bind(globals(), {main!r})
globals().update(_tools)
{prelude}
"""
_ALIASES = """
def FINAL(value):
    SUBMIT({first}=value)
def FINAL_VAR(name):
    SUBMIT({first}=globals()[name])
"""


class Repl:
    """An interpreter with its tools, inputs and toolkit in place."""

    def __init__(
        self,
        interpreter: CodeInterpreter,
        values: Mapping[str, Any],
        tools: Mapping[str, Callable[..., Any]],
        output_fields: list[dict[str, Any]],
        main: str | None,
    ) -> None:
        self.interpreter = interpreter
        self._values = dict(values)
        self._main = main
        self._fields = output_fields
        self._bare = False  # whether the session lacks the prelude
        ours = isinstance(interpreter, Sandbox)
        fit = _positional if ours else _plain
        interpreter.tools.update({name: fit(tool) for name, tool in tools.items()})
        if hasattr(interpreter, "output_fields"):
            interpreter.output_fields = output_fields
        if hasattr(interpreter, "_tools_registered"):
            interpreter._tools_registered = False
        if isinstance(interpreter, Sandbox):
            interpreter.main = main
            interpreter.protected = tuple(values)

    def open(self) -> None:
        """Start the interpreter, hand over the inputs, and see that it answers.

        Raises:
            SandboxError: it does not execute even a trivial cell.
        """
        self.interpreter.start()
        if isinstance(self.interpreter, Sandbox):
            seen = self.run(OPENING, variables=self._values)
        else:
            seen = self._open_foreign()
        if "ready" not in seen.text:
            raise SandboxError(
                f"the interpreter {type(self.interpreter).__name__} does not execute code: "
                f"{seen.error or seen.text or 'a trivial cell printed nothing'}"
            )

    def _open_foreign(self) -> Observation:
        """Install toolkit, aliases and inputs as code; an interpreter that cannot take the toolkit goes without."""
        names = sorted(self.interpreter.tools)  # a user's tool stands before one of the toolkit's
        setup = _SETUP.format(toolkit=toolkit.source(), main=self._main, names=names, prelude=PRELUDE)
        corpora = {name: value for name, value in self._values.items() if hasattr(value, "sandbox_index")}
        plain: dict[str, Any] = {}
        for name, value in self._values.items():
            if isinstance(value, SandboxSerializable):
                self._assign(name, value)
            else:
                table = tables.plain(value)
                plain[name] = dict(value.items()) if name in corpora else value if table is tables.OTHER else table
        self.run(setup + _ALIASES.format(first=self._fields[0]["name"]))
        wrap = "".join(f"{name} = Corpus.from_texts({name})\n" for name in corpora)
        kept = "".join(f"{name} = {name}\n" for name in sorted(plain))  # some bind variables for one cell only
        whole = f"P = _whole = {self._main}\n" if self._main else ""
        return self.run(f"{wrap}{kept}{whole}print('ready')", variables=plain)

    def _assign(self, name: str, value: SandboxSerializable) -> None:
        """Hand over one of DSPy's own serialisable types by its own code."""
        payload = value.to_sandbox()
        raw = f"_raw_{name}"
        text = payload.decode() if isinstance(payload, bytes) else payload
        code = f"{value.sandbox_setup()}\n{value.sandbox_assignment(name, raw)}\nprint('ready')"
        seen = self.run(code, variables={raw: text})
        if seen.error:
            raise SandboxError(f"input `{name}` cannot cross into the interpreter: {seen.error}")

    def run(self, code: str, *, variables: Mapping[str, Any] | None = None) -> Observation:
        """Run one cell; what the code did wrong is part of the observation, never raised."""
        if isinstance(self.interpreter, Sandbox):
            if self._bare:
                self._bare = self.interpreter.run(OPENING).kind == "died"
            done = self.interpreter.run(code, dict(variables or {}))
            self._bare = self._bare or done.kind == "died"  # the inputs come back by themselves
            return Observation(
                text=done.text,
                restored=self._restored(done.restored),
                submitted=done.final,
                has_submitted=done.has_final,
                error=done.exception,
                timed_out=done.timed_out,
                seconds=done.seconds,
            )
        started = time.perf_counter()
        try:
            result = self.interpreter.execute(code, variables=dict(variables or {}))
        except (CodeExecutionError, SyntaxError) as error:
            text = f"[Error] {error}"
            return Observation(text=text, error=text, seconds=time.perf_counter() - started)
        seconds = time.perf_counter() - started
        if isinstance(result, FinalOutput):
            return Observation(submitted=result.output, has_submitted=True, seconds=seconds)
        lines = result if isinstance(result, list) and all(isinstance(line, str) for line in result) else None
        text = "" if result is None else "\n".join(lines) if lines else str(result)
        return Observation(text=text, seconds=seconds)

    def _restored(self, names: Sequence[str]) -> str:
        """Say which inputs a cell had bound to something else."""
        sizes = (f"`{name}` is again the input ({prompts.size_of(self._values[name])})" for name in names)
        return f"[{'; '.join(sizes)}; use another name.]" if names else ""

    def interrupt(self) -> None:
        """Interrupt the running cell, where the interpreter can."""
        if isinstance(self.interpreter, Sandbox):
            self.interpreter.interrupt()

    def close(self) -> None:
        """Shut the interpreter down."""
        self.interpreter.shutdown()


def _positional(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Let a ``dspy.Tool``, which takes keywords only, be called as the function it wraps."""
    if not isinstance(tool, Tool):
        return tool
    names = list(tool.args or {})

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > len(names):
            raise TypeError(f"{tool.name}() takes {len(names)} positional arguments but {len(args)} were given")
        with dspy.context(allow_tool_async_sync_conversion=True):
            return tool(**dict(zip(names, args, strict=False)), **kwargs)

    return call


def _plain(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Let a tool return JSON only, which is all that other interpreters carry."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = tool(*args, **kwargs)
        if isinstance(result, list):
            return [asdict(item) if is_dataclass(item) and not isinstance(item, type) else item for item in result]
        return result

    call.__name__ = getattr(tool, "__name__", "tool")
    call.__doc__ = tool.__doc__
    if not hasattr(tool, "name"):  # a dspy.Tool keeps its own schema
        call.__signature__ = inspect.signature(tool)  # type: ignore[attr-defined]
    return call
