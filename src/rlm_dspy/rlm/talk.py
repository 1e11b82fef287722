"""A conversation with an RLM: one interpreter for all its turns, one budget if asked for, and the history."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspy.primitives.code_interpreter import CodeInterpreter, CodeInterpreterError

from rlm_dspy.budget import Ledger
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError, RLMError, SandboxError
from rlm_dspy.rlm.history import messages_of
from rlm_dspy.rlm.signatures import history_field
from rlm_dspy.sandbox import Sandbox

if TYPE_CHECKING:
    from rlm_dspy.rlm.module import RLM

KEPT_NAMES = "What your code defined in earlier turns of the conversation is still there."
CLOSING_SECONDS = 5.0  # to wait for an interpreter that ends
REPLACED = "the interpreter ended in an earlier turn: its variables, imports and functions are lost"


class KeptInterpreter:
    """An interpreter factory that returns the same interpreter for each turn, and new ones for children.

    Args:
        make: makes an interpreter.
    """

    def __init__(self, make: Callable[[], CodeInterpreter]) -> None:
        self.make = make
        self.account: Ledger | None = None  # the budget of all turns
        self.thread: ThreadPoolExecutor | None = None  # in which awaited turns use the interpreter
        self._kept: CodeInterpreter | None = None
        self._is_busy = False
        self._is_lost = False

    @property
    def execution_instructions(self) -> Any:
        """The rules of the interpreter, for the prompt."""
        return getattr(self.make, "execution_instructions", "")

    def __call__(self) -> CodeInterpreter:
        if self._is_busy:
            return self.make()
        if self._kept is None:
            self._kept = self.make()
        elif isinstance(self._kept, Sandbox):
            self._kept.renew()  # the code of an earlier turn may have rebound the inputs and the functions
        self._is_busy = True
        return self._kept

    def __repr__(self) -> str:
        return f"KeptInterpreter({type(self._kept).__name__ if self._kept else 'none yet'})"

    def release(self, interpreter: CodeInterpreter) -> None:
        """Keep the interpreter of a turn for the next one; end any other."""
        if interpreter is self._kept:
            self._is_busy = False
        else:
            interpreter.shutdown()

    def begin_turn(self) -> None:
        """Give up an interpreter that an earlier turn still uses: its cell could not be stopped."""
        if self._is_busy:
            self.replace_dead()

    def take_warnings(self) -> list[str]:
        """Return and clear the warnings for the next turn's run."""
        was_lost, self._is_lost = self._is_lost, False
        if was_lost:
            return [REPLACED]
        return []

    def replace_dead(self) -> None:
        """End an interpreter that failed; the next turn gets a new one, and its run reports it."""
        if self._kept is not None:
            self._is_lost = True
            with suppress(CodeInterpreterError, SandboxError, OSError):
                self.close()

    def close(self) -> None:
        """End the interpreter, in the thread that used it."""
        kept, self._kept = self._kept, None
        was_busy, self._is_busy = self._is_busy, False
        thread, self.thread = self.thread, None
        try:
            if kept is not None and thread is not None and not isinstance(kept, Sandbox):
                wait([thread.submit(kept.shutdown)], CLOSING_SECONDS)  # a cell may hold the thread forever
            elif kept is not None:
                kept.shutdown()
        finally:
            if thread:
                thread.shutdown(wait=not was_busy)


class Talk:
    """The turns of a conversation; a context manager that ends the interpreter.

    Call it, or await :meth:`acall`, with the inputs of a turn. What the model's code defined stays for the next turn.
    An error ends its turn only, and leaves the history as it was. One call at a time.

    Args:
        rlm: the program; may be replaced between turns.
        make: makes the interpreter.
        ledger: ``"shared"`` for one budget over all turns, ``"per_turn"`` for one for each.
        inputs: inputs of every turn; a call may give others.
    """

    def __init__(
        self,
        rlm: RLM,
        make: Callable[[], CodeInterpreter],
        ledger: Literal["shared", "per_turn"],
        inputs: dict[str, Any],
    ) -> None:
        if ledger not in ("shared", "per_turn"):
            raise ConfigurationError(f"ledger must be 'shared' or 'per_turn', not {ledger!r}")
        name = history_field(rlm.signature)
        if unexpected := sorted(set(inputs) - set(rlm.signature.input_fields)):
            raise ConfigurationError(f"Unexpected inputs not declared in the signature: {unexpected}")
        self.rlm = rlm
        self.history = dspy.History(messages=messages_of(inputs.pop(name, None) if name else None))
        self._inputs = inputs
        self._interpreter = KeptInterpreter(make)
        self._turn = threading.Lock()
        self._is_closed = False
        self._seconds = 0.0
        self._clock_started: float | None = None
        if ledger == "shared":
            self._interpreter.account = Ledger(rlm.budget, clock=self._active_seconds)

    def __call__(self, **inputs: Any) -> dspy.Prediction:
        """Run one turn.

        Raises:
            ConfigurationError: the conversation is closed, or another call of it has not ended.
            RLMError: as when the program is called.
        """
        with self._one_turn(inputs) as values:
            return self._kept_prediction(self.rlm(interpreter_factory=self._interpreter, **values))

    async def acall(self, **inputs: Any) -> dspy.Prediction:
        """Run one turn as a call does, without blocking the event loop."""
        with self._one_turn(inputs) as values:
            if self._interpreter.thread is None:
                self._interpreter.thread = ThreadPoolExecutor(1, thread_name_prefix="rlm-talk")
            return self._kept_prediction(await self.rlm.acall(interpreter_factory=self._interpreter, **values))

    def close(self) -> None:
        """End the interpreter; safe to call twice."""
        self._is_closed = True
        self._interpreter.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Talk({self.rlm!r}, {counted_noun(len(self.history.messages), 'turn')})"

    @contextmanager
    def _one_turn(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield all inputs of a turn, and refuse a second one meanwhile."""
        if self._is_closed:
            raise ConfigurationError("this conversation is closed; begin another with rlm.session()")
        if not self._turn.acquire(blocking=False):
            raise ConfigurationError(
                "this conversation is in the middle of a turn; one session takes one call at a time"
            )
        name = history_field(self.rlm.signature)
        self._clock_started = time.monotonic()
        try:
            self._interpreter.begin_turn()
            yield {**({name: self.history} if name else {}), **self._inputs, **inputs}
        except (RLMError, CodeInterpreterError) as error:
            if isinstance(error, CodeInterpreterError | SandboxError):
                self._interpreter.replace_dead()
            raise
        finally:
            self._seconds, self._clock_started = self._active_seconds(), None
            self._turn.release()

    def _kept_prediction(self, prediction: dspy.Prediction) -> dspy.Prediction:
        if history_field(self.rlm.signature):
            self.history = prediction.next_history
        return prediction

    def _active_seconds(self) -> float:
        """Return the seconds of all turns so far; the time between them does not count."""
        if self._clock_started is None:
            running = 0.0
        else:
            running = time.monotonic() - self._clock_started
        return self._seconds + running
