"""``RLM``: a DSPy module that answers from contexts far larger than a window, by code in a confined REPL.

A drop-in for ``dspy.RLM`` 3.4: same positional arguments and defaults, same call, same predictor names, same names in
the REPL, ``trajectory`` and ``final_reasoning`` on the prediction. The idea is that of "Recursive Language Models"
(Zhang, Kraska, Khattab, arXiv 2512.24601).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import dspy
from dspy.primitives.code_interpreter import (
    CodeInterpreter,
    CodeInterpreterError,
    _validate_interpreter,
    _validate_interpreter_factory,
    resolve_interpreter_factory,
)
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import errors, loop, prompts
from rlm_dspy.context import Context
from rlm_dspy.driver import STEPPING, Session, both
from rlm_dspy.errors import BudgetExceededError, ConfigurationError
from rlm_dspy.loop import Ask, Execute, Extract, Observation, Reply
from rlm_dspy.predictor import Predictor
from rlm_dspy.record import Event
from rlm_dspy.repl import Repl
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.signatures import limits, named_tools, output_field, read_signature, validate_inputs, validate_names

HANDLE = 20_000  # texts longer than this enter DSPy's callbacks and logs as a handle


class RLM(dspy.Module):  # type: ignore[misc]
    """Answer a signature by letting a model explore its inputs in a Python REPL.

    Args:
        signature: inputs become variables of the REPL; outputs are typed and validated. An output of type
            ``list[rlm_dspy.Evidence]`` is checked against the inputs.
        max_iters: steps before the answer is extracted from the trajectory.
        max_llm_calls: sub-LM calls of the whole tree.
        max_output_chars: characters of a step's output that the model sees, head and tail.
        verbose: log each step at INFO.
        tools: functions or ``dspy.Tool`` objects that REPL code may call; they run on the host.
        sub_lm: the LM of sub-calls; by default the LM of ``generate_action``, else ``dspy.settings.lm``.
        interpreter_factory: makes the interpreter of each call; by default ``dspy.settings.interpreter_factory``,
            else :class:`rlm_dspy.Sandbox`.
        max_depth: levels of recursive sub-calls.
        max_tokens, max_cost, max_seconds: limits of the whole tree in tokens, US dollars, seconds.
        on_limit: ``"extract"`` answers from the trajectory when a limit ends the run, ``"raise"`` raises.
        on_event: called with each :class:`rlm_dspy.record.Event` of the run.

    Raises:
        ConfigurationError: the signature, a name or a limit cannot work.

    Example:
        >>> rlm = rlm_dspy.RLM("context, question -> answer")
        >>> rlm(context=open("book.txt").read(), question="Who is Ishmael?").answer
    """

    def __init__(
        self,
        signature: type[dspy.Signature] | str,
        max_iters: int = 20,
        max_llm_calls: int = 50,
        max_output_chars: int = 10_000,
        verbose: bool = False,
        tools: list[Callable[..., Any]] | None = None,
        sub_lm: Any = None,
        interpreter_factory: Callable[[], CodeInterpreter] | None = None,
        *,
        max_depth: int = 1,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        max_seconds: float | None = None,
        on_limit: Literal["extract", "raise"] = "extract",
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__()
        if interpreter_factory is not None:
            _validate_interpreter_factory(interpreter_factory)
        if on_limit not in ("extract", "raise"):
            raise ConfigurationError(f"on_limit must be 'extract' or 'raise', not {on_limit!r}")
        if not isinstance(max_output_chars, int) or max_output_chars < 1:
            raise ConfigurationError(f"max_output_chars must be a positive number, not {max_output_chars!r}")
        self.signature = read_signature(signature)
        self.budget = limits(
            max_iters=max_iters,
            max_llm_calls=max_llm_calls,
            max_depth=max_depth,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_seconds=max_seconds,
        )
        self.max_output_chars = max_output_chars
        self.verbose = verbose
        self.sub_lm = sub_lm
        self.on_limit = on_limit
        self.on_event = on_event
        self._interpreter_factory = interpreter_factory
        self._tools = named_tools(tools)
        validate_names(self.signature, self._tools)
        self.generate_action = Predictor(prompts.action_signature(self.signature), self.signature)
        self.extract = Predictor(prompts.extract_signature(self.signature), self.signature)

    @property
    def tools(self) -> dict[str, dspy.Tool]:
        """The user's tools by name."""
        return dict(self._tools)

    @property
    def max_iters(self) -> int:
        """The steps before the answer is extracted."""
        return self.budget.max_iters

    @property
    def max_llm_calls(self) -> int:
        """The sub-LM calls of the whole tree."""
        return self.budget.max_llm_calls

    def __call__(self, *args: Any, **kwargs: Any) -> dspy.Prediction:
        """Run the RLM; long texts enter as handles, so that callbacks and logs never hold them."""
        return super().__call__(*args, **handles(kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> dspy.Prediction:
        """Run the RLM without blocking the event loop."""
        return await super().acall(*args, **handles(kwargs))

    # --- the two drivers ---------------------------------------------------------------------------------------

    def forward(
        self, *, interpreter_factory: Callable[[], CodeInterpreter] | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Produce the signature's outputs.

        Args:
            interpreter_factory: makes the interpreter of this call, instead of the constructor's or configured one.
            inputs: the signature's input fields.

        Returns:
            The outputs, ``trajectory``, ``final_reasoning`` and ``run``, the full record.

        Raises:
            RLMError: with the partial record as ``run``; a provider's failure is also DSPy's own exception class.
        """
        validate_inputs(self.signature, inputs)
        with Session(self, inputs) as session, self._repl(session, interpreter_factory) as repl, translated():
            repl.open()
            session.emit("probe", session.probe)
            flow = loop.steps(session.rules())
            answer: Any = None
            while True:
                try:
                    need = flow.send(answer)
                except StopIteration as stop:
                    return prediction(session, stop.value)
                answer = (
                    self._execute(session, repl, need) if isinstance(need, Execute) else self._ask(session, need)
                )

    async def aforward(
        self, *, interpreter_factory: Callable[[], CodeInterpreter] | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Produce the signature's outputs as :meth:`forward` does, never blocking the event loop."""
        validate_inputs(self.signature, inputs)
        # One thread for all of an interpreter's life: some of DSPy's are bound to the thread that started them.
        with (
            ThreadPoolExecutor(1, thread_name_prefix="rlm-repl") as thread,
            Session(self, inputs) as session,
            self._repl(session, interpreter_factory, thread) as repl,
            translated(),
        ):
            await in_thread(thread, repl, repl.open)
            session.emit("probe", session.probe)
            flow = loop.steps(session.rules())
            answer: Any = None
            while True:
                try:
                    need = flow.send(answer)
                except StopIteration as stop:
                    return prediction(session, stop.value)
                if isinstance(need, Execute):
                    answer = await in_thread(thread, repl, self._execute, session, repl, need)
                else:
                    answer = await self._aask(session, need)

    @contextmanager
    def _repl(
        self, session: Session, factory: Callable[[], CodeInterpreter] | None, thread: ThreadPoolExecutor | None = None
    ) -> Iterator[Repl]:
        """Make the interpreter of one call, with its tools, and shut it down whatever happens."""
        chosen = factory or self._interpreter_factory
        if chosen is None or chosen is dspy.PythonInterpreter:
            chosen = resolve_interpreter_factory(chosen)
            # DSPy's default means "nothing was chosen", which for us is our own sandbox.
            chosen = Sandbox if chosen is dspy.PythonInterpreter and factory is None else chosen
        _validate_interpreter_factory(chosen)
        interpreter = chosen()
        _validate_interpreter(interpreter)
        rules = getattr(chosen, "execution_instructions", "")
        if not isinstance(rules, str):
            raise TypeError("interpreter_factory.execution_instructions must be a string")
        session.interpreter_rules = rules
        fields = [output_field(name, field) for name, field in self.signature.output_fields.items()]
        tools = {**session.subcalls.functions, **self._tools}
        repl = Repl(interpreter, session.values, tools, fields, session.main)
        try:
            yield repl
        finally:
            if thread is None:
                repl.close()
            else:
                thread.submit(repl.close).result()

    def _execute(self, session: Session, repl: Repl, need: Execute) -> Observation:
        """Run a cell, and interrupt it when the run's time is over."""
        left = self._seconds(session)
        if left is None:
            return repl.run(need.code)
        timer = threading.Timer(left, repl.interrupt)
        timer.start()
        try:
            return repl.run(need.code)
        finally:
            timer.cancel()

    def _ask(self, session: Session, need: Ask | Extract) -> Reply | str:
        """Call a predictor; the name of a limit comes back if one refuses or ends the call."""
        predictor, inputs = session.request(need)
        left = None if isinstance(need, Extract) or dspy.settings.send_stream else self._seconds(session)
        session.emit("step", "")
        try:
            with session.asking(need) as asking:
                predicted = within(left, lambda: attempt(predictor, inputs))
        except TimeoutError:
            return "max_seconds"
        except BudgetExceededError as error:
            return error.limit
        return session.reply(need, predicted, asking)

    async def _aask(self, session: Session, need: Ask | Extract) -> Reply | str:
        predictor, inputs = session.request(need)
        left = None if isinstance(need, Extract) else self._seconds(session)
        session.emit("step", "")
        try:
            with session.asking(need) as asking:
                predicted = await asyncio.wait_for(aattempt(predictor, inputs), left)
        except TimeoutError:
            return "max_seconds"
        except BudgetExceededError as error:
            return error.limit
        return session.reply(need, predicted, asking)

    def _seconds(self, session: Session) -> float | None:
        """Seconds that steps may still use."""
        left, limit = session.ledger.seconds_left, session.ledger.budget.max_seconds
        return None if left is None else max(0.0, left - (1 - STEPPING) * (limit or 0.0))


def attempt(predictor: Any, inputs: dict[str, Any]) -> Any:
    """Call a predictor; a reply that cannot be parsed is returned as the error that holds it."""
    try:
        return predictor(**inputs)
    except AdapterParseError as error:
        return error


async def aattempt(predictor: Any, inputs: dict[str, Any]) -> Any:
    """Call a predictor as :func:`attempt` does, without blocking."""
    try:
        return await predictor.acall(**inputs)
    except AdapterParseError as error:
        return error


def within(seconds: float | None, call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns, or raise TimeoutError after ``seconds`` and leave it to end by itself."""
    if seconds is None:
        return call()
    future: Future[Any] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:  # carried to the caller, who raises it
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="rlm-ask").start()
    return future.result(seconds)


async def in_thread(thread: ThreadPoolExecutor, repl: Repl, call: Callable[..., Any], *args: Any) -> Any:
    """Run ``call`` in the interpreter's thread; a cancelled wait interrupts the cell."""
    context = contextvars.copy_context()
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, context.run, call, *args)
    except asyncio.CancelledError:
        repl.interrupt()
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Give DSPy's provider and interpreter errors our classes as well, so that they carry the run."""
    try:
        yield
    except DSPyLMError as error:
        raise both(_provider_error(error), error) from error
    except CodeInterpreterError as error:
        raise both(errors.SandboxError, error) from error


def _provider_error(error: DSPyLMError) -> type[errors.LMError]:
    kinds: list[tuple[type[BaseException], type[errors.LMError]]] = [
        (dspy.ContextWindowExceededError, errors.LMContextWindowError),
        (dspy.LMAuthError, errors.LMAuthError),
        (dspy.LMNotConfiguredError, errors.LMAuthError),
        (dspy.LMRateLimitError, errors.LMRateLimitError),
        (dspy.LMTransportError, errors.LMUnavailableError),
        (dspy.LMTimeoutError, errors.LMUnavailableError),
        (dspy.LMServerError, errors.LMUnavailableError),
        (dspy.LMUnsupportedModelError, errors.LMUnavailableError),
    ]
    return next((ours for theirs, ours in kinds if isinstance(error, theirs)), errors.LMError)


def prediction(session: Session, ending: loop.Ending) -> dspy.Prediction:
    """Close the record and return it with the outputs."""
    run = session.finish(ending)
    return dspy.Prediction(
        **ending.outputs, trajectory=run.trajectory, final_reasoning=ending.reasoning, run=run
    )


def handles(inputs: dict[str, Any]) -> dict[str, Any]:
    """Wrap long texts so that whatever renders the inputs shows a line."""
    return {
        name: Context(value) if isinstance(value, str) and len(value) > HANDLE else value
        for name, value in inputs.items()
    }
