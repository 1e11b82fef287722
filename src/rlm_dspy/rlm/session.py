"""One call of an RLM: its inputs, what the loop asks of it, and the resulting record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from rlm_dspy import deadlines
from rlm_dspy._dspy import call_signature
from rlm_dspy.budget import Budget, Ledger, Reservation
from rlm_dspy.counting import CHARS_PER_TOKEN, counted_noun, estimate_tokens
from rlm_dspy.dspy_errors import BadSampleError, NoModelError
from rlm_dspy.lms import streams, windows
from rlm_dspy.metering import Meter, token_cost
from rlm_dspy.replay import new_run_id, root_run_id
from rlm_dspy.rlm import compaction, dspy_states, prompts, small_prompts
from rlm_dspy.rlm.adapters import action_adapter, answer_adapter, is_plain
from rlm_dspy.rlm.children import Child, Children
from rlm_dspy.rlm.compaction import Turn
from rlm_dspy.rlm.history import ShownTurns, earlier_turns, messages_of, next_history
from rlm_dspy.rlm.images import ImageHandle, Images
from rlm_dspy.rlm.inputs import QUESTION_FIELDS, input_warnings, main_context, quotable_inputs, repl_inputs, task_of
from rlm_dspy.rlm.loop import SPENT_LIMITS, Ask, Ending, Extract, LoopSettings, ModelReply, Observation
from rlm_dspy.rlm.outputs import (
    evidence_records,
    holds_evidence,
    jsonable_outputs,
    missing_evidence,
    render_input,
)
from rlm_dspy.rlm.passages import best_lines, linked_lines
from rlm_dspy.rlm.predictor import Predictor
from rlm_dspy.rlm.replies import explain_cut
from rlm_dspy.rlm.signatures import history_field
from rlm_dspy.rlm.step_texts import Form, StepTexts, clean_for_prompt
from rlm_dspy.rlm.subcalls import SubCalls, as_lm
from rlm_dspy.rlm.submit_checks import AnswerChecks, engine_warnings
from rlm_dspy.run import (
    UNFINISHED,
    Event,
    EventKind,
    Run,
    Step,
    SubCall,
    Usage,
    add_usage,
    cut_text,
    replace_surrogates,
    shortened,
    stopping_facts,
    unread,
)
from rlm_dspy.spans import Recorder
from rlm_dspy.telemetry import trace_if_configured

# A child of DSPy's own logger, which shows INFO in a plain script, so that ``verbose=True`` is visible as in DSPy.
dspy_logger = logging.getLogger("dspy.rlm_dspy")

if TYPE_CHECKING:
    from rlm_dspy.rlm.module import RLM

MAX_EXTRACT_CHARS = 60_000  # characters of the trajectory shown in the extract prompt
OVERHEAD_TOKENS = 1_000  # tokens of a prompt's instructions
PAST_CODE = "# that turn is done"  # the code of an earlier turn, where an adapter shows one
MAX_SMALL_CALLS = 16  # sub-calls of a run with a small main model, which would otherwise flood the sub-model
MAX_SMALL_REPLY_TOKENS = 2_048  # tokens of its replies
STEP_TIME_SHARE = 0.85  # share of max_seconds that steps may use; the rest is for the extract
# Called with the events of every run in the current context; set by ``RLM.stream``.
WATCHER: ContextVar[Callable[[Event], None] | None] = ContextVar("rlm_dspy_watcher", default=None)


class Session:
    """The state of one call; as a context manager it attaches the partial run to exceptions."""

    def __init__(
        self,
        rlm: RLM,
        signature: type[dspy.Signature],
        inputs: Mapping[str, Any],
        child: Callable[[Session], Child],
        parent: Session | None = None,
        stop: threading.Event | None = None,
        parent_span: int | None = None,
        account: Ledger | None = None,
    ) -> None:
        self.rlm: RLM = rlm
        self.signature = signature
        self.given = dict(inputs)
        self.images = Images(repl_inputs(signature, inputs))
        self.values = self.images.values
        self.main = main_context(self.values)
        self.lm = getattr(rlm.generate_action, "lm", None)
        if parent:  # a child replaces the sub-model
            self.lm = parent.subcalls.lm or self.lm
        chosen = self.lm or dspy.settings.lm
        self.small = windows.is_small_profile(rlm.profile, chosen)
        self.calls = rlm.budget.max_llm_calls
        if self.small:
            self.calls = min(self.calls, MAX_SMALL_CALLS)
        left = self.calls if account is None else min(self.calls, account.calls_left)
        budget = rlm.budget.model_copy(update={"max_llm_calls": left})
        self._started, self._clock = time.time(), time.perf_counter()
        if parent:
            self._begin_as_child(budget, parent)
        else:
            self._begin_as_root(budget, account, stop)
        self.span = self.recorder.start(
            "run", signature.signature, parent_span, self._header(), run=self._id, depth=self.ledger.depth, step=0
        )
        self._step_span: int | None = None
        self._cell_span: int | None = None
        self.subcalls: SubCalls = self._make_subcalls()
        self.recursion = Children(self.subcalls, child(self), rlm.depth_policy, self._own_text(), task_of(self.values))
        self.room = windows.prompt_capacity_chars(chosen)
        self.steps: list[Step] = []
        self._lock = threading.Lock()
        self.by_model: dict[str, Usage] = {}
        self.run: Run | None = None
        self.checks = AnswerChecks(
            signature, self.values, self._shown_texts, finds_quotes=self.small, asks_for_source=self.tiny
        )
        self.last_wait = ""  # what the last call waited for when a limit ended it
        self.code = ""  # the code the model wrote last
        self._reasoning = ""  # what it wrote about it
        self._signature: Any = None
        self._protocol_text: str | None = None
        self.interpreter_rules = ""
        self.has_toolkit = True
        self.found_lines: list[str] = []  # of the main context, with words of the question
        self.earlier = self._earlier_turns()
        if self.earlier:
            self.probe = self.earlier.probe
        else:
            self.probe = clean_for_prompt(self._view_inputs(self.values))

    def _begin_as_root(self, budget: Budget, account: Ledger | None, stop: threading.Event | None) -> None:
        self._id = self._root_id = root_run_id()
        self.stop: threading.Event | None = stop
        self._over: threading.Event = threading.Event()
        self._last_call: Reservation | None = None
        self.ledger: Ledger = Ledger(budget, account, is_turn=account is not None)
        self._watchers: tuple[Callable[[Event], None], ...] = tuple(
            watcher for watcher in (self.rlm.on_event, WATCHER.get()) if watcher
        )
        trace_if_configured()  # must come before the recorder, which notifies it of each span
        self.recorder: Recorder = Recorder(self.rlm.content)
        self.warnings: list[str] = input_warnings(self.signature, self.values)

    def _begin_as_child(self, budget: Budget, parent: Session) -> None:
        self._id, self._root_id = new_run_id(), parent._root_id
        self.ledger = Ledger(budget, parent.ledger)
        # It reserves its last call before its first, so that it can always answer.
        self._last_call = self.ledger.reserve(OVERHEAD_TOKENS, sub_call=True)
        self.stop, self._over = parent.stop, parent._over
        self._watchers = parent._watchers
        self.recorder = parent.recorder
        self.warnings = []

    def _make_subcalls(self) -> SubCalls:
        return SubCalls(
            self.rlm.sub_lm or self.lm,
            self.ledger,
            self.deadline_for,
            self._record_call,
            partial(self.emit, "wait"),
            self.recorder,
            lambda: self._cell_span or self._step_span or self.span,
            self.images,
        )

    def _earlier_turns(self) -> ShownTurns | None:
        """Return the earlier turns of the conversation, None if the signature has no history."""
        name = history_field(self.signature)
        if name is None:
            return None
        turns = earlier_turns(self.signature, self.given.get(name))
        room, view = max(0, self.room - OVERHEAD_TOKENS * CHARS_PER_TOKEN), self._view_inputs
        return ShownTurns(turns, self.given, self.values, view, name=name, room=room, is_numbered=not self.tiny)

    def _view_inputs(self, values: Mapping[str, Any], unchanged: frozenset[str] = frozenset()) -> str:
        """Return the host's view of the inputs of a turn: of this one, the first observation."""
        fields, task = self.signature.input_fields, task_of(values)
        if not self.small:
            whole = min(prompts.MAX_WHOLE_CHARS, self.room // 3)
            return prompts.render_probe(values, fields, self.main, whole, unchanged)
        found: list[str] = []
        # Earlier turns are shown without their found lines: every call would have to search for them again.
        if task and self.main and self.main not in QUESTION_FIELDS and values == self.values:
            most, chars = small_prompts.MAX_FOUND_LINES, small_prompts.MAX_FOUND_CHARS
            found = best_lines(values[self.main], task, most, chars)
            self.found_lines = list(found)
            found += linked_lines(values[self.main], task, found, small_prompts.MAX_LINKED_LINES)
        call = small_prompts.final_call(self.signature)
        return small_prompts.render_probe(values, task, self.main, found, call, unchanged)

    @property
    def repl_values(self) -> dict[str, Any]:
        """The variables of the REPL: the inputs, and the earlier turns as a list of dicts."""
        plain = dict(self.values)
        for name, value in self.values.items():
            if isinstance(value, ImageHandle):
                plain[name] = str(value)
        if self.earlier is not None:
            plain[self.earlier.name] = self.earlier.for_repl
        return plain

    @property
    def past_text(self) -> str:
        """What the prompt shows of earlier turns."""
        if self.earlier:
            return self.earlier.as_text(self.earlier.chars)
        return ""

    def next_history(self, outputs: Mapping[str, Any]) -> dspy.History | None:
        """Return the history with this turn, None if the signature has none."""
        if self.earlier is None:
            return None
        return next_history(self.given.get(self.earlier.name), self.signature, self.given, outputs)

    @property
    def tiny(self) -> bool:
        """Whether to treat the model as one that repeats itself and makes up answers."""
        if self.rlm.profile == "auto":
            return windows.is_tiny(self.lm or dspy.settings.lm)
        return self.rlm.profile == "small"

    def _main_text_name(self) -> str | None:
        """Return the name of the main context if it is a text and not the question itself."""
        if self._own_text() is not None and self.main not in QUESTION_FIELDS:
            return self.main
        return None

    def _own_text(self) -> str | None:
        value = self.values.get(self.main or "")
        if isinstance(value, str):
            return value
        return None

    def note_opened(self, has_toolkit: bool, warnings: list[str]) -> None:
        """Record that the interpreter is ready, and whether it has the toolkit."""
        self.has_toolkit = has_toolkit
        self.warnings += warnings
        self.emit("probe", self.probe)

    def record(self) -> Run:
        """Return the record of the finished run."""
        assert self.run is not None
        return self.run

    # --- what the loop asks of its call -------------------------------------------------------------------------

    def loop_settings(self) -> LoopSettings:
        """Return what the loop needs to know about this call."""
        return LoopSettings(
            outputs=tuple(self.signature.output_fields),
            max_iters=self.rlm.budget.max_iters,
            on_limit=self.rlm.on_limit,
            probe=self.probe,
            room=max(2 * len(self.probe), self.room - OVERHEAD_TOKENS * CHARS_PER_TOKEN - len(self.past_text)),
            texts=self._step_texts(),
            types=prompts.output_type_names(self.signature),
            past_variable=self._free_name(compaction.VARIABLE),
            stops_at_repeats=self.tiny,
        )

    def _step_texts(self) -> StepTexts:
        outputs = tuple(self.signature.output_fields)
        limit = min(self.rlm.max_output_chars, self.room // 4)
        form: Form = "plain" if is_plain() else "marked"
        reminder = ""
        if self.small:
            limit = min(limit, small_prompts.MAX_OUTPUT_CHARS)
            form = "code" if is_plain() else "marked"
            call = small_prompts.final_call(self.signature)
            reminder = clean_for_prompt(small_prompts.reminder_text(task_of(self.values), call))
        # A small model copies the form it is shown, so the form should print something useful.
        name = self._main_text_name()
        example = f"print({name}[:500])" if name else "print(...)"
        return StepTexts(limit, outputs, form, example, has_bars=self.small, reminder=reminder)

    def validate_answer(self, value: Any, *, strict: bool) -> tuple[dict[str, Any], str | None]:
        """Return the outputs in what was submitted, and a problem or None; ``strict`` includes the evidence."""
        return self.checks.validate(value, self.code, strict=strict)

    def is_overspent(self) -> bool:
        """Return whether the cost has passed its limit."""
        return self.ledger.is_overspent

    def take_sub_calls(self) -> tuple[SubCall, ...]:
        """Return the sub-calls made since the last step."""
        return self.subcalls.take_finished()

    def take_notes(self) -> list[str]:
        """Return the notes for the model about those sub-calls."""
        return self.subcalls.take_notes()

    def header_text(self, step: int) -> str:
        """Return the line that opens an observation; empty for a tiny model, which would write it back."""
        if self.tiny:
            return ""
        if step == 1 and self.earlier:  # no figures: the next turn shows this one as it was
            return self.earlier.header
        return f"[step {step}/{self.rlm.budget.max_iters} · {self.ledger.counters()}]"

    def _free_name(self, name: str) -> str:
        """Return a REPL name that no input or tool has: the user's names take precedence over ours."""
        taken = {*self.repl_values, *self.rlm.tools}
        while name in taken:
            name += "_"
        return name

    def exhausted_limit(self, steps: tuple[Step, ...]) -> str | None:
        """Name the limit that leaves no room for another step (the last prompt and its output) plus the extract."""
        if not steps:
            prompt = f"{self._action_signature().instructions}{self.past_text}{self.probe}"
            first = estimate_tokens(len(prompt))
            price = token_cost(model_name(self.lm or dspy.settings.lm), first) or 0.0
            return self.ledger.exhausted(tokens=first, cost=price, share=STEP_TIME_SHARE)
        last = steps[-1]
        shown = sum(len(step.output) + len(step.code) + len(step.reasoning) for step in steps) + len(self.probe)
        step = last.usage.total_tokens + len(last.output) // CHARS_PER_TOKEN
        extract = min(shown, MAX_EXTRACT_CHARS) // CHARS_PER_TOKEN + OVERHEAD_TOKENS
        price = (last.usage.cost or 0.0) / max(1, last.usage.total_tokens)  # US dollars per token
        needed = step + extract
        return self.ledger.exhausted(tokens=needed, cost=price * needed, share=STEP_TIME_SHARE)

    def used_text(self, limit: str) -> str:
        """Return how much of a limit was used, in parentheses; "" for what is not a limit."""
        if limit == "max_iters":
            return f" ({len(self.steps):,} of {self.rlm.budget.max_iters:,} steps)"
        used = self.ledger.used_text(limit)
        if used and limit == "max_seconds" and self.last_wait:
            used += f"; the last call was {self.last_wait}"
        elif used and limit in SPENT_LIMITS and self.ledger.exhausted() != limit:
            used += ", which leaves too little for another step"
        if used:
            return f" ({used})"
        return ""

    def deadline_for(self, need: Ask | Extract | None = None) -> deadlines.Deadline:
        """Return how long a step may wait; the extract may also use the time reserved for it."""
        left = self.ledger.seconds_left
        if isinstance(need, Extract):
            return deadlines.Deadline(left, None, self._over)
        reserved = (1 - STEP_TIME_SHARE) * (self.ledger.root.budget.max_seconds or 0.0)
        return deadlines.Deadline(None if left is None else max(0.0, left - reserved), self.stop, self._over)

    # --- asking a predictor ------------------------------------------------------------------------------------

    def request(self, need: Ask | Extract) -> tuple[Any, dict[str, Any]]:
        """Return the predictor and the inputs for ``need``."""
        if isinstance(need, Extract):
            if need.limit == "max_iters":
                reached = "max iterations"
            else:
                reached = need.limit
            dspy_logger.warning("RLM reached %s, using extract to get final output", reached)
            probe = self._task_view()
            left = self.room - len(probe) - OVERHEAD_TOKENS * CHARS_PER_TOKEN
            shown = clean_for_prompt(prompts.trajectory_text(need.steps, max(2_000, min(MAX_EXTRACT_CHARS, left))))
            extract = self.rlm.extract
            if not isinstance(extract, Predictor):
                values = dspy_states.inputs_for(probe, need.steps, None, self.rlm.max_output_chars)
                return extract, dspy_states.accepted_inputs(extract, values)
            inputs: dict[str, Any] = {prompts.task_field(self.signature): probe, "trajectory": shown}
            if self.signature is not self.rlm.signature:
                extracting = prompts.extract_signature(self.signature)
                inputs["signature"] = extracting.with_instructions(extract.signature.instructions)
            return extract, self._with_lm(inputs, extract.lm)
        action = self.rlm.generate_action
        if isinstance(action, Predictor) and self.lm is None and dspy.settings.lm is None:
            raise NoModelError("No LM configured. Use dspy.configure(lm=...) or rlm.set_lm(...).")
        if not isinstance(action, Predictor):
            steps, most = self.steps, self.rlm.budget.max_iters
            values = dspy_states.inputs_for(self._task_view(), steps, most, self.rlm.max_output_chars)
            values["signature"] = dspy_states.signature_for(
                action, self._action_signature(), self._protocol_instructions()
            )
            return action, dspy_states.accepted_inputs(action, values)
        history = dspy.History(messages=[*self._past_messages(), *map(turn_message, need.history)])
        inputs = {"signature": self._action_signature(), "history": history, "observation": need.observation}
        if self.small and not any("code" in demo for demo in action.demos):
            inputs["demos"] = [*self._worked_demos, *action.demos]
        if self.small and not getattr(self.lm or dspy.settings.lm, "kwargs", {}).get("max_tokens"):
            inputs["config"] = {"max_tokens": MAX_SMALL_REPLY_TOKENS}
        return action, self._with_lm(inputs)

    def _past_messages(self) -> list[dict[str, str]]:
        """Return the earlier turns as messages of the action's own history."""
        code = "" if is_plain() else PAST_CODE
        shown = self.earlier.exchanges if self.earlier else ()
        return [{"observation": observation, "reasoning": reply, "code": code} for observation, reply in shown]

    def _task_view(self) -> str:
        """Return the earlier turns and then the view of the inputs, for predictors that take no turns."""
        earlier = self.earlier.as_text(self.room // 4) if self.earlier else ""
        if earlier:
            return f"{earlier}\n{self.probe}"
        return self.probe

    def _with_lm(self, inputs: dict[str, Any], own: Any = None) -> dict[str, Any]:
        lm = self.lm if own is None or self.ledger.depth else own
        if lm is None:
            return inputs
        return {**inputs, "lm": lm}

    def _action_signature(self) -> Any:
        """Return the action signature: the predictor's current instructions followed by the protocol."""
        if self._signature is None:
            rlm = self.rlm
            action = rlm.generate_action
            is_own = isinstance(action, Predictor)
            if is_own:
                current = action.signature
            else:
                current = prompts.action_signature(rlm.signature)
            strategy = current.instructions
            is_untuned = strategy == prompts.action_instructions(rlm.signature)
            if self.small and is_untuned:
                strategy = small_prompts.STRATEGY
            self._signature = call_signature(current, f"{strategy}\n\n{self._protocol_instructions()}")
        return self._signature

    def _protocol_instructions(self) -> str:
        """Return the fixed part of the action's instructions."""
        if self._protocol_text is None:
            facts: dict[str, Any] = {
                "calls": self.calls,
                "room": windows.prompt_capacity_chars(self.subcalls.known_lm),
                "tools": self.rlm.tools,
                "toolkit": self.main is not None and self.has_toolkit,
                "evidence": any(holds_evidence(f.annotation) for f in self.signature.output_fields.values()),
                "interpreter": self.interpreter_rules,
            }
            if self.small:
                facts |= {"main": self._example_input(), "corpus": self._main_is_corpus(), "task": self._task_text()}
                self._protocol_text = small_prompts.protocol_text(self.signature, **facts)
            else:
                facts |= {"recursion": self._may_recurse()}
                facts |= {"corpus": any(hasattr(value, "sandbox_index") for value in self.values.values())}
                self._protocol_text = prompts.protocol_text(self.signature, **facts)
            if note := self.subcalls.files_note():
                self._protocol_text = f"{self._protocol_text}\n{clean_for_prompt(note)}"
        return self._protocol_text

    def _main_is_corpus(self) -> bool:
        return hasattr(self.values.get(self.main or ""), "sandbox_index")

    def _example_input(self) -> str | None:
        """Return the name of the input that examples are about, a corpus or a text; None if there is neither."""
        if self._main_is_corpus():
            return self.main
        return self._main_text_name()

    @cached_property
    def _worked_demos(self) -> list[dict[str, Any]]:
        """Return the worked example for the question as a demo; none without a text or corpus, or after other turns."""
        main = self._example_input()
        question = task_of(self.values)
        has_earlier_turns = self.earlier is not None and bool(self.earlier.exchanges)
        if main is None or not question or not self.has_toolkit or has_earlier_turns:
            return []
        value, found = self.values[main], self.found_lines
        return [small_prompts.worked_demo(value, question, main=main, signature=self.signature, found=found)]

    def _task_text(self) -> str:
        """Return the user's own instructions, "" if they are DSPy's default or an optimizer rewrote them."""
        action = self.rlm.generate_action
        untuned = prompts.action_instructions(self.rlm.signature)
        if isinstance(action, Predictor) and action.signature.instructions != untuned:
            return ""
        return prompts.own_instructions(self.rlm.signature)

    def _may_recurse(self) -> bool:
        """Return whether a child may be useful: an input is larger than one sub-call can take."""
        if self.ledger.depth >= self.ledger.root.budget.max_depth:
            return False
        room = windows.prompt_capacity_chars(self.subcalls.known_lm)
        return any(prompts.chars_of(value) > room for value in self.values.values())

    def metered_call(self, need: Ask | Extract) -> MeteredCall:
        """Return the context manager in which the predictor is called for ``need``."""
        size = compaction.conversation_chars(getattr(need, "history", ())) + len(self.past_text)
        return MeteredCall(self, need, estimate_tokens(size), self.step_span(need))

    def reply(self, need: Ask | Extract, predicted: Any, asking: MeteredCall) -> ModelReply:
        """Convert a prediction, or a reply that could not be parsed, to a :class:`ModelReply` for the loop."""
        facts: dict[str, Any] = {"usage": asking.meter.usage, "seconds": time.perf_counter() - asking.started}
        if isinstance(predicted, BadSampleError):
            facts["finish"] = "bad_sample"
        else:
            facts["finish"] = asking.meter.finish
        if isinstance(predicted, AdapterParseError):
            self.code = replace_surrogates(_reply_text(predicted, asking.meter.outputs))
            return ModelReply(text=self.code, **facts)
        if isinstance(need, Extract):
            if cut := explain_cut(asking.meter.finish):
                self.warnings.append(f"the answer may be incomplete. {cut}")
            left_out = missing_evidence(self.signature, asking.meter.outputs)
            names = [name for name in self.signature.output_fields if name not in left_out]
            return ModelReply(outputs={name: value_of(predicted, name) for name in names}, **facts)
        reasoning, code = value_of(predicted, "reasoning") or "", value_of(predicted, "code") or ""
        reply = ModelReply(reasoning=replace_surrogates(str(reasoning)), code=replace_surrogates(str(code)), **facts)
        if self.rlm.verbose:
            number = f"{len(self.steps) + 1}/{self.rlm.budget.max_iters}"
            dspy_logger.info("RLM iteration %s\nReasoning: %s\nCode:\n%s", number, reply.reasoning, reply.code)
        self.code = reply.code or reply.reasoning
        self._reasoning = reply.reasoning
        return reply

    # --- record ------------------------------------------------------------------------------------------------

    def step_span(self, need: Ask | Extract) -> int:
        """Return the span of the current step, started if this is its first call; the extract has its own."""
        if self._step_span is None:
            step = 0 if isinstance(need, Extract) else len(self.steps) + 1
            name = "extract" if isinstance(need, Extract) else "step"
            self._step_span = self.recorder.start("step", name, self.span, step=step)
        return self._step_span

    @contextmanager
    def recorded_cell(self, code: str) -> Iterator[Callable[[Observation], Observation]]:
        """Record a cell; yields a function that takes its result and returns it."""
        self.emit("code", code, reasoning=self._reasoning)
        span = self._cell_span = self.recorder.start("cell", "", self._step_span or self.span, input=code)
        facts: dict[str, Any] = {"error": "the run ended in this cell"}

        def finished(seen: Observation) -> Observation:
            facts.update(output=seen.text, error=seen.error)
            return seen

        try:
            yield finished
        finally:
            self._cell_span = None
            self.recorder.end(span, **facts)

    def record_step(self, step: Step) -> None:
        """Add a step to the record."""
        if self._step_span is not None:
            step = step.model_copy(update={"span": self._step_span})
            self.recorder.end(self._step_span, step, error=step.error)
            self._step_span = None
        self.steps.append(step)
        if self.rlm.verbose:
            facts = {"step": step.index, "seconds": step.seconds, "code_length": len(step.code), "failed": step.error}
            size = counted_noun(len(step.output), "character")
            dspy_logger.info("Output (%s):\n%s", size, cut_text(step.output, prompts.PREVIEW_CHARS), extra=facts)
        shown: dict[str, Any] = {"reasoning": step.reasoning, "error": step.error, "step_usage": step.total_usage}
        self.emit("output", step.output, step.seconds, **shown)

    def _record_call(self, call: SubCall, meter: Meter | None) -> None:
        self.add(meter.by_model if meter else {})
        self.emit("sub_call", call.prompt)

    def add(self, by_model: Mapping[str, Usage]) -> None:
        """Add the usage of calls, by model, to the record."""
        with self._lock:
            add_usage(self.by_model, by_model)

    def emit(self, kind: EventKind, text: str, seconds: float = 0.0, **facts: Any) -> None:
        """Send an event to the watchers of the run."""
        if not self._watchers:
            return
        event = Event(
            kind=kind,
            step=len(self.steps) + (kind in {"step", "code", "sub_call"}),
            max_steps=self.rlm.budget.max_iters,
            depth=self.ledger.depth,
            text=text,
            sub_calls=self.ledger.sub_calls,
            usage=self.ledger.usage,
            seconds=seconds,
            run_id=self._root_id,
            **facts,
        )
        for watcher in self._watchers:
            if kind != "text" or getattr(watcher, "wants_text", False):
                watcher(event)

    def _header(self) -> Run:
        """Return the record as known at the start; it is also what a killed run leaves behind."""
        lm = self.lm or dspy.settings.lm
        return Run(
            id=self._id,
            started=self._started,
            status="stopped",
            stopped_by=UNFINISHED,
            content=self.rlm.content,
            signature=self.signature.signature,
            model=model_name(lm),
            sub_model=model_name(as_lm(self.rlm.sub_lm) or lm),
            depth=self.ledger.depth,
            inputs={name: render_input(value) for name, value in self.values.items()} | self._past_inputs(),
            unread=unread(self.values),
        )

    def _past_inputs(self) -> dict[str, str]:
        """Return the history for the record, in one line."""
        name = history_field(self.signature)
        if name is None:
            return {}
        return {name: f"earlier turns: {len(messages_of(self.given.get(name)))}"}

    def finish(self, ending: Ending | None, error: BaseException | None = None) -> Run:
        """Close the record."""
        if self._last_call:
            self._last_call.cancel()
        late = self.subcalls.take_remaining()
        if self.steps and late:  # calls that outlived the cell that made them
            last = self.steps[-1]
            self.steps[-1] = last.model_copy(update={"sub_calls": (*last.sub_calls, *late)})
        ended: dict[str, Any] = {"status": "stopped", **(stopping_facts(error) if error else {})}
        if ending:
            ended = {
                "status": ending.status,
                "stopped_by": ending.stopped_by,
                "outputs": jsonable_outputs(ending.outputs),
                "evidence": evidence_records(self.checks.evidence, quotable_inputs(self.values)),
            }
        failure = ended.get("error")
        self.recorder.end_open(self.span, failure or "it did not end before its run")
        facts: dict[str, Any] = {
            **ended,
            "probe": self.probe,
            "steps": tuple(self.steps),
            "usage": self.ledger.usage,
            "usage_by_model": self.by_model,
            "sub_calls": self.ledger.sub_calls,
            "seconds": time.perf_counter() - self._clock,
            "warnings": (*self.warnings, *self._late_warnings(ending)),
        }
        run = Run(**{**dict(self._header()), **facts})
        self.recorder.end(self.span, run, error=failure)
        if not self.ledger.depth:
            spans = self.recorder.spans
            kept = shortened(run, self.recorder.content)
            warnings = (*kept.warnings, *self.recorder.problems)
            run = kept.model_copy(update={"spans": spans, "warnings": warnings})
        self.run = run
        self.emit("final", run.status)
        return run

    def _late_warnings(self, ending: Ending | None) -> list[str]:
        """Return the warnings known only at the end, such as numbers of the answer that nothing shows."""
        if ending:
            warnings = [*self.checks.warnings, *self.checks.unseen_numbers(ending.outputs)]
            warnings += _lost_calls_warning([call for step in self.steps for call in step.sub_calls])
        else:
            warnings = []
        warnings += engine_warnings(model_name(self.lm or dspy.settings.lm), task_of(self.values))
        if self.rlm.budget.max_cost is not None and self.ledger.usage.cost is None:
            warnings.append("a model's price is unknown, so max_cost does not cover it: limit max_tokens too")
        if self.earlier and self.earlier.left_out:
            total = len(self.earlier.turns)
            shown = total - self.earlier.left_out
            warnings.append(f"the prompt shows {shown} of {total} earlier turns: more do not fit the window")
        return warnings

    def _shown_texts(self) -> list[str]:
        """Return the texts that the model saw: the inputs, the output of the steps, the replies of their sub-calls."""
        shown = [self.past_text, self.probe]
        for step in self.steps:
            shown.append(step.output)
            shown += [call.output for call in step.sub_calls]
        return shown

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.ledger.depth:
            self._over.set()
        if error is not None and getattr(error, "run", None) is None:
            error.run = self.finish(None, error)  # type: ignore[attr-defined]


class MeteredCall:
    """Reserves, meters and settles one call of the action or extract predictor, and sets its adapter and callbacks."""

    def __init__(self, session: Session, need: Ask | Extract, estimate: int, span: int) -> None:
        self.session = session
        self.meter = Meter(partial(session.emit, "wait"), session.recorder, span)
        self.started = time.perf_counter()
        child = session.ledger.depth > 0
        extract = isinstance(need, Extract)
        if extract:
            self._reservation = session._last_call
        else:
            self._reservation = session.ledger.reserve(estimate, sub_call=child)
        settings: dict[str, Any] = {"callbacks": [*dspy.settings.callbacks, self.meter]}
        if isinstance(need, Extract):
            settings["adapter"] = answer_adapter(once=need.limit in SPENT_LIMITS)
        else:
            settings["adapter"] = action_adapter(small=session.small)
        self._context = dspy.context(**settings)
        is_shown = extract and not child and any(getattr(watcher, "wants_text", False) for watcher in session._watchers)
        self._on_text = (lambda text: session.emit("text", text or "")) if is_shown else None

    def __enter__(self) -> MeteredCall:
        self._context.__enter__()
        self._token = streams.ON_TEXT.set(self._on_text)
        return self

    def __exit__(self, *exc: Any) -> None:
        streams.ON_TEXT.reset(self._token)
        self._context.__exit__(*exc)
        session = self.session
        self.meter.abandon_calls()
        if isinstance(exc[1], deadlines.Interrupted):
            session.last_wait = self.meter.last_wait
        else:
            session.last_wait = ""
        if self._reservation:
            self._reservation.settle(self.meter.usage)
        else:
            session.ledger.charge(self.meter.usage)
        session.add(self.meter.by_model)


def _lost_calls_warning(sub_calls: Sequence[SubCall]) -> list[str]:
    """Return a warning if sub-calls failed and were not made again: the answer may lack what they were asked for."""
    answered = {call.prompt for call in sub_calls if call.error is None}
    lost = [call for call in sub_calls if call.error is not None and call.prompt not in answered]
    if not lost:
        return []
    calls = f"{len(lost)} of {counted_noun(len(sub_calls), 'sub-call')}"
    return [f"{calls} failed, so the answer may lack something: {lost[-1].error}"]


def _reply_text(error: AdapterParseError, outputs: Any) -> str:
    """Return the reply that no adapter could parse; DSPy replaces an empty one by a description."""
    if isinstance(error, BadSampleError):
        return str(error.lm_response)
    first = outputs[0] if outputs else None
    if isinstance(first, dict) and first.get("reasoning_content") and not first.get("text"):
        return "<think></think>"  # the server separated the thinking, and there is nothing else
    if isinstance(first, dict):
        is_empty = not (first.get("text") or first.get("tool_calls"))
    else:
        is_empty = first == ""
    if is_empty:
        return ""
    return str(error.lm_response or "")


def model_name(lm: Any) -> str:
    """Return the name of an LM, or ""."""
    name = getattr(lm, "model", "")
    if isinstance(name, str):
        return name
    return ""


def value_of(predicted: Any, name: str) -> Any:
    """Return a field of a predictor's result, which may be a prediction, a dict or any object."""
    if hasattr(predicted, "get"):
        return predicted.get(name)
    return getattr(predicted, name, None)


def turn_message(turn: Turn) -> dict[str, str]:
    """Return a turn of the loop as a message of the action's history."""
    return {"observation": turn.observation, "reasoning": turn.reasoning, "code": turn.code}
