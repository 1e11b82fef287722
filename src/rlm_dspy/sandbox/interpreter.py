"""``Sandbox``: a Python session that untrusted code cannot leave, ready in milliseconds.

It serves DSPy's ``CodeInterpreter`` protocol (``execute``) and a richer one (``run``, ``arun``) in which
failures of the code are values.
"""

from __future__ import annotations

import asyncio
import contextvars
import keyword
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from dspy.primitives.code_interpreter import FinalOutput

from rlm_dspy.errors import ConfigurationError

from . import outcome, policy, pool
from . import zygote as zygotes
from .cell import Cell, Ending
from .crew import Crew
from .errors import CodeExecutionError, HandoverError, InterpreterDiedError, InterpreterFailedError
from .execution import Execution
from .handover import FORBIDDEN, Parcel, pack
from .link import Link, Message

CPU_FACTOR = 4
MAX_OUTPUT = 4_000_000
_UNSENT: Any = object()


class Sandbox:
    """A confined, persistent Python session; cells run one at a time and keep their names.

    Args:
        tools: host functions that the code may call by name.
        output_fields: the outputs SUBMIT expects, as ``[{"name": …}, …]``; any when None.
        timeout: seconds a cell may run, time in host calls excluded.
        memory_mb: memory the session may use beyond the contexts handed to it.
        max_output_chars: how much of what a cell prints is kept, head and tail.
        isolation: "strong" demands what ``report()`` calls strong, "best-effort" takes what there is,
            "none" is an unconfined process.
        checkpoint: "auto" keeps a sleeping copy of the session after each cell that may have changed it,
            "always" after every cell, "never" none.
        main: the name of the variable that ``P`` and the text functions stand for.
        modules: third-party modules to load for the code, such as ``("numpy",)``.

    Example:
        >>> with Sandbox() as sandbox:
        ...     sandbox.execute("print(6 * 7)")
        '42\\n'
    """

    execution_instructions: ClassVar[str] = (
        "Code runs in a persistent CPython session: names, functions and imports stay from cell to cell, also "
        "after an error. The pure standard library for text and data work is there (re, json, math, collections, "
        "itertools, datetime, statistics, csv, …), threads and top-level await too; files, processes and the "
        "network are not. Each cell has a time limit (time in host functions is not counted) and the session a "
        "memory limit; a cell that breaks one is stopped and you are told what was lost. Long output keeps its "
        "head and tail: print what you need. SUBMIT(...) ends the run."
    )

    def __init__(
        self,
        tools: dict[str, Callable[..., Any]] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        *,
        timeout: float = 30.0,
        memory_mb: int = 512,
        max_output_chars: int = 100_000,
        isolation: policy.Isolation = "strong",
        checkpoint: policy.Checkpoint = "auto",
        main: str | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        _check_limits(timeout, memory_mb, max_output_chars, isolation, checkpoint)
        self.tools: dict[str, Callable[..., Any]] = dict(tools or {})
        _check_names(self.tools, "tool")
        self.output_fields = output_fields
        self.main = main
        self.timeout = timeout
        self.memory_mb = memory_mb
        self.max_output_chars = max_output_chars
        self.checkpoint = checkpoint
        self._setting = zygotes.Setting(isolation, tuple(modules))
        self._link: Link | None = None
        self._owner = os.getpid()
        self._ended = False
        self._number = 0
        self._turn = threading.Lock()
        self._holder = 0
        self._crew = Crew()
        self._cell: Cell | None = None
        self._given: dict[str, Any] = {}
        self._held: dict[str, Any] = {}
        self._safe: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}

    # -- DSPy's protocol -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the session ready; the first cell does so by itself.

        Raises:
            SandboxUnavailableError: the isolation asked for cannot be had here.
        """
        with self._taken():
            self._ready()

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run a cell the way DSPy expects it.

        Returns:
            ``FinalOutput`` if SUBMIT was called, else the text shown, else None.

        Raises:
            SyntaxError: the code is not Python.
            CodeExecutionError: the code failed; the text holds all it printed and its traceback.
            SandboxDiedError: the session is gone with its state.
        """
        done = self.run(code, variables)
        if done.kind == "died":
            self.shutdown()
            raise InterpreterDiedError(done.note or "the session ended")
        if done.kind == "syntax":
            raise SyntaxError((done.exception or "SyntaxError").removeprefix("SyntaxError: "))
        if done.exception is not None:
            raise CodeExecutionError(done.text)
        if done.has_final:
            return FinalOutput(done.final)
        return done.text or None

    async def aexecute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Do as ``execute`` does without blocking the event loop."""
        return await self._in_thread(lambda: self.execute(code, variables))

    def shutdown(self) -> None:
        """End the session and every process of it; safe to call twice."""
        self._ended = True
        self._crew.close()
        cell, link = self._cell, self._link
        if link is None:
            return
        if self._owner != os.getpid():
            link.let_go()
            self._link = None
            return
        if cell is not None:
            cell.stop.set()
            link.interrupt()
        with self._turn:
            if self._link is not None:
                self._link.close()
                self._link = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)
        if link is not None and self._owner == os.getpid() and not sys.is_finalizing():
            link.close()

    # -- our own protocol ------------------------------------------------------------------------------------

    def run(self, code: str, variables: dict[str, Any] | None = None, *, timeout: float | None = None) -> Execution:
        """Run a cell and return what came of it; failures of the code are part of the result.

        Raises:
            ConfigurationError: a variable or tool cannot cross; nothing was run.
            SandboxError: the sandbox was shut down or cannot be had.
        """
        with self._taken():
            parcels = self._pack(variables or {})
            try:
                self._ready()
                parcels += self._pack_again(parcels)
                return self._run(code, parcels, timeout if timeout is not None else self.timeout)
            finally:
                for parcel in parcels:
                    parcel.close()

    async def arun(
        self, code: str, variables: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> Execution:
        """Do as ``run`` does without blocking the event loop; cancelling it interrupts the cell."""
        done: Execution = await self._in_thread(lambda: self.run(code, variables, timeout=timeout))
        return done

    def interrupt(self) -> None:
        """End the running cell, if there is one, as Ctrl-C would; may be called from any thread."""
        cell, link = self._cell, self._link
        if cell is not None and link is not None:
            cell.stop.set()
            link.interrupt()

    # -- inside ----------------------------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def settle(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_it(value)

        def body() -> None:
            try:
                value = context.run(work)
            except BaseException as error:
                loop.call_soon_threadsafe(settle, future.set_exception, error)
            else:
                loop.call_soon_threadsafe(settle, future.set_result, value)

        threading.Thread(target=body, name="rlm-dspy-cell", daemon=True).start()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.interrupt()
            await asyncio.wait([future], timeout=10)
            if future.done() and not future.cancelled():
                future.exception()
            raise

    def _taken(self) -> _Turn:
        return _Turn(self)

    def _ready(self) -> None:
        """Have a live worker, or say why not."""
        if self._ended:
            raise InterpreterFailedError("this sandbox was shut down; make a new one")
        if self._owner != os.getpid():
            raise InterpreterDiedError("this sandbox belongs to the process that forked this one; make a new one")
        if self._link is not None:
            return
        config = pool.configuration(self._setting, self.memory_mb, self.max_output_chars)
        self._link = pool.connect(self._setting, config)
        self._held, self._safe, self._sent = {}, {}, {}

    def _pack(self, variables: dict[str, Any]) -> list[Parcel]:
        """Pack what the worker does not hold yet; a name handed over with the same object is not sent again."""
        fresh = {k: v for k, v in variables.items() if self._given.get(k, _UNSENT) is not v or k not in self._held}
        if self._ended:
            raise InterpreterFailedError("this sandbox was shut down; make a new one")
        _check_tools_against(self.tools, variables)
        parcels: list[Parcel] = []
        try:
            for name, value in fresh.items():
                parcels.append(pack(name, value))
        except BaseException:
            for parcel in parcels:
                parcel.close()
            raise
        self._given.update(fresh)
        return parcels

    def _pack_again(self, parcels: list[Parcel]) -> list[Parcel]:
        """Pack the variables that were handed over before but are lost with an earlier worker."""
        coming = {parcel.message["name"] for parcel in parcels}
        return [pack(k, v) for k, v in self._given.items() if k not in self._held and k not in coming]

    def _run(self, code: str, parcels: list[Parcel], timeout: float) -> Execution:
        assert self._link is not None
        link = self._link
        self._number += 1
        message = self._message(link, code, parcels, timeout)
        descriptors = [descriptor for parcel in parcels for descriptor in parcel.descriptors]
        cell = self._cell = Cell(link, self._crew, self.tools, self._number, timeout)
        if self._ended:
            cell.stop.set()
        try:
            ending = cell.play(message, descriptors)
        except KeyboardInterrupt:
            self._conclude(cell.abandon(), {parcel.message["name"] for parcel in parcels}, timeout)
            raise
        except BaseException:
            self._lose()
            raise
        finally:
            self._cell = None
        return self._conclude(ending, {parcel.message["name"] for parcel in parcels}, timeout)

    def _message(self, link: Link, code: str, parcels: list[Parcel], timeout: float) -> Message:
        message: Message = {
            "t": "exec",
            "n": self._number,
            "code": code,
            "cpu": max(2.0, timeout * CPU_FACTOR),
            "save": self.checkpoint != "never" and self._can_save(),
            "always": self.checkpoint == "always",
            "renew": link.standby is None or link.standby.gone(),
            "vars": [parcel.message for parcel in parcels],
        }
        _check_names(self.tools, "tool")
        present = {
            "tools": list(self.tools),
            "fields": None if self.output_fields is None else [str(item["name"]) for item in self.output_fields],
            "main": self.main,
        }
        message.update({key: value for key, value in present.items() if self._sent.get(key, _UNSENT) != value})
        self._sent = present
        return message

    def _can_save(self) -> bool:
        assert self._link is not None
        return self._link.zygote.controls_forks or self._link.zygote.report.get("backend") == "plain"

    def _conclude(self, ending: Ending, handed: set[str], timeout: float) -> Execution:
        """Keep the books of what the worker holds, roll back if it must be, and tell."""
        held_now = self._held | {name: True for name in handed}
        if ending.saved:
            self._safe = held_now
        if ending.how == "result":
            if ending.result.get("kind") == "handover":
                self._refuse_handover(ending.result, handed)
            self._held = held_now
            try:
                return outcome.from_result(ending, timeout, self.memory_mb, self.max_output_chars)
            except outcome.MalformedError as error:
                ending = Ending("protocol", detail=str(error), seconds=ending.seconds)
        assert self._link is not None
        if not self._ended and self._link.roll_back():
            self._held, self._sent = dict(self._safe), {}
            return outcome.rolled_back(ending, timeout)
        self._lose()
        return outcome.lost(ending, timeout)

    def _refuse_handover(self, result: Message, handed: set[str]) -> None:
        self._held = {k: v for k, v in self._held.items() if k not in handed}
        for name in handed:
            self._given.pop(name, None)
        name, why = str(result.get("name"))[:100], str(result.get("exc"))[:500]
        raise HandoverError(f"variable {name!r} cannot be handed to the sandbox: {why}")

    def _lose(self) -> None:
        link, self._link = self._link, None
        self._held, self._safe, self._sent = {}, {}, {}
        if link is not None:
            link.close()


class _Turn:
    """Lets one cell at a time into a sandbox, and tells a cell's own tool that it cannot come in."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __enter__(self) -> None:
        if self._sandbox in _inside.get():
            raise InterpreterFailedError("a tool cannot run code in the sandbox that is calling it")
        self._sandbox._turn.acquire()
        self._token = _inside.set((*_inside.get(), self._sandbox))

    def __exit__(self, *error: object) -> None:
        _inside.reset(self._token)
        self._sandbox._turn.release()


