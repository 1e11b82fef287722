"""Performing what the loop yields: cells in the interpreter, calls to predictors, both within the run's patience."""

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
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import waiting
from rlm_dspy.driver import Session
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.failures import BadSampleError, failed_generation, is_overflow
from rlm_dspy.loop import Ask, Execute, Extract, Observation, Overflow, Reply
from rlm_dspy.repl import Repl

CLOSING = 5.0  # seconds
SMALLEST_ROOM = 4_000  # characters of a prompt, below which less room changes no extract


def execute(session: Session, repl: Repl, need: Execute) -> Observation:
    """Run a cell, and interrupt it when the run's time is over or its caller stops it."""
    patience = session.patience()
    if patience.endless:
        return repl.run(need.code, variables=need.variables)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(waiting.POLL):
            try:
                patience.check()
            except waiting.Interrupted:
                repl.interrupt()
                return

    watcher = threading.Thread(target=watch, daemon=True, name="rlm-watch")
    watcher.start()
    try:
        return repl.run(need.code, variables=need.variables)
    finally:
        done.set()
        watcher.join()


def ask(session: Session, need: Ask | Extract) -> Reply | Overflow | str:
    """Call a predictor; the name of a limit comes back if one refuses or ends the call.

    Of a step whose prompt does not fit the window an :class:`Overflow` comes back; an extract is asked for again from
    less of the trajectory.
    """
    while True:
        try:
            return _ask_once(session, need)
        except DSPyLMError as error:
            if overflow := overflow_of(session, need, error):
                return overflow


def _ask_once(session: Session, need: Ask | Extract) -> Reply | str:
    predictor, inputs = session.request(need)
    here = dspy.settings.send_stream is not None  # a streamed reply must be sent from this very thread
    session.emit("step", "")
    try:
        with session.asking(need) as asking:
            lm = inputs.get("lm") or dspy.settings.lm
            predicted = waiting.call(
                session.patience(need),
                lm,
                lambda: attempt(predictor, inputs),
                lambda: aattempt(predictor, inputs),
                here=here,
            )
    except waiting.Interrupted as over:
        return limit_reached(need, over.limit)
    except BudgetExceededError as error:
        return limit_reached(need, error.limit)
    return session.reply(need, predicted, asking)


async def aask(session: Session, need: Ask | Extract) -> Reply | Overflow | str:
    """Call a predictor as :func:`ask` does, without blocking."""
    while True:
        try:
            return await _aask_once(session, need)
        except DSPyLMError as error:
            if overflow := overflow_of(session, need, error):
                return overflow


async def _aask_once(session: Session, need: Ask | Extract) -> Reply | str:
    predictor, inputs = session.request(need)
    session.emit("step", "")
    try:
        with session.asking(need) as asking:
            predicted = await waiting.acall(session.patience(need), lambda: aattempt(predictor, inputs))
    except waiting.Interrupted as over:
        return limit_reached(need, over.limit)
    except BudgetExceededError as error:
        return limit_reached(need, error.limit)
    return session.reply(need, predicted, asking)


def overflow_of(session: Session, need: Ask | Extract, error: DSPyLMError) -> Overflow | None:
    """Return the overflow of a step that an error tells, or None where an extract is to be asked for with less room.

    Raises:
        LMError: ``error``, which is another, or no less can be shown.
    """
    if not is_overflow(error):
        raise error
    if isinstance(need, Ask):
        return Overflow(error)
    if session.room < SMALLEST_ROOM:
        raise error
    session.room //= 2
    return None


def limit_reached(need: Ask | Extract, limit: str) -> str:
    """Return the limit's name where the loop can go on to the extract; the extract itself has nothing after it."""
    if isinstance(need, Extract):
        raise BudgetExceededError(f"{limit} ended the run before its answer could be extracted", limit=limit)
    return limit


def attempt(predictor: Any, inputs: dict[str, Any]) -> Any:
    """Call a predictor; a reply that cannot be parsed is returned as the error that holds it."""
    try:
        return predictor(**inputs)
    except AdapterParseError as error:
        return error
    except DSPyLMError as error:
        return bad_sample_of(error, inputs)


async def aattempt(predictor: Any, inputs: dict[str, Any]) -> Any:
    """Call a predictor as :func:`attempt` does, without blocking."""
    try:
        awaitable = hasattr(predictor, "acall") and waiting.can_await(inputs.get("lm") or dspy.settings.lm)
        if awaitable or not callable(predictor):
            return await predictor.acall(**inputs)
        result = await waiting.in_thread(lambda: predictor(**inputs))
        return await result if inspect.isawaitable(result) else result
    except AdapterParseError as error:
        return error
    except DSPyLMError as error:
        return bad_sample_of(error, inputs)


def bad_sample_of(error: DSPyLMError, inputs: dict[str, Any]) -> BadSampleError:
    """Return the reply that a provider could not read itself, which is asked for again; raise any other error."""
    text = failed_generation(error)
    if text is None:
        raise error
    return BadSampleError("none", inputs.get("signature"), text, "The provider could not read the model's reply.")


@asynccontextmanager
async def threaded(repl: Repl) -> AsyncIterator[tuple[Repl, Callable[..., Awaitable[Any]]]]:
    """Give an interpreter a thread for all of its life, since some are bound to the thread that started them.

    What runs a call there comes with it; a cancelled wait interrupts the cell. In the end the interpreter is closed,
    and that is awaited for ``CLOSING`` seconds: a cell that cannot be interrupted is left to end by itself.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="rlm-repl")

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
        thread.shutdown(wait=False)
        await asyncio.wait({closed}, timeout=CLOSING)
        if closed.done():
            closed.result()
