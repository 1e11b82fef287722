"""Performs what the loop asks for: calls of predictors and cells, in a thread or without blocking an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import dspy
from dspy.streaming import StatusMessage
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import deadlines
from rlm_dspy.counting import counted_noun
from rlm_dspy.dspy_errors import BadSampleError, failed_generation, is_overflow
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.rlm.loop import Ask, Execute, Extract, ModelReply, Observation, Overflow
from rlm_dspy.rlm.repl import Repl
from rlm_dspy.rlm.session import Session

CLOSING_SECONDS = 5.0  # to wait for an interpreter that is closing
MIN_ROOM_CHARS = 4_000  # characters of a prompt; shrinking the room further does not change an extract


def status_message(session: Session, need: Ask | Extract | Execute) -> StatusMessage | None:
    """Return the message for ``dspy.streamify`` about what comes next; None if nobody streams this run."""
    if dspy.settings.send_stream is None or session.ledger.depth:
        return None
    step = f"Step {len(session.steps) + 1}/{session.rlm.budget.max_iters}"
    if isinstance(need, Extract):
        return StatusMessage(f"Extracting the answer after {need.limit}...")
    if isinstance(need, Ask):
        return StatusMessage(f"{step}: asking the model for code...")
    if need.variables:
        return None
    lines = need.code.count("\n") + 1
    return StatusMessage(f"{step}: running {counted_noun(lines, 'line')} of Python...")


def execute_cell(session: Session, repl: Repl, need: Execute) -> Observation:
    """Run a cell and record it; it is interrupted when the run's time is up or its caller stops it."""
    if need.variables:  # the host's own cell, which passes the past steps and is not recorded
        return run_interruptibly(session, repl, need)
    with session.recorded_cell(need.code) as finished:
        seen = finished(run_interruptibly(session, repl, need))
    session.warnings += repl.take_warnings()
    return seen


def run_interruptibly(session: Session, repl: Repl, need: Execute) -> Observation:
    """Run a cell until it ends, or the run's time is up, or its caller stops it."""
    deadline = session.deadline_for()
    if deadline.endless:
        return repl.run(need.code, variables=need.variables)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(deadlines.POLL_SECONDS):
            try:
                deadline.check()
            except deadlines.Interrupted:
                repl.interrupt()
                return

    watcher = threading.Thread(target=watch, daemon=True, name="rlm-watch")
    watcher.start()
    try:
        return repl.run(need.code, variables=need.variables)
    finally:
        done.set()
        watcher.join()


def ask_predictor(session: Session, need: Ask | Extract) -> ModelReply | Overflow | str:
    """Call a predictor; return the name of a limit if one refuses or ends the call.

    If a step's prompt does not fit the window, return an :class:`Overflow`; an extract is retried with less of the
    trajectory.
    """
    while True:
        try:
            return _ask_once(session, need)
        except DSPyLMError as error:
            if overflow := overflow_of(session, need, error):
                return overflow


def _ask_once(session: Session, need: Ask | Extract) -> ModelReply | str:
    predictor, inputs = session.request(need)
    here = dspy.settings.send_stream is not None  # a streamed reply must be sent from this very thread
    session.emit("step", "")
    try:
        with session.metered_call(need) as asking:
            lm = inputs.get("lm") or dspy.settings.lm
            predicted = deadlines.call(
                session.deadline_for(need),
                lm,
                lambda: try_predictor(predictor, inputs),
                lambda: atry_predictor(predictor, inputs),
                here=here,
            )
    except (deadlines.Interrupted, BudgetExceededError) as error:
        return limit_reached(session, need, error.limit)
    return session.reply(need, predicted, asking)


async def aask_predictor(session: Session, need: Ask | Extract) -> ModelReply | Overflow | str:
    """Call a predictor as :func:`ask_predictor` does, without blocking."""
    while True:
        try:
            return await _aask_once(session, need)
        except DSPyLMError as error:
            if overflow := overflow_of(session, need, error):
                return overflow