_inside: contextvars.ContextVar[tuple[Sandbox, ...]] = contextvars.ContextVar("inside", default=())


def _check_limits(timeout: float, memory_mb: int, max_output_chars: int, isolation: str, checkpoint: str) -> None:
    if not timeout > 0:
        raise ConfigurationError(f"timeout must be a positive number of seconds, not {timeout!r}")
    if memory_mb < 16:
        raise ConfigurationError(f"memory_mb must be at least 16, not {memory_mb!r}")
    if not 0 < max_output_chars <= MAX_OUTPUT:
        raise ConfigurationError(f"max_output_chars must lie between 1 and {MAX_OUTPUT:,}, not {max_output_chars!r}")
    if isolation not in policy.ISOLATIONS:
        raise ConfigurationError(f"isolation must be one of {', '.join(policy.ISOLATIONS)}, not {isolation!r}")
    if checkpoint not in policy.CHECKPOINTS:
        raise ConfigurationError(f"checkpoint must be one of {', '.join(policy.CHECKPOINTS)}, not {checkpoint!r}")


def _check_names(tools: dict[str, Callable[..., Any]], what: str) -> None:
    for name in tools:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in FORBIDDEN:
            raise ConfigurationError(f"{name!r} cannot be the name of a {what}")


def _check_tools_against(tools: dict[str, Callable[..., Any]], variables: dict[str, Any]) -> None:
    if both := sorted(tools.keys() & variables.keys()):
        raise HandoverError(f"{both[0]!r} is the name of both a variable and a tool")
