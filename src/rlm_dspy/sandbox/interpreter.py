"""``Sandbox``: a Python session that confines untrusted code and starts in milliseconds.

It implements DSPy's ``CodeInterpreter`` protocol (``execute``) and a richer one (``run``, ``arun``) that
returns failures of the code as values.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self, cast

import dspy
from dspy.utils.callback import BaseCallback, with_callbacks

from . import callbacks, checks, execution, policy, pool
from . import zygote_host as zygotes
from .cell import Cell, CellEnding, code_fields
from .errors import CodeExecutionError, InterpreterDiedError, InterpreterFailedError
from .execution import Execution
from .link import Link
from .tool_threads import ToolThreads, in_thread
from .variables import Parcel, VariableBook
from .worker.wire import Message

CPU_FACTOR, LEAST_CPU = 4, 2.0
PROBE_SECONDS = 10.0


class Sandbox:
    """A confined, persistent Python session; cells run one at a time and share a namespace.

    Args:
        tools: Host functions that the code may call by name.
        output_fields: The outputs SUBMIT expects, as ``[{"name": …}, …]``; None accepts any. SUBMIT may leave out
            those with ``"optional": True``.
        timeout: Seconds a cell may run, excluding time in host calls.
        memory_mb: Memory the session may use in addition to its contexts.
        max_output_chars: Characters of a cell's output to keep, head and tail.
        isolation: "strong" requires what ``report()`` calls strong, "best-effort" uses the layers available,
            "none" is an unconfined process.
        checkpoint: "auto" keeps a sleeping copy of the session after each cell that may have changed it,
            "always" after every cell, "never" keeps none.
        main: The name of the variable that ``P`` and the text functions use.
        modules: Third-party modules to load for the code, such as ``("numpy",)``.
        callbacks: DSPy callbacks for this sandbox only, in addition to ``dspy.settings.callbacks``.

    Example:
        >>> with Sandbox() as sandbox:
        ...     sandbox.execute("6 * 7")
        42
    """

    execution_instructions: ClassVar[str] = (
        f"Python {sys.version_info.major}.{sys.version_info.minor}: names, functions and imports stay from cell to "
        "cell. The pure standard library for text and data is there (re, json, csv, collections, datetime, …), threads "
        "and top-level await too; files, processes and the network are not. A cell that breaks its time or memory "
        "limit is stopped."
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
        callbacks: Sequence[BaseCallback] = (),
    ) -> None:
        checks.check_timeout(timeout)
        checks.check_limits(memory_mb, max_output_chars, isolation, checkpoint)
        self.tools: dict[str, Callable[..., Any]] = dict(tools or {})
        checks.check_tool_names(self.tools)
        self.output_fields = output_fields
        self.callbacks: list[BaseCallback] = list(callbacks)
        self.main = main
        self.protected: tuple[str, ...] = ()  # variables to restore when a cell has rebound them
        self.timeout = timeout
        self.memory_mb = memory_mb
        self.max_output_chars = max_output_chars
        self.saving = checkpoint
        self._setting = zygotes.ZygoteSettings(isolation, checks.with_parts(modules))
        self._link: Link | None = None
        self._owner = os.getpid()
        self._ended, self._number = False, 0
        self.turn = threading.Lock()
        self._tool_threads = ToolThreads()
        self._cell: Cell | None = None
        self._given = VariableBook()
        self._sent: dict[str, Any] = {}
        self._is_fresh = False  # whether inputs and tools were reset since the last cell
        self._crashes = 0  # in a row

    # -- DSPy's protocol -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the session; the first cell does so automatically.

        Raises:
            SandboxUnavailableError: The requested isolation is not available here.
        """
        with self._take_turn():
            self._ensure_worker()

    def load_modules(self, names: Sequence[str]) -> None:
        """Load more third-party modules than the constructor named; call this before the session starts."""
        loaded = self._setting.modules
        more = tuple(name for name in checks.with_parts(names) if name not in loaded)
        if more and self._link is None:
            self._setting = replace(self._setting, modules=(*loaded, *more))

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run a cell the way DSPy expects it.

        Returns:
            ``FinalOutput`` if SUBMIT was called, else the printed text followed by the last expression's value;
            if nothing was printed, the value itself, or None.

        Raises:
            SyntaxError: The code is not valid Python.
            CodeExecutionError: The code failed; the message has all its output and the traceback.
            SandboxDiedError: The session ended and its state is lost.
        """
        return self._dspy_result(self._watched_run(code, variables, self.timeout, threading.Event()))

    def __call__(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run a cell as :meth:`execute` does."""
        return self.execute(code, variables)

    def invoke_tool(self, tool_name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call one of the host functions for the code."""
        return callbacks.report_tool_call(self, tool_name, args, kwargs, lambda: self.tools[tool_name](*args, **kwargs))

    async def aexecute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run ``execute`` without blocking the event loop."""
        stop = threading.Event()
        play = partial(self._watched_run, code, variables, self.timeout, stop)
        return await in_thread(lambda: self._dspy_result(play()), partial(self._cancel_cell, stop))

    @with_callbacks  # type: ignore[untyped-decorator]
    def shutdown(self) -> None:
        """End the session and every process of it; safe to call twice."""
        self._ended = True
        self._tool_threads.close()
        if self._owner != os.getpid():
            if self._link is not None:
                self._link.let_go()
                self._link = None
            return
        self.interrupt()
        with self.turn:  # waits for a start or cell in progress
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
        """Run a cell and return its outcome; failures of the code are part of it.

        Raises:
            ConfigurationError: A variable or tool cannot be passed to the sandbox; nothing was run.
            SandboxError: The sandbox was shut down or is not available.
        """
        return self._watched_run(code, variables, self.timeout if timeout is None else timeout, threading.Event())

    async def arun(
        self, code: str, variables: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> Execution:
        """Run ``run`` without blocking the event loop; cancelling it interrupts the cell."""
        stop, limit = threading.Event(), self.timeout if timeout is None else timeout
        play = partial(self._watched_run, code, variables, limit, stop)
        return cast(Execution, await in_thread(play, partial(self._cancel_cell, stop)))

    def interrupt(self) -> None:
        """Interrupt the running cell, if any, like Ctrl-C; may be called from any thread."""
        cell, link = self._cell, self._link
        if cell is not None and link is not None:
            cell.stop.set()
            link.interrupt()

    def renew(self) -> None:
        """Reset inputs and tools, so that the next cell has only its own inputs, as in a new session.

        Other names are kept.
        """
        with self._take_turn():
            self.tools.clear()
            self._given = VariableBook()
            self._sent = {}
            self._is_fresh = True

    # -- inside ----------------------------------------------------------------------------------------------

    def _dspy_result(self, done: Execution) -> Any:
        if done.kind == "died":
            self.shutdown()
        return execution.for_dspy(done)

    def _cancel_cell(self, stop: threading.Event) -> bool:
        """Stop the cell of this ``stop`` event; return whether it has begun."""
        stop.set()
        cell, link = self._cell, self._link
        begun = cell is not None and cell.stop is stop
        if begun and link is not None:
            link.interrupt()
        return begun

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        """Admit one cell at a time, and raise if a cell's own tool tries to enter."""
        if self._owner != os.getpid():  # before the turn, which a thread of that process may hold
            raise InterpreterDiedError("this sandbox belongs to the process that forked this one; make a new one")
        if self in _entered.get():
            raise InterpreterFailedError("a tool cannot run code in the sandbox that is calling it")
        with self.turn:
            token = _entered.set((*_entered.get(), self))
            try:
                yield
            finally:
                _entered.reset(token)

    def _ensure_worker(self) -> None:
        """Make sure there is a live worker, or raise."""
        if self._ended:
            raise InterpreterFailedError("this sandbox was shut down; make a new one")
        if self._link is not None:
            return
        config = pool.worker_config(self._setting, self.memory_mb, self.max_output_chars)
        self._link = callbacks.report_start(self, partial(pool.connect, self._setting, config))
        self._given.lose()
        self._sent = {}

    def _watched_run(
        self, code: str, variables: dict[str, Any] | None, timeout: float, stop: threading.Event
    ) -> Execution:
        """Run a cell, passing DSPy's callbacks what ``execute`` returns or raises."""
        play = partial(self._play_cell, code, variables, timeout, stop)
        if not callbacks.is_watched(self):
            return play()
        ran: list[Execution] = []

        def run() -> Any:
            ran.append(play())
            return execution.for_dspy(ran[0])

        try:
            callbacks.report_execute(self, code, variables or {}, run)
        except (CodeExecutionError, InterpreterDiedError, SyntaxError):
            if not ran:
                raise
        return ran[0]

    def _play_cell(
        self, code: str, variables: dict[str, Any] | None, timeout: float, stop: threading.Event
    ) -> Execution:
        """Pass new and lost variables, and run the cell, unless it is stopped before it begins."""
        checks.check_timeout(timeout)
        with self._take_turn():
            if stop.is_set():
                raise InterpreterFailedError("the cell was cancelled before it began")
            checks.check_tools_against(self.tools, variables or {})
            parcels = self._given.pack(variables or {})
            try:
                self._ensure_worker()
                parcels += self._given.pack_lost(parcels)
                return self._run_cell(code, parcels, timeout, stop)
            finally:
                for parcel in parcels:
                    parcel.close()

    def _run_cell(self, code: str, parcels: list[Parcel], timeout: float, stop: threading.Event) -> Execution:
        assert self._link is not None
        link = self._link
        message = self._cell_message(link, code, parcels, timeout)
        descriptors = [descriptor for parcel in parcels for descriptor in parcel.descriptors]
        handed = {parcel.message["name"] for parcel in parcels}
        invoke = self.invoke_tool if callbacks.is_watched(self) else None
        cell = Cell(link, self._tool_threads, self.tools, self._number, timeout, invoke)
        cell.stop, self._cell = stop, cell
        if self._ended:
            stop.set()
        try:
            ending = cell.play(message, descriptors)
        except KeyboardInterrupt:
            self._conclude_cell(cell.abandon(), handed, timeout)
            raise
        except BaseException:
            self._drop_session()
            raise
        finally:
            self._cell = None
        done = self._conclude_cell(ending, handed, timeout)
        if cell.fatal is not None:
            raise cell.fatal
        return done

    def _cell_message(self, link: Link, code: str, parcels: list[Parcel], timeout: float) -> Message:
        self._number += 1
        save = self.saving != "never" and link.can_save()
        message: Message = {
            "t": "exec",
            "n": self._number,
            **code_fields(code),
            "cpu": max(LEAST_CPU, timeout * CPU_FACTOR),
            "save": save,
            "forks": 2 if save else 0,
            "always": self.saving == "always",
            "renew": link.standby is None or link.standby.gone(),
            "vars": [parcel.message for parcel in parcels],
            "fresh": self._is_fresh,
        }
        checks.check_tool_names(self.tools)
        fields = self.output_fields
        present = {
            "tools": list(self.tools),
            "fields": None if fields is None else [str(item["name"]) for item in fields],
            "optional": [str(item["name"]) for item in fields or [] if item.get("optional")],
            "main": self.main,
            "protected": list(self.protected),
        }
        message.update({key: value for key, value in present.items() if self._sent.get(key, ...) != value})
        self._sent = present
        return message

    def _conclude_cell(self, ending: CellEnding, handed: set[str], timeout: float) -> Execution:
        """Record which variables the worker holds, roll back if needed, and return the outcome."""
        held_now = self._given.with_those(handed)
        if ending.saved:
            self._given.safe = held_now
        if ending.how in ("gone", "protocol"):
            self._crashes += 1
        else:
            self._crashes = 0
        if ending.how == "result":
            if ending.result.get("kind") == "handover" and ending.result.get("name") in handed:
                raise self._given.refused(ending.result, handed)
            self._given.held = held_now
            try:
                done = execution.from_result(ending, timeout, self.memory_mb, self.max_output_chars)
                self._is_fresh = False
                return done
            except execution.MalformedError as error:
                ending = CellEnding("protocol", detail=str(error), seconds=ending.seconds, kept=ending.kept)
        assert self._link is not None
        if not self._ended and self._link.restore_standby() and (self._crashes < 2 or self._can_run_cell()):
            self._given.held, self._sent = self._given.safe, {}
            return execution.from_killed(ending, timeout, is_lost=False)
        self._drop_session()
        return execution.from_killed(ending, timeout, is_lost=True)

    def _can_run_cell(self) -> bool:
        """Return whether the copy just woken can run a cell, or is as broken as the session before it."""
        assert self._link is not None
        self._number += 1
        message: Message = {"t": "exec", "n": self._number, "code": "6 * 7", "cpu": LEAST_CPU, "vars": []}
        message |= {"save": False, "forks": 0, "always": False, "renew": False}
        ending = Cell(self._link, self._tool_threads, {}, self._number, PROBE_SECONDS).play(message, [])
        return ending.how == "result" and ending.result.get("value") == "42"

    def _drop_session(self) -> None:
        link, self._link = self._link, None
        self._given.lose()
        self._sent = {}
        if link is not None:
            link.close()


# The sandboxes that the caller is currently running in.
_entered: ContextVar[tuple[Sandbox, ...]] = ContextVar("entered", default=())


def default_factory() -> Any:
    """Return ``Sandbox``, or ``dspy.PythonInterpreter`` with a warning on a platform without native isolation."""
    choice = policy.choose(sys.platform, platform.machine(), "strong")
    if choice.backend != "wasm":
        return Sandbox  # if it proves unavailable, it raises instead of falling back
    warnings.warn(
        f"{choice.reason}: dspy.PythonInterpreter (WASM) is used instead of rlm_dspy.Sandbox",
        RuntimeWarning,
        stacklevel=2,
    )
    return dspy.PythonInterpreter
