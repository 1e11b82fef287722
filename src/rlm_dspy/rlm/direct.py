"""One typed call over the whole context, or over the passages that best match the question.

Small inputs are better served by one call over everything than by an RLM; an answer found in one place may need only
the best passages. ``Direct`` is called like an :class:`~rlm_dspy.RLM` and records a run like one, so they are
interchangeable.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import deadlines
from rlm_dspy._dspy import engine_of
from rlm_dspy.budget import Budget, Ledger
from rlm_dspy.context import Context
from rlm_dspy.counting import counted_noun, estimate_tokens
from rlm_dspy.dspy_errors import failed_generation, translated_errors
from rlm_dspy.errors import ActionError, BudgetExceededError, ConfigurationError
from rlm_dspy.evidence import unseen_numbers
from rlm_dspy.lms import streams, windows
from rlm_dspy.metering import Meter, token_cost
from rlm_dspy.replay import root_run_id
from rlm_dspy.rlm.adapters import answer_adapter
from rlm_dspy.rlm.history import earlier_turns, fitting_turns, next_history
from rlm_dspy.rlm.inputs import QUESTION_FIELDS, is_context, main_context, quotable_inputs, task_of
from rlm_dspy.rlm.outputs import (
    answers_beside,
    evidence_records,
    holds_evidence,
    jsonable_outputs,
    limit_problems,
    locate_evidence,
    missing_evidence,
    render_input,
)
from rlm_dspy.rlm.passages import best_passages, place_of
from rlm_dspy.rlm.prediction import RLMPrediction
from rlm_dspy.rlm.prompts import chars_of
from rlm_dspy.rlm.replies import explain_cut, visible_text
from rlm_dspy.rlm.signatures import TAKEN, check_budget, history_field, read_signature, validate_inputs
from rlm_dspy.rlm.step_texts import clean_for_prompt
from rlm_dspy.rlm.subcalls import explain_unread
from rlm_dspy.rlm.submit_checks import engine_warnings
from rlm_dspy.run import UNFINISHED, Event, Run, stopping_facts, unread
from rlm_dspy.sandbox.toolkit import count_lines
from rlm_dspy.sandbox.toolkit.ranking import PASSAGE
from rlm_dspy.spans import Recorder
from rlm_dspy.telemetry import trace_if_configured

NO_PASSAGE = "in which no passage fits the question"
SHOWN_PASSAGES = 6  # shown in the mode "retrieve"
# Set when the awaiting task has been cancelled or has finished.
_OVER: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("over", default=None)


class Direct(deadlines.Stoppable, dspy.Module):  # type: ignore[misc]
    """Answers a signature with one call that has every input in its prompt.

    Args:
        signature: as for an RLM; a corpus is written into the prompt file by file.
        passages: the number of passages (300 to 900 characters each) of the main context to show, best match first; the
            run's warnings state the share shown. None shows all.
        budget: ``max_tokens`` and ``max_cost`` refuse a prompt that alone passes them, before it is sent;
            ``max_seconds`` ends the wait for the reply. The other limits have no effect here.
        on_event: called with each event, for a status line.
    """

    def __init__(
        self,
        signature: Any,
        *,
        passages: int | None = None,
        budget: Budget | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__()
        if passages is not None and passages < 1:
            raise ConfigurationError(f"passages must be at least 1, not {passages}")
        self.passages = passages
        self.signature = read_signature(signature)
        if taken := sorted(TAKEN & set(self.signature.input_fields)):
            raise ConfigurationError(f"Input fields have names that dspy.Predict keeps for itself: {taken}")
        self.budget = check_budget(budget)
        self.on_event = on_event
        flat = self.signature
        for name, field in self.signature.input_fields.items():
            if field.annotation is Context or hasattr(field.annotation, "sandbox_index"):
                flat = flat.with_updated_fields(name, type_=str)
        self._history = history_field(flat)
        if self._history:  # also if it may be None, which DSPy does not read
            flat = flat.with_updated_fields(self._history, type_=dspy.History)
        self.predict = dspy.Predict(flat)

    def forward(self, **inputs: Any) -> Any:
        """Make the call, locate its evidence, and return the prediction with its ``run``.

        Raises:
            BudgetExceededError: the prompt alone exceeds ``max_tokens`` or ``max_cost``, or ``max_seconds`` elapsed.
            ActionError: the model's reply does not contain the outputs.
        """
        validate_inputs(self.signature, inputs)
        values = dict(inputs)
        for name, value in inputs.items():
            if isinstance(value, Context):
                values[name] = value.text
        past = values.pop(self._history or "", None)
        # Before any event is sent, because loading is not the model's time.
        deadlines.load_engines(self.predict.lm or dspy.settings.lm)
        with _Call(self, values) as call:
            shown = {name: prompt_text(value) for name, value in self._selected_inputs(values, call).items()}
            history, size = self._shown_history(past, shown, call)
            call.admit(sum(estimate_tokens(len(text)) for text in shown.values() if isinstance(text, str)) + size)
            callbacks = [*dspy.settings.callbacks, call.meter]
            settings = dspy.context(callbacks=callbacks, adapter=answer_adapter())
            with translated_errors(), call.shown_text(), settings:
                prediction = self._call_predictor({**shown, **history}, call)
            if cut := explain_cut(call.meter.finish):
                call.warnings.append(f"the answer may be incomplete. {cut}")
            outputs = {name: prediction.get(name) for name in self.signature.output_fields}
            run = call.finish(outputs)
        if self._history:
            after = next_history(past, self.signature, inputs, outputs)
        else:
            after = None
        return RLMPrediction.of(outputs, run, after)

    async def aforward(self, **inputs: Any) -> Any:
        """Make the call as :meth:`forward` does, in one of DSPy's threads, which can stream a reply.

        Cancelling the call ends its request.
        """
        over = threading.Event()
        token = _OVER.set(over)
        try:
            return await dspy.asyncify(partial(type(self).forward, self))(**inputs)
        finally:
            over.set()
            _OVER.reset(token)

    def _shown_history(self, past: Any, shown: Mapping[str, Any], call: _Call) -> tuple[dict[str, dspy.History], int]:
        """Return the history that fits beside the other inputs, and its tokens; the oldest turns are left out."""
        if self._history is None:
            return {}, 0
        turns = [{**turn.inputs, **turn.outputs} for turn in earlier_turns(self.signature, past)]
        taken = sum(len(text) for text in shown.values() if isinstance(text, str))
        room = windows.prompt_capacity_chars(self.predict.lm or dspy.settings.lm) - taken
        messages, left_out = fitting_turns(turns, max(0, room))
        if left_out:
            kept = len(turns) - left_out
            call.warnings.append(f"the prompt shows {kept} of {len(turns)} earlier turns: more do not fit the window")
        history = dspy.History(messages=prompt_text(messages))
        return {self._history: history}, sum(estimate_tokens(len(str(message))) for message in messages)

    def _selected_inputs(self, values: Mapping[str, Any], call: _Call) -> dict[str, Any]:
        """Return the inputs, with the main context reduced to its best passages if ``passages`` is set."""
        selected = dict(values)
        main, question = main_context(values), task_of(values)
        if self.passages is None or main is None or not question or main in QUESTION_FIELDS:
            return selected
        whole = chars_of(values[main])
        if whole <= self.passages * PASSAGE:
            return selected
        found = best_passages(values[main], question, self.passages)
        text = "\n\n".join(f"[{place_of(passage)}]\n{passage['text']}" for passage in found)
        what = f"{counted_noun(len(found), 'passage')} of `{main}` that fit the question best"
        if not found:
            text = prompt_text(values[main])[: self.passages * PASSAGE]
            what = f"the beginning of `{main}`, {NO_PASSAGE}"
        selected[main] = text
        call.warnings.append(f"the model was shown {what} ({len(text):,} of {whole:,} characters)")
        return selected

    def _call_predictor(self, shown: dict[str, Any], call: _Call) -> Any:
        meter, lm = call.meter, self.predict.lm or dspy.settings.lm
        cancelled = _OVER.get()
        deadline = deadlines.Deadline(self.budget.max_seconds, self.stop or cancelled, cancelled)
        here = dspy.settings.send_stream is not None  # a streamed reply must be sent from this very thread

        def ask() -> Any:
            return deadlines.call(
                deadline, lm, lambda: self.predict(**shown), lambda: self.predict.acall(**shown), here=here
            )

        try:
            try:
                return ask()
            except DSPyLMError as error:
                if failed_generation(error) is None:
                    raise
            # The provider could not parse the model's own reply. This is a bad sample; the next may be good.
            return ask()
        except deadlines.Interrupted as interrupted:
            limit = interrupted.limit
            message = f"{limit} ended the call before {getattr(lm, 'model', 'the model')} replied"
            if used := call.ledger.used_text(limit):
                message += f" ({used})"
            if meter.last_wait:
                message += f": {meter.last_wait}"
            raise BudgetExceededError(f"{message}.", limit=limit) from None
        except AdapterParseError as error:
            why = explain_cut(meter.finish) or ""
            if not why and visible_text(error.lm_response or "") is None:
                why = "The reply ended inside its thinking."
            message = f"the model's reply cannot be read: {explain_unread(error)}. {why}".rstrip()
            raise ActionError(message) from error


class _Call:
    """The ledger and the record of one direct call; as a context manager it attaches the run to exceptions."""

    def __init__(self, program: Direct, values: Mapping[str, Any]) -> None:
        self.program = program
        self.values = values
        self.ledger = Ledger(program.budget)
        trace_if_configured()
        self.recorder = Recorder()
        self._id, self._started = root_run_id(), time.time()
        signature = program.signature.signature
        self._span = self.recorder.start("run", signature, record=self._header(), run=self._id, step=0, depth=0)
        self.meter = Meter(partial(self._emit_event, "wait"), self.recorder, self._span)
        self._evidence: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    @property
    def shows_text(self) -> bool:
        """Whether the watcher wants the text of the reply as it arrives."""
        return bool(getattr(self.program.on_event, "wants_text", False))

    @contextmanager
    def shown_text(self) -> Iterator[None]:
        """Emit the text of a reply as it arrives, if the watcher wants it."""
        on_text = (lambda text: self._emit_event("text", text or "")) if self.shows_text else None
        token = streams.ON_TEXT.set(on_text)
        try:
            yield
        finally:
            streams.ON_TEXT.reset(token)

    def admit(self, estimate: int) -> None:
        """Refuse a prompt that exceeds the budget, and emit the event that the call begins."""
        limit = self.program.budget.max_tokens
        if limit is not None and estimate >= limit:
            raise BudgetExceededError(
                f"the prompt alone has about {estimate:,} tokens, max_tokens is {limit:,}. "
                "Raise it, name fewer files, or use the rlm mode.",
                limit="max_tokens",
            )
        self._check_cost(estimate)
        self._emit_event("step")

    def _check_cost(self, estimate: int) -> None:
        limit, lm = self.program.budget.max_cost, self.program.predict.lm or dspy.settings.lm
        if limit is None:
            return
        in_batch = getattr(engine_of(lm), "in_batch", False)
        price = token_cost(str(getattr(lm, "model", "")), estimate, in_batch=in_batch)
        if price is None:
            self.warnings.append(f"the price of {getattr(lm, 'model', '')} is unknown, so max_cost was not enforced")
        elif price >= limit:
            raise BudgetExceededError(
                f"the prompt alone costs about ${price:.4f}, max_cost is ${limit:.4f}. "
                "Raise it, name fewer files, or use the rlm mode.",
                limit="max_cost",
            )

    def finish(self, outputs: dict[str, Any]) -> Run:
        """Locate the evidence in place and close the record."""
        self.warnings += limit_problems(self.program.signature, outputs)
        contexts, answers = quotable_inputs(self.values), answers_beside(self.program.signature, outputs)
        fields = self.program.signature.output_fields
        for name in missing_evidence(self.program.signature, self.meter.outputs):
            self.warnings.append(f"the model's reply has no {name}: the answer stands alone")
        for name in fields:
            outputs[name], found, problems = locate_evidence(outputs[name], contexts, answers)
            self._evidence += evidence_records(found, contexts)
            self.warnings += [f"unverified evidence in {name}: {problem}" for problem in problems]
        plain = {name: value for name, value in outputs.items() if not holds_evidence(fields[name].annotation)}
        self.warnings += unseen_numbers(plain, (), {k: v for k, v in self.values.items() if is_context(v)})
        return self._close_record("submitted", outputs=jsonable_outputs(outputs))

    def __enter__(self) -> _Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and getattr(error, "run", None) is None:
            error.run = self._close_record("stopped", **stopping_facts(error))  # type: ignore[attr-defined]

    def _close_record(self, status: Any, **facts: Any) -> Run:
        self.meter.abandon_calls()
        self._emit_event("final", status)
        facts |= {
            "status": status,
            "usage": self.meter.usage,
            "usage_by_model": self.meter.by_model,
            "seconds": self.ledger.seconds,
            "evidence": tuple(self._evidence),
            "warnings": (*self.warnings, *engine_warnings(self._header().model, task_of(self.values))),
        }
        run = Run(**{**dict(self._header()), "stopped_by": None, **facts})
        self.recorder.end(self._span, run, error=run.error)
        problems = self.recorder.problems
        return run.model_copy(update={"spans": self.recorder.spans, "warnings": (*run.warnings, *problems)})

    def _header(self) -> Run:
        """Return the initial record. If the process is killed, this is what remains."""
        program = self.program
        model = getattr(program.predict.lm or dspy.settings.lm, "model", "")
        return Run(
            id=self._id,
            started=self._started,
            status="stopped",
            stopped_by=UNFINISHED,
            signature=program.signature.signature,
            model=model,
            sub_model=model,
            inputs={name: render_input(value) for name, value in self.values.items()},
            unread=unread(self.values),
        )

    def _emit_event(self, kind: Any, text: str = "", seconds: float = 0.0) -> None:
        if self.program.on_event and (kind != "text" or self.shows_text):
            facts: dict[str, Any] = {"text": text, "usage": self.meter.usage, "seconds": seconds, "run_id": self._id}
            self.program.on_event(Event(kind=kind, step=1, max_steps=1, **facts))


def prompt_text(value: Any) -> Any:
    """Return a value in a form fit for a prompt; a corpus becomes text, each file under a line with its name."""
    if isinstance(value, str):
        return clean_for_prompt(value)
    if type(value) in (list, tuple):
        return type(value)(map(prompt_text, value))
    if type(value) is dict:
        return {prompt_text(key): prompt_text(item) for key, item in value.items()}
    if not hasattr(value, "sandbox_index"):
        return value
    parts = (f"=== {name} ({counted_noun(count_lines(text), 'line')}) ===\n{text}" for name, text in value.items())
    return clean_for_prompt("\n\n".join(parts))
