"""One cell's conversation with the worker: a small state machine with a clock.

The clock stops while a host call is being served. When it runs out, the cell is interrupted repeatedly for a
moment, then killed. Unexpected messages end the session's process, never the host.
"""

from __future__ import annotations

import asyncio
import binascii
import contextvars
import inspect
import marshal
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from .link import Link
from .process import ProtocolError, WorkerGoneError
from .tool_threads import ToolThreads
from .worker import values
from .worker.wire import Message

GRACE_SECONDS = 1.0
COPY_SECONDS = 5.0
LATE_SECONDS = 2.0
# Extra wait for copies that do not report: a share of the cell's timeout, and a minimum in seconds.
PATIENCE, LEAST_PATIENCE = 0.1, 0.5
NUDGE_SECONDS = 0.02
LOOK_SECONDS = 0.5  # longest delay until an interrupt from before the cell's start is noticed
MAX_CALLS = 100_000
MAX_WAITING = 1_000
MAX_ERROR = 4_000

Invoke = Callable[[str, list[Any], dict[str, Any]], Any]
Tools = Mapping[str, Callable[..., Any]]

_PATH = re.compile(r"(?<![\w.:/…])(?:[A-Za-z]:)?(?:/[\w.+@-]+){2,}/([\w.+@-]+)")


@dataclass
class CellEnding:
    """How a cell ended, as the host saw it."""

    how: str  # "result", "killed" (after its time), "gone" (by itself) or "protocol"
    result: Message = field(default_factory=dict)
    detail: str = ""
    timed_out: bool = False
    interrupted: bool = False
    seconds: float = 0.0
    saved: bool = False
    kept: bool = False


class Compiled(str):
    """Precompiled code of the host; it sees the cells' namespace as ``repl``, and no copy is made before it."""

    compiled: str

    def __new__(cls, source: str) -> Self:
        self = super().__new__(cls, source)
        code = marshal.dumps(compile(source, "<host>", "exec", dont_inherit=True))
        self.compiled = binascii.b2a_base64(code, newline=False).decode("ascii")
        return self


def code_fields(code: str) -> Message:
    """Return the part of a command with the code."""
    if isinstance(code, Compiled):
        return {"compiled": code.compiled}
    return {"code": code}


