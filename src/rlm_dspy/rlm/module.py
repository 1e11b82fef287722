"""``RLM``: a DSPy module that answers from contexts far larger than a model's window, by code in a sandboxed REPL.

A drop-in replacement for ``dspy.RLM`` 3.4: same positional arguments and defaults, same call, same predictor names,
same names in the REPL, ``trajectory`` and ``final_reasoning`` on the prediction. The idea comes from "Recursive
Language Models" (Zhang, Kraska, Khattab, arXiv 2512.24601).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing, nullcontext, suppress
from typing import Any, Literal

import dspy
from dspy.primitives.code_interpreter import CodeInterpreter, resolve_interpreter_factory
from dspy.utils.callback import with_callbacks

from rlm_dspy import deadlines
from rlm_dspy._dspy import sync_send_to_stream, validate_interpreter, validate_interpreter_factory
from rlm_dspy.budget import Budget
from rlm_dspy.context import Context
from rlm_dspy.dspy_errors import translated_errors
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.rlm import dspy_states, loop, prompts
from rlm_dspy.rlm.children import Child
from rlm_dspy.rlm.driving import aask_predictor, ask_predictor, execute_cell, repl_in_thread, status_message
from rlm_dspy.rlm.loop import Execute
from rlm_dspy.rlm.prediction import RLMPrediction
from rlm_dspy.rlm.predictor import Predictor
from rlm_dspy.rlm.repl import Repl
from rlm_dspy.rlm.session import WATCHER, Session
from rlm_dspy.rlm.signatures import (
    check_budget,
    make_budget,
    named_tools,
    output_field,
    read_signature,
    validate_inputs,
    validate_names,
)
from rlm_dspy.rlm.talk import KEPT_NAMES, KeptInterpreter, Talk
from rlm_dspy.run import ConstructorSignature, Content, Event, Run, trajectory_of
from rlm_dspy.sandbox import Sandbox, default_factory, toolkit

logger = logging.getLogger(__name__)

MIN_HANDLE_CHARS = 20_000  # texts longer than this enter DSPy's callbacks and logs as a handle


class RLM(deadlines.Stoppable, dspy.Module):  # type: ignore[misc]
    """Answer a signature by letting a model explore its inputs in a Python REPL.

    Args:
        signature: inputs become variables of the REPL; outputs are typed and validated. An output of type
            ``list[rlm_dspy.Evidence]`` is checked against the inputs.
        max_iters: steps before the answer is extracted from the trajectory.
        max_llm_calls: sub-LM calls of the whole tree.
        max_output_chars: characters of a step's output shown to the model, head and tail.
        verbose: log each step at INFO.
        tools: functions or ``dspy.Tool`` objects that REPL code may call; they run on the host.
        sub_lm: the LM of sub-calls; by default the LM of ``generate_action``, else ``dspy.settings.lm``.
        interpreter_factory: makes the interpreter of each call and of its children; defaults to
            ``dspy.settings.interpreter_factory``, else :class:`rlm_dspy.Sandbox`. ``dspy.PythonInterpreter``, DSPy's
            default, means the default here; passed to a call, it is used as given.
        max_depth: levels of recursive sub-calls.
        max_tokens: prompt and completion tokens of the whole tree.
        max_cost: US dollars of the whole tree.
        max_seconds: wall-clock seconds of the whole tree.
        budget: all limits at once, instead of the separate ones.
        on_limit: ``"extract"`` answers from the trajectory when a limit ends the run, ``"raise"`` raises.
        depth_policy: below ``max_depth``, ``"plain"`` answers with plain calls, ``"raise"`` refuses.
        max_concurrency: sub-calls in flight at once, over the whole tree.
        profile: ``"small"`` for models of at most 14B weights or 16K tokens of window (a shorter protocol with an
            example, fewer sub-calls, capped replies), ``"standard"``, or ``"auto"`` to decide by the model.
        tune_children: expose the predictors of children, which answer recursive sub-calls, to optimizers and in saved
            states, as ``child.generate_action`` and ``child.extract``.
        on_event: called with each :class:`rlm_dspy.run.Event` of the run.
        content: how much of each text the record keeps: ``"full"``, ``"short"`` or ``"none"``.

    Raises:
        ConfigurationError: the signature, a name or a limit is invalid.

    Example:
        >>> rlm = rlm_dspy.RLM("context, question -> answer")
        >>> rlm(context=open("book.txt").read(), question="Who is Ishmael?").answer
    """

    __signature__ = ConstructorSignature()

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
        depth_policy: Literal["plain", "raise"] = "plain",
        max_concurrency: int = 8,
        budget: Budget | None = None,
        profile: Literal["auto", "small", "standard"] = "auto",
        tune_children: bool = False,
        on_event: Callable[[Event], None] | None = None,
        content: Content = "full",
    ) -> None:
        super().__init__()
        if interpreter_factory is not None:
            validate_interpreter_factory(interpreter_factory)
        _check_choices(on_limit=on_limit, depth_policy=depth_policy, profile=profile, content=content)
        if not isinstance(max_output_chars, int) or max_output_chars < 1:
            raise ConfigurationError(f"max_output_chars must be a positive number, not {max_output_chars!r}")
        _check_sub_lm(sub_lm)
        self.signature = read_signature(signature)
        separate = make_budget(
            max_iters=max_iters,
            max_llm_calls=max_llm_calls,
            max_depth=max_depth,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_seconds=max_seconds,
            max_concurrency=max_concurrency,
        )
        if budget is not None and separate != Budget():
            raise ConfigurationError("budget= holds all limits: give it alone, without max_iters= and the like")
        self.budget = separate if budget is None else check_budget(budget)
        self.max_output_chars = max_output_chars
        self.verbose = verbose
        self.sub_lm = sub_lm
        self.on_limit = on_limit
        self.depth_policy = depth_policy
        self.profile = profile
        self.on_event = on_event
        self.content: Content = content
        self._interpreter_factory = interpreter_factory
        self._tools = named_tools(tools)
        validate_names(self.signature, self._tools)
        self.generate_action = Predictor(prompts.action_signature(self.signature), self.signature)
        self.extract = Predictor(prompts.extract_signature(self.signature), self.signature)
        # One child program for every depth, so that optimizers see its predictors once.
        self.child: RLM | None = self._make_child() if tune_children and self.budget.max_depth > 0 else None

    @property
    def tools(self) -> dict[str, dspy.Tool]:
        """The user's tools by name."""
        return dict(self._tools)

    @property
    def max_iters(self) -> int:
        """The steps before the answer is extracted."""
        return self.budget.max_iters

    @max_iters.setter
    def max_iters(self, value: int) -> None:
        self.budget = make_budget(**{**self.budget.model_dump(), "max_iters": value})

    @property
    def max_llm_calls(self) -> int:
        """The sub-LM calls of the whole tree."""
        return self.budget.max_llm_calls

    @max_llm_calls.setter
    def max_llm_calls(self, value: int) -> None:
        self.budget = make_budget(**{**self.budget.model_dump(), "max_llm_calls": value})

    def __repr__(self) -> str:
        budget = self.budget
        changed = budget.model_dump(exclude_defaults=True)
        shown = "".join(f", {name}={value!r}" for name, value in changed.items())
        return f"RLM({self.signature.signature!r}{shown})"

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Load a state saved by this class or by ``dspy.RLM``."""
        if missing := [name for name, _ in self.named_parameters() if name not in state]:
            raise ConfigurationError(f"this is not the state of such an RLM: it lacks the predictor {missing[0]}")
        super().load_state(state, allow_unsafe_lm_state=allow_unsafe_lm_state)
        self._warn_of_other_fields(state.get("generate_action"))
        if self.child is None and any(name.startswith("child.") for name in state):
            logger.warning("the state of the tuned children was not loaded: make the RLM with tune_children=True")

    def _warn_of_other_fields(self, action: Mapping[str, Any] | None) -> None:
        """Warn if the state of the action was saved for other inputs or outputs; a replaced predictor has none."""
        if action:
            saved = dspy_states.saved_names(action["signature"]["instructions"])
        else:
            saved = None
        own = list(self.signature.input_fields), list(self.signature.output_fields)
        if saved is not None and saved != own:
            saved_text, own_text = (f"{', '.join(inputs)} -> {', '.join(outputs)}" for inputs, outputs in (saved, own))
            logger.warning(
                "the loaded state was saved for %r, and this RLM has %r: its texts may name fields that do not exist",
                saved_text,
                own_text,
            )

    def _make_child(self) -> RLM:
        """Return the program that answers recursive sub-calls."""
        budget = self.budget
        sizes = budget.max_iters, budget.max_llm_calls, self.max_output_chars, self.verbose
        kept: dict[str, Any] = {"max_concurrency": budget.max_concurrency, "depth_policy": self.depth_policy}
        return RLM("text, instruction -> output", *sizes, max_depth=0, profile=self.profile, **kept)

    def __call__(self, *args: Any, **kwargs: Any) -> dspy.Prediction:
        """Run the RLM; long texts are wrapped as handles, so that callbacks and logs never hold them."""
        return super().__call__(*args, **self._callback_inputs(kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> dspy.Prediction:
        """Run the RLM without blocking the event loop."""
        return await super().acall(*args, **self._callback_inputs(kwargs))

    def _callback_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a call as its callbacks see them; a subclass's own ``forward`` gets plain texts."""
        is_overridden = type(self).forward is not RLM.forward or type(self).aforward is not RLM.aforward
        if is_overridden:
            return inputs
        return wrap_long_texts(inputs)

    async def stream(self, **inputs: Any) -> AsyncIterator[Event | dspy.Prediction]:
        """Yield the events of a run as they happen, then the prediction.

        Example:
            >>> async for event in rlm.stream(context=text, question="…"): print(event)
        """
        queue: asyncio.Queue[Event] = asyncio.Queue()
        running = asyncio.get_running_loop()

        def watch(event: Event) -> None:
            running.call_soon_threadsafe(queue.put_nowait, event)

        token = WATCHER.set(watch)
        try:
            task = asyncio.ensure_future(self.acall(**inputs))
        finally:
            WATCHER.reset(token)
        try:
            while not task.done() or not queue.empty():
                waiting_for = asyncio.ensure_future(queue.get())
                await asyncio.wait({waiting_for, task}, return_when=asyncio.FIRST_COMPLETED)
                if waiting_for.done():
                    yield waiting_for.result()
                else:
                    waiting_for.cancel()
                    await asyncio.sleep(0)  # let events sent from other threads arrive
            yield task.result()
        finally:
            task.cancel()

    # --- the two drivers ---------------------------------------------------------------------------------------

    def forward(
        self, *, interpreter_factory: Callable[[], CodeInterpreter] | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Produce the signature's outputs.

        Args:
            interpreter_factory: makes the interpreter of this call; overrides the constructor's and the configured one.
            inputs: the signature's input fields; and ``stop``, a ``threading.Event`` that ends this run with the best
                answer so far when it is set (unless the signature has an input of that name).

        Returns:
            The outputs, ``trajectory``, ``final_reasoning`` and ``run``, the full record.

        Raises:
            RLMError: with the partial record as ``run``; a provider's failure is also an instance of DSPy's class.
        """
        stop = self._taken_stop(inputs)
        validate_inputs(self.signature, inputs)
        factory = chosen_factory(interpreter_factory, self._interpreter_factory)
        deadlines.load_engines(*self._possible_lms())
        return self._drive_loop(self._make_session(inputs, factory, stop), factory)

    def session(
        self,
        *,
        ledger: Literal["shared", "per_turn"] = "per_turn",
        interpreter_factory: Callable[[], CodeInterpreter] | None = None,
        **inputs: Any,
    ) -> Talk:
        """Begin a conversation: its turns share one interpreter, and the history if the signature has one.

        Args:
            ledger: ``"shared"`` for one budget over all turns, ``"per_turn"`` for one for each.
            interpreter_factory: as for a call.
            inputs: inputs of every turn.

        Raises:
            ConfigurationError: an input is not in the signature, or the ledger is unknown.

        Example:
            >>> with rlm.session(context=text, ledger="shared") as talk:
            ...     talk(question="Who is Ishmael?")
            ...     talk(question="And what is his ship called?").answer
        """
        factory = chosen_factory(interpreter_factory, self._interpreter_factory)
        return Talk(self, factory, ledger, self._callback_inputs(inputs))

    def _make_session(
        self, inputs: dict[str, Any], factory: Callable[[], CodeInterpreter], stop: threading.Event | None
    ) -> Session:
        if isinstance(factory, KeptInterpreter):
            account = factory.account
        else:
            account = None
        return Session(self, self.signature, inputs, self._child_factory(factory), stop=stop, account=account)

    def _possible_lms(self) -> list[Any]:
        """Return the LMs that a call may use."""
        return [dspy.settings.lm, self.sub_lm, *(predictor.lm for predictor in self.predictors())]

    def _taken_stop(self, inputs: dict[str, Any]) -> threading.Event | None:
        """Remove this call's stop flag from its inputs; the program's own is the default."""
        if "stop" in self.signature.input_fields:
            return self.stop
        stop = inputs.pop("stop", None)
        if stop is not None and not hasattr(stop, "is_set"):
            raise ConfigurationError(f"stop must be a threading.Event, not {stop!r}")
        return stop or self.stop

    def _drive_loop(self, session: Session, factory: Callable[[], CodeInterpreter]) -> dspy.Prediction:
        """Perform the loop's requests until it ends."""
        with session, closing(self._make_repl(session, factory)) as repl, translated_errors():
            repl.open()
            session.note_opened(repl.has_toolkit, repl.take_warnings())
            answer: Any = None
            with closing(loop.run_loop(session, session.loop_settings())) as flow:
                while True:
                    try:
                        need = flow.send(answer)
                    except StopIteration as stop:
                        return finish_prediction(session, stop.value)
                    if message := status_message(session, need):
                        with suppress(RuntimeError):  # a thread that DSPy did not start cannot reach the stream
                            sync_send_to_stream(dspy.settings.send_stream, message)
                    if isinstance(need, Execute):
                        answer = execute_cell(session, repl, need)
                    else:
                        answer = ask_predictor(session, need)

    async def aforward(
        self, *, interpreter_factory: Callable[[], CodeInterpreter] | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Produce the signature's outputs as :meth:`forward` does, never blocking the event loop."""
        stop = self._taken_stop(inputs)
        validate_inputs(self.signature, inputs)
        factory = chosen_factory(interpreter_factory, self._interpreter_factory)
        # In threads: the window may have to be looked up first, and a large input takes a moment to describe.
        await asyncio.to_thread(deadlines.load_engines, *self._possible_lms())
        session = await asyncio.to_thread(self._make_session, inputs, factory, stop)
        if isinstance(factory, KeptInterpreter):
            thread = factory.thread
        else:
            thread = None
        with session, translated_errors():
            async with repl_in_thread(self._make_repl(session, factory), thread) as (repl, run):
                return await _adrive_loop(session, repl, run)

    def _child_factory(self, factory: Callable[[], CodeInterpreter]) -> Callable[[Session], Child]:
        """Return a function that makes a session's children: the child program, on the same kind of interpreter."""
        tuned = self.child

        def bound(parent: Session) -> Child:
            def child(signature: type[dspy.Signature], inputs: dict[str, Any], span: int) -> tuple[dict[str, Any], Run]:
                program = tuned or parent.rlm._make_child()
                session = Session(program, signature, inputs, program._child_factory(factory), parent, parent_span=span)
                try:
                    # Untuned children leave nothing in the trace, because optimizers match it to predictors.
                    with nullcontext() if tuned else dspy.context(trace=[]):
                        predicted = _call_child(program, session, factory, wrap_long_texts(inputs))
                finally:
                    parent.add(session.by_model)
                return {name: predicted[name] for name in signature.output_fields}, session.record()

            return child

        return bound

    def _make_repl(self, session: Session, factory: Callable[[], CodeInterpreter]) -> Repl:
        """Make the interpreter of one call, with its tools."""
        interpreter = factory()
        validate_interpreter(interpreter)
        rules = getattr(factory, "execution_instructions", "")
        if not isinstance(rules, str):
            raise TypeError("interpreter_factory.execution_instructions must be a string")
        is_kept = isinstance(factory, KeptInterpreter) and not session.ledger.depth
        if is_kept:
            session.interpreter_rules = f"{rules} {KEPT_NAMES}"
        else:
            session.interpreter_rules = rules
        outputs = session.signature.output_fields.items()
        fields = [output_field(name, field, finds_quotes=session.small) for name, field in outputs]
        tools = {**session.subcalls.functions, **session.recursion.functions, **self._tools}
        corpus: Any = session.values.get(session.main or "")
        if isinstance(interpreter, Sandbox) and hasattr(corpus, "search_index") and corpus.index.ready():
            tools[toolkit.INDEXED] = corpus.search_index
        else:
            interpreter.tools.pop(toolkit.INDEXED, None)
        if not isinstance(factory, KeptInterpreter):
            return Repl(interpreter, session.repl_values, tools, fields, session.main)
        repl = Repl(interpreter, session.repl_values, tools, fields, session.main, factory.release)
        if not session.ledger.depth:
            repl.warnings += factory.take_warnings()
        return repl


async def _adrive_loop(session: Session, repl: Repl, run: Callable[..., Awaitable[Any]]) -> dspy.Prediction:
    """Perform the loop's requests until it ends; ``run`` makes calls in the interpreter's thread."""
    await run(repl.open)
    session.note_opened(repl.has_toolkit, repl.take_warnings())
    answer: Any = None
    with closing(loop.run_loop(session, session.loop_settings())) as flow:
        while True:
            try:
                need = flow.send(answer)
            except StopIteration as stop:
                return finish_prediction(session, stop.value)
            if message := status_message(session, need):
                await dspy.settings.send_stream.send(message)
            if isinstance(need, Execute):
                answer = await run(execute_cell, session, repl, need)
            else:
                answer = await aask_predictor(session, need)


def chosen_factory(
    called: Callable[[], CodeInterpreter] | None, constructed: Callable[[], CodeInterpreter] | None
) -> Callable[[], CodeInterpreter]:
    """Return the interpreter factory of a call: its own, the constructor's, the configured one, or our sandbox."""
    chosen: Any = called or constructed
    if called is None and (chosen is None or chosen is dspy.PythonInterpreter):
        chosen = resolve_interpreter_factory(chosen)
        # DSPy's default means "nothing was chosen"; we then use our own sandbox where it is available.
        if chosen is dspy.PythonInterpreter:
            chosen = default_factory()
    validate_interpreter_factory(chosen)
    factory: Callable[[], CodeInterpreter] = chosen
    return factory


CHOICES = {
    "on_limit": ("extract", "raise"),
    "depth_policy": ("plain", "raise"),
    "profile": ("auto", "small", "standard"),
    "content": ("full", "short", "none"),
}


def _check_choices(**chosen: str) -> None:
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ConfigurationError(f"{name} must be {' or '.join(map(repr, CHOICES[name]))}, not {value!r}")


def _check_sub_lm(sub_lm: Any) -> None:
    if sub_lm is None or callable(sub_lm):
        return
    if isinstance(sub_lm, str):
        advice = f": use rlm_dspy.lm({sub_lm!r})"
    else:
        advice = ""
    raise ConfigurationError(f"sub_lm must be an LM or a function, not {sub_lm!r}{advice}")


def finish_prediction(session: Session, ending: loop.Ending) -> dspy.Prediction:
    """Close the record and return the prediction with it."""
    run = session.finish(ending)
    steps = trajectory_of(session.steps)
    history = session.next_history(ending.outputs)
    return RLMPrediction.of(ending.outputs, run, history, trajectory=steps, final_reasoning=ending.reasoning)


def _call_child(program: RLM, session: Session, factory: Callable[[], CodeInterpreter], inputs: dict[str, Any]) -> Any:
    """Run a child the way DSPy calls a module, so that callbacks see it with its steps nested under it."""

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(instance: RLM, **values: Any) -> dspy.Prediction:
        return instance._drive_loop(session, factory)

    return __call__(program, **inputs)


def wrap_long_texts(inputs: dict[str, Any]) -> dict[str, Any]:
    """Wrap long texts so that they render as one line."""
    wrapped = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, str) and len(value) > MIN_HANDLE_CHARS:
            wrapped[name] = Context(value)
    return wrapped