async def _aask_once(session: Session, need: Ask | Extract) -> ModelReply | str:
    predictor, inputs = session.request(need)
    session.emit("step", "")
    try:
        with session.metered_call(need) as asking:
            predicted = await deadlines.acall(session.deadline_for(need), lambda: atry_predictor(predictor, inputs))
    except (deadlines.Interrupted, BudgetExceededError) as error:
        return limit_reached(session, need, error.limit)
    return session.reply(need, predicted, asking)


def overflow_of(session: Session, need: Ask | Extract, error: DSPyLMError) -> Overflow | None:
    """Return the overflow that an error reports for a step, or None if an extract should be retried with less room.

    Raises:
        LMError: ``error``, if it is not an overflow, or the prompt cannot be made shorter.
    """
    if not is_overflow(error):
        raise error
    if session.earlier and session.earlier.drop_half():
        return None
    if isinstance(need, Ask):
        return Overflow(error)
    if session.room < MIN_ROOM_CHARS:
        raise error
    session.room //= 2
    return None


def limit_reached(session: Session, need: Ask | Extract, limit: str) -> str:
    """Return the limit's name if the loop can continue with the extract; raise if the extract itself was ended."""
    if isinstance(need, Extract):
        message = f"{limit} ended the run before its answer could be extracted{session.used_text(limit)}"
        raise BudgetExceededError(message, limit=limit)
    return limit


def try_predictor(predictor: Any, inputs: dict[str, Any]) -> Any:
    """Call a predictor; return a reply that cannot be parsed as the error that holds it."""
    try:
        return predictor(**inputs)
    except AdapterParseError as error:
        return error
    except DSPyLMError as error:
        return bad_sample_of(error, predictor, inputs)


async def atry_predictor(predictor: Any, inputs: dict[str, Any]) -> Any:
    """Call a predictor as :func:`try_predictor` does, without blocking."""
    try:
        awaitable = hasattr(predictor, "acall") and deadlines.can_await(inputs.get("lm") or dspy.settings.lm)
        if awaitable or not callable(predictor):
            return await predictor.acall(**inputs)
        result = await deadlines.in_thread(lambda: predictor(**inputs))
        if inspect.isawaitable(result):
            return await result
        return result
    except AdapterParseError as error:
        return error
    except DSPyLMError as error:
        return bad_sample_of(error, predictor, inputs)


def bad_sample_of(error: DSPyLMError, predictor: Any, inputs: dict[str, Any]) -> BadSampleError:
    """Return the error as a bad sample, a reply that its provider could not parse; raise any other error."""
    text = failed_generation(error)
    signature = inputs.get("signature") or getattr(predictor, "signature", None)
    if text is None or signature is None:
        raise error
    return BadSampleError("none", signature, text, "The provider could not read the model's reply.")


@asynccontextmanager
async def repl_in_thread(
    repl: Repl, kept: ThreadPoolExecutor | None = None
) -> AsyncIterator[tuple[Repl, Callable[..., Awaitable[Any]]]]:
    """Run an interpreter in one thread for its whole life, since some are bound to the thread that started them.

    Yields the interpreter and a function that makes calls in that thread. A cancelled wait interrupts the cell. On exit
    the interpreter is closed within ``CLOSING_SECONDS``; a cell that cannot be interrupted is left to end by itself.
    The thread ends too, unless it is ``kept``, which outlives the run with its interpreter.
    """
    thread = kept or ThreadPoolExecutor(1, thread_name_prefix="rlm-repl")

    async def run(call: Callable[..., Any], *args: Any) -> Any:
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, context.run, call, *args)
        except asyncio.CancelledError:
            repl.interrupt()
            raise

    try:
        yield repl, run
    finally:
        closed = asyncio.wrap_future(thread.submit(repl.close))
        if kept is None:
            thread.shutdown(wait=False)
        await asyncio.wait({closed}, timeout=CLOSING_SECONDS)
        if closed.done():
            closed.result()