class Cell:
    """Runs one cell to its end."""

    def __init__(
        self,
        link: Link,
        tool_threads: ToolThreads,
        tools: Tools,
        number: int,
        timeout: float,
        invoke: Invoke | None = None,
    ) -> None:
        self.link = link
        self.tool_threads = tool_threads
        self.tools = tools
        self.fatal: BaseException | None = None
        self.invoke = invoke  # calls a tool for the code, if callbacks are registered
        self.number = number
        self.timeout = timeout
        self.spent = 0.0
        self.saved = False
        self.kept = False
        self.awaited = False  # whether the time for copies to report is used up
        self.calls = 0
        self.stop = threading.Event()
        self._context = contextvars.copy_context()
        self._waiting: set[int] = set()
        self._lock = threading.Lock()
        self._ending = False
        self._charged = time.monotonic()

    def play(self, message: Message, descriptors: list[int]) -> CellEnding:
        """Send the cell and serve it until it ends."""
        self._charged = time.monotonic()
        ending = CellEnding("gone")
        try:
            self.link.resume(forks=message["forks"])
            self.link.send(message, descriptors)
            ending = self._serve()
            if ending.how == "result":
                self._await_copies(ending.result)
                self.link.pause()
        except WorkerGoneError as error:
            ending = CellEnding("gone", detail=str(error), timed_out=ending.timed_out)
        except ProtocolError as error:
            ending = CellEnding("protocol", detail=str(error))
        return self._complete_ending(ending)

    def abandon(self) -> CellEnding:
        """End the cell because its caller was interrupted."""
        try:
            ending = self._end_early(timed_out=False)
            if ending.how == "result":
                self._await_copies(ending.result)
                self.link.pause()
        except (WorkerGoneError, ProtocolError) as error:
            ending = CellEnding("gone", detail=str(error), interrupted=True)
        return self._complete_ending(ending)

    def _copy_seconds(self, most: float) -> float:
        return min(most, max(LEAST_PATIENCE, PATIENCE * self.timeout))

    def _complete_ending(self, ending: CellEnding) -> CellEnding:
        if ending.how != "result":
            self.link.kill()
            if not self.awaited:
                self._hear_last_copies()
        ending.seconds = self.spent
        ending.saved = self.saved
        ending.kept = self.kept
        return ending

    def _await_copies(self, result: Message) -> None:
        """Wait for the report of each forked copy; it may come after the result."""
        deadline = time.monotonic() + self._copy_seconds(COPY_SECONDS)
        while self.link.copies_due(result):
            received = self.link.receive(min(deadline, time.monotonic() + NUDGE_SECONDS))
            if received is None and result.get("fork_refused") is True and not self.link.zygote.unknown_processes():
                self.link.forget_refused_forks()
            elif received is None and time.monotonic() >= deadline:
                self.awaited = True
                raise ProtocolError("a fork is unaccounted for")
            elif received is None:
                continue
            elif received[1]["t"] == "call":  # from a thread that outlives the cell
                self._start_call(received[1])
            else:
                self._handle_message(*received)

    def _hear_last_copies(self) -> None:
        """Wait for the reports of copies forked just before the running process ended."""
        deadline = time.monotonic() + self._copy_seconds(LATE_SECONDS)
        while self.link.copies_due({}) and time.monotonic() < deadline:
            try:
                received = self.link.receive(min(deadline, time.monotonic() + NUDGE_SECONDS))
                if received is None and not self.link.zygote.strays():
                    return  # it was killed between requesting a fork and making it
                if received is not None and received[1]["t"] == "standby":
                    self._handle_message(*received)
            except (ProtocolError, WorkerGoneError):
                continue

    def _serve(self) -> CellEnding:
        while True:
            if self.stop.is_set() or self.fatal is not None:
                return self._end_early(timed_out=False)
            self._charge_time()
            if self.calls > MAX_CALLS:
                raise ProtocolError("too many host calls")
            left = self.timeout - self.spent
            if left <= 0:
                return self._end_early(timed_out=True)
            with self._lock:
                has_calls = bool(self._waiting)
            began = time.thread_time()
            received = self.link.receive(time.monotonic() + min(0.05 if has_calls else LOOK_SECONDS, left))
            result = None
            if received is not None:
                result = self._handle_message(*received)
            if has_calls:  # reading messages still counts as the cell's time
                self.spent += time.thread_time() - began
            if result is not None:
                self._charge_time()
                return CellEnding("result", result, interrupted=self.stop.is_set())

    def _charge_time(self) -> None:
        now = time.monotonic()
        with self._lock:
            if not self._waiting or self.link.blocked:
                self.spent += now - self._charged
            self._charged = now

    def _end_early(self, *, timed_out: bool) -> CellEnding:
        """Interrupt the cell until it ends or its grace period is over."""
        end = time.monotonic() + GRACE_SECONDS
        with self._lock:
            self._waiting.clear()
            self._ending = True
        while time.monotonic() < end:
            self.link.interrupt()
            received = self.link.receive(min(end, time.monotonic() + NUDGE_SECONDS))
            if received is not None:
                result = self._handle_message(*received)
                if result is not None:
                    return CellEnding("result", result, timed_out=timed_out, interrupted=not timed_out)
        return CellEnding("killed", timed_out=timed_out, interrupted=not timed_out)

    # -- messages --------------------------------------------------------------------------------------------

    def _handle_message(self, pid: int, message: Message) -> Message | None:
        """Handle one frame; return it if it is the result."""
        kind = message["t"]
        if kind == "standby" and message.get("n") == self.number:
            if self.link.adopt(pid, message.get("serial")):
                self.saved = True
                self.kept = message.get("after") is True
            return None
        assert self.link.active is not None
        if pid != self.link.active.pid:
            raise ProtocolError("a frame from the wrong process")
        if kind == "call":
            self._start_call(message)
            return None
        if kind == "result" and message.get("n") == self.number:
            return message
        raise ProtocolError(f"unexpected {kind[:20]!r}")

    def _start_call(self, message: Message) -> None:
        number, name = _number_and_name(message)
        self.calls += 1
        with self._lock:
            if number in self._waiting:
                raise ProtocolError("a call number twice")
            crowded = len(self._waiting) >= MAX_WAITING
        generation, weight = self.link.generation, self.link.taken
        tool = self.tools.get(name)
        refusal = self._refusal_reason(name, tool, crowded or not self.tool_threads.takes(weight))
        if refusal is not None or tool is None:
            body = {"e": {"name": "RuntimeError", "text": refusal}}
            self.tool_threads.submit(lambda: self._send_answer(generation, number, body))
            return
        arguments, keywords = _decoded_arguments(message)
        self._charge_time()
        with self._lock:
            self._waiting.add(number)
        context = self._context.copy()
        serve = partial(self._call_tool, name, tool, arguments, keywords)
        self.tool_threads.submit(lambda: self._send_answer(generation, number, context.run(serve)), weight)

    def _call_tool(self, name: str, tool: Any, arguments: list[Any], keywords: dict[str, Any]) -> Message:
        """Call a host function and return the answer, which may be its failure."""
        try:
            arguments, keywords = _arguments_by_name(tool, arguments, keywords)
            if self.invoke is None:
                value = tool(*arguments, **keywords)
            else:
                value = self.invoke(name, arguments, keywords)
            if inspect.isawaitable(value):
                value = asyncio.run(_await_value(value))
            return {"v": values.encode(value)}
        except BaseException as error:
            if not isinstance(error, Exception | asyncio.CancelledError):
                self.fatal = error  # such as KeyboardInterrupt: for the caller of the cell, not for its code
            return {"e": {"name": type(error).__name__, "text": without_paths(_error_text(error))[:MAX_ERROR]}}

    def _refusal_reason(self, name: str, tool: Any, crowded: bool) -> str | None:
        if tool is None:
            return f"{name[:80]}() is not available"
        if self._ending:
            return f"{name[:80]}() was not called: the cell is being stopped"
        if crowded:
            return "too many host calls at once"
        return None

    def _send_answer(self, generation: int, number: int, body: Message) -> None:
        self._charge_time()
        with self._lock:
            self._waiting.discard(number)
        try:
            self.link.send({"t": "ret", "id": number, **body}, generation=generation)
        except WorkerGoneError:
            return


def _number_and_name(message: Message) -> tuple[int, str]:
    number, name = message.get("id"), message.get("name")
    if type(number) is not int or not 0 < number < 2**53 or not isinstance(name, str):
        raise ProtocolError("malformed call")
    return number, name


def _decoded_arguments(message: Message) -> tuple[list[Any], dict[str, Any]]:
    arguments, keywords = message.get("a"), message.get("k")
    if not isinstance(arguments, list) or not isinstance(keywords, dict):
        raise ProtocolError("malformed arguments")
    try:
        plain = [values.decode(item, as_dict) for item in arguments]
        named = {key: values.decode(item, as_dict) for key, item in keywords.items()}
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed arguments: {error}") from None
    return plain, named


def as_dict(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return a dataclass of the sandbox as a plain dict on the host."""
    return fields


def _error_text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as worse:  # a user's own __str__
        return f"(its text cannot be shown: {type(worse).__name__})"


def _arguments_by_name(
    tool: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Turn positional arguments into keywords, because DSPy's wrapped tools take only keywords.

    Raises:
        TypeError: The arguments do not fit the tool's signature.
    """
    if not arguments:
        return arguments, keywords
    try:
        signature = inspect.signature(tool)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return arguments, keywords
    signature.bind(*arguments, **keywords)
    named: dict[str, Any] = {}
    for parameter, value in zip(signature.parameters.values(), arguments, strict=False):
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            return arguments, keywords
        named[parameter.name] = value
    return [], {**named, **keywords}


async def _await_value(value: Any) -> Any:
    return await value


def without_paths(text: str) -> str:
    """Shorten absolute paths of this machine to their last part, for text shown to a model."""
    return _PATH.sub(r"…/\1", text)
