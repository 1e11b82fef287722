"""Plain and typed sub-calls, and functions as LMs: like DSPy's RLM, ``sub_lm`` may be a function."""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import dspy
from dspy.clients.base_lm import BaseLM
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import deadlines
from rlm_dspy.budget import Ledger, Reservation
from rlm_dspy.counting import CHARS_PER_TOKEN, counted_noun, estimate_tokens
from rlm_dspy.dspy_errors import NoModelError, failed_generation
from rlm_dspy.errors import BudgetExceededError, ConfigurationError, RLMError
from rlm_dspy.lms import windows
from rlm_dspy.metering import FUNCTION_PREFIX, TOKENS_OF_PART, Meter, token_cost
from rlm_dspy.rlm.adapters import plain_adapter
from rlm_dspy.rlm.images import (
    MAX_IMAGES,
    Images,
    check_vision,
    cropped_image,
    describe_image,
    holds_image,
    without_parts,
)
from rlm_dspy.rlm.replies import explain_cut, visible_text, without_first_thinking
from rlm_dspy.rlm.reply_outputs import without_end_marker
from rlm_dspy.rlm.signatures import parse_untrusted_signature
from rlm_dspy.rlm.step_texts import without_markers
from rlm_dspy.run import SubCall, SubCallKind, cut_text, replace_surrogates
from rlm_dspy.spans import Recorder


class CallableEngine:
    """Performs a request by calling a function with the prompt as one text."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def complete(self, request: Request) -> Response:
        """Return the function's answer.

        Raises:
            TypeError: the answer is neither a text, a list that begins with one, nor a response.
        """
        answer = self.function(prompt_of(request))
        if isinstance(answer, Response):
            return answer
        first = answer[0] if isinstance(answer, list) and answer else answer
        text = first.get("text") if isinstance(first, dict) else first
        if not isinstance(text, str):
            raise TypeError(f"sub_lm must return a text or a list of texts, not {type(text).__name__}")
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=Usage())


def as_lm(value: Any) -> Any:
    """Return ``value`` if it is an LM, else an LM that calls it."""
    if value is None or isinstance(value, BaseLM) or not callable(value):
        return value
    name = getattr(value, "model", None) or getattr(value, "__name__", type(value).__name__)
    return dspy.LM(f"{FUNCTION_PREFIX}{name}", engine=CallableEngine(value), cache=False, num_retries=0)


def prompt_of(request: Request) -> str:
    """Return a request as one text: its only message, or all messages after the system text."""
    system = request.system
    if isinstance(system, str):
        parts = [system]
    else:
        parts = [part.text for part in system or ()]
    parts += [message.text or "" for message in request.messages]
    return "\n\n".join(part for part in parts if part)


MAX_QUOTED_REPLY_CHARS = 80  # characters shown of a reply or value

_FIELD = re.compile(
    r"Failed to parse field (\w+)(?: with value (.*?) from the LM response\. Error message)?: (.*)", re.DOTALL
)


def explain_unread(error: AdapterParseError) -> str:
    """Explain which output is missing or of the wrong type, and quote what is there instead."""
    text = str(error)
    if field := _FIELD.match(text):
        name, value, details = field.groups()
        lines = re.sub(r"^\d+ validation errors? for .*\n", "", details.partition("\n\n")[0]).splitlines()
        # Pydantic names the place inside the value on a line of its own, in front of what is wrong there.
        reason = ": ".join(line.strip().partition(" [type=")[0] for line in lines[: 2 if lines[0][:1].strip() else 1])
        shown = _quoted_value(value or str(error.lm_response or ""))
        return f"output `{name}` cannot be {shown}: {reason[:200] or 'it is of another type'}"
    if isinstance(error.parsed_result, dict):
        parsed = error.parsed_result
    else:
        parsed = {}
    missing = [name for name in error.signature.output_fields if name not in parsed]
    details = text.partition("\n")[0]
    if details.startswith(("Adapter ", "LM response ")):  # DSPy's own words name no output
        details = f"The reply has no {', '.join(missing)}"
    return f"{details.rstrip('.')}; it reads {_quoted_value(str(error.lm_response or ''))}"


def _quoted_value(text: str) -> str:
    words = " ".join(text.split())
    if len(words) > MAX_QUOTED_REPLY_CHARS:
        words = f"{words[: MAX_QUOTED_REPLY_CHARS - 1]}…"
    return repr(words)


SHOWN_IMAGE = "[image: "
SEE_ONE = dspy.Signature("image: dspy.Image, question -> answer", "Answer the question from the image alone.")
SEE_ALL = dspy.Signature("images: list[dspy.Image], question -> answer", "Answer the question from the images alone.")
MAX_QUOTED_CHARS = 80  # characters of an argument quoted in an error

T = TypeVar("T")


@dataclass(frozen=True)
class CallError:
    """The result of a failed call in a batch: never a string that could be mistaken for an answer."""

    error: str
    kind: str
    ok: bool = False


@dataclass(frozen=True)
class Outputs:
    """The outputs of a typed sub-call, in the order of its signature."""

    values: dict[str, Any]


def shown_input(value: Any) -> str:
    """Return an input of a typed call for the record; an image as its kind, size and hash."""
    if isinstance(value, dspy.Image):
        return f"{SHOWN_IMAGE}{describe_image(value)}]"
    if holds_image(value):
        return ", ".join(map(shown_input, value))
    return str(value)


class SubCalls:
    """The plain and typed sub-calls of one run.

    Args:
        lm: the sub-model; None means ``dspy.settings.lm`` at the time of the call.
        ledger: the ledger that calls are charged to.
        deadline_for: returns how long a call that starts now may take.
        on_call: called with each finished call.
        on_wait: called with a provider and the seconds that a call is about to wait for it.
        recorder: records each call as a span.
        parent_span: returns the span that a call which starts now belongs to.
        images: the images among the inputs.
    """

    def __init__(
        self,
        lm: Any,
        ledger: Ledger,
        deadline_for: Callable[[], deadlines.Deadline],
        on_call: Callable[[SubCall, Meter | None], None],
        on_wait: Callable[[str, float], None],
        recorder: Recorder,
        parent_span: Callable[[], int],
        images: Images,
    ) -> None:
        self._lm = as_lm(lm)
        self.ledger = ledger
        self._deadline_for = deadline_for
        self._on_call = on_call
        self._on_wait = on_wait
        self.recorder = recorder
        self._parent_span = parent_span
        self._images = images
        self._made: list[SubCall] = []
        self._open: dict[Meter, tuple[SubCall, Reservation]] = {}  # unfinished calls by their meter
        self._notes: list[str] = []
        self._cut: Counter[str] = Counter()  # incomplete replies of the step, by reason
        self._lock = threading.Lock()

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions to install in the REPL, by name; ``prelude`` wraps the typed ones there."""
        functions: dict[str, Callable[..., Any]] = {
            "llm_query": self.llm_query,
            "llm_query_batched": self.llm_query_batched,
            "__rlm_ask__": self.llm_query,
            "__rlm_llm_query__": self.answer_each,
            "__rlm_predict__": self.predict,
        }
        if self._images or self.files_note():
            functions["view"] = self.view
        return functions

    @property
    def known_lm(self) -> Any:
        """The model that currently answers sub-calls, or None."""
        return self._lm or dspy.settings.lm

    @property
    def lm(self) -> Any:
        """The model that currently answers sub-calls.

        Raises:
            NoModelError: no model is configured.
        """
        lm = self.known_lm
        if lm is None:
            raise NoModelError("No LM configured. Use dspy.configure(lm=...) or pass sub_lm to RLM.")
        return lm

    def take_finished(self) -> tuple[SubCall, ...]:
        """Return and clear the sub-calls made since the last call of this method."""
        with self._lock:
            finished, self._made = tuple(self._made), []
        return finished

    def take_remaining(self) -> tuple[SubCall, ...]:
        """At the end of the run, return the sub-calls that were not taken yet, and the unfinished ones.

        The prompts of unfinished calls are charged as an estimate.
        """
        with self._lock:
            still_open, self._open = self._open, {}
            remaining = list(self._made)
        for meter, (call, reservation) in still_open.items():
            meter.abandon_calls()
            reservation.settle(meter.usage)
            remaining.append(call.model_copy(update={"usage": meter.usage}))
            self._end_span(remaining[-1])
            self._on_call(remaining[-1], meter)
        return tuple(remaining)

    def add_note(self, note: str) -> None:
        """Add a note to show to the model with its step's output."""
        with self._lock:
            self._notes.append(note)

    def take_notes(self) -> list[str]:
        """Return and clear the notes since the last call of this method."""
        with self._lock:
            notes, self._notes = self._notes, []
            cut, self._cut = self._cut, Counter()
        if cut["length"]:
            notes.append(
                f"[{cut['length']} of the sub-model's replies were cut off at its limit of output tokens: ask for less]"
            )
        if cut["content_filter"]:
            notes.append(f"[the provider's content filter cut {cut['content_filter']} of the sub-model's replies]")
        return notes

    def llm_query(self, prompt: str) -> str:
        """Ask the sub-model one prompt; it sees nothing else."""
        answer: str = result_or_raise(self._ask_plainly(prompt))
        return answer

    def _ask_plainly(self, prompt: Any) -> str | CallError:
        self._images.check_texts([prompt])
        return self.plain(sendable_prompt(prompt))

    def llm_query_batched(self, prompts: list[str]) -> list[str]:
        """Ask many prompts at once; answers keep the order, and a failed one begins with "[ERROR]"."""
        return list(map(_reply_text, self.answer_each(prompts)))

    def answer_each(self, prompts: list[str]) -> list[str | CallError]:
        """Ask many prompts at once; answers keep the order."""
        if isinstance(prompts, str) or not isinstance(prompts, (list, tuple)):
            raise TypeError("llm_query_batched takes a list of prompts")
        return self.batch(lambda prompt: result_or_error(self._ask_plainly, prompt), prompts)

    def predict(
        self, signature: str, types: dict[str, Any], items: list[dict[str, Any]], instruction: str | None = None
    ) -> list[Outputs | CallError]:
        """Make typed calls, one for each item of inputs; answers keep the order."""
        read = parse_untrusted_signature(signature, types)
        if instruction is not None:
            read = read.with_instructions(without_markers(sendable_prompt(instruction)))
        for item in items:
            if set(item) != set(read.input_fields):
                raise ConfigurationError(wrong_inputs_message(signature, read, item))
        prepared = [self._images.typed_inputs(read, item) for item in items]
        if any(field.annotation in (dspy.Image, list[dspy.Image]) for field in read.input_fields.values()):
            check_vision(str(self.lm.model))
        return self.typed_each(read, prepared)

    def files_note(self) -> str:
        """Return the line about images and PDFs of the corpus; "" unless the sub-model is known to see images."""
        return self._images.files_note(str(getattr(self.known_lm, "model", "")))

    def view(self, image: Any, question: str, box: Any = None, page: int | None = None) -> str:
        """Ask the sub-model about an image of the inputs, a list of them, or the part of one in a box of pixels.

        The name of an image file of a corpus, or of a PDF and the number of a page, does as well.

        Raises:
            ValueError: it is not an image of this run, there are too many, or the box cannot be cut.
            ConfigurationError: the sub-model is known not to see.
        """
        handles = list(image) if isinstance(image, (list, tuple)) else [image]
        if not 0 < len(handles) <= MAX_IMAGES:
            raise ValueError(f"view takes 1 to {MAX_IMAGES} images, not {len(handles)}")
        found = [self._images.image_of(handle, page) for handle in handles]
        if box is not None:
            found = [cropped_image(picture, box) for picture in found]
        check_vision(str(self.lm.model))
        asked = {"question": sendable_prompt(question)}
        if len(found) == 1:
            answer = self.typed(SEE_ONE, {"image": found[0], **asked}, reads_prose=True)
        else:
            answer = self.typed(SEE_ALL, {"images": found, **asked}, reads_prose=True)
        result = result_or_raise(answer)
        return str(result.values["answer"])

    def typed_each(self, signature: type[dspy.Signature], items: Sequence[dict[str, Any]]) -> list[Outputs | CallError]:
        """Make typed calls; if a reply cannot be parsed, ask once more with the reason, if calls are left."""
        answers = self.batch(lambda item: self.typed(signature, item), items)
        unread = {at: answer.error for at, answer in enumerate(answers) if _is_unread(answer)}
        again = list(unread)[: max(0, self.ledger.calls_left)]

        def asked_again(at: int) -> Outputs | CallError:
            wanted = f"{signature.instructions}\n\nAn earlier reply could not be read. {unread[at]}"
            return result_or_error(
                lambda item: self.typed(signature.with_instructions(without_markers(wanted)), item), items[at]
            )

        for at, answer in zip(again, self.batch(asked_again, again), strict=True):
            if not isinstance(answer, CallError) or _is_unread(answer):
                answers[at] = answer
        return answers

    def batch(self, call: Callable[[Any], T], items: Sequence[Any]) -> list[T | CallError]:
        """Make ``call`` for each item, at most ``max_concurrency`` at once, in the caller's context; keep the order.

        If one of several is refused, a :class:`CallError` takes its slot, so that the other answers are not lost.
        """
        left = self.ledger.calls_left
        if len(items) > left:
            raise BudgetExceededError(
                f"LLM call limit exceeded: {counted_noun(len(items), 'call')} asked for, {left} left. "
                "Send fewer, larger ones, or use Python code.",
                limit="max_llm_calls",
            )
        if len(items) < 2:
            return [call(item) for item in items]
        workers = min(len(items), self.ledger.budget.max_concurrency)
        with ThreadPoolExecutor(workers, thread_name_prefix="rlm-subcall") as pool:
            futures = [pool.submit(contextvars.copy_context().run, result_or_error, call, item) for item in items]
            return [future.result() for future in futures]

    def plain(self, prompt: str) -> str | CallError:
        """Make one plain call; a provider's failure is returned, a refused budget is raised."""
        lm = self.lm
        room = windows.known_window(lm)
        if room is not None and len(prompt) > room * CHARS_PER_TOKEN:
            taken = windows.prompt_capacity_chars(lm)
            raise ValueError(
                f"the prompt has {len(prompt):,} characters; the sub-model takes about {taken:,}: "
                "cut it into pieces and ask about each"
            )
        result: str | CallError = self.make_charged_call(
            "plain", prompt, lambda: text_of(lm(prompt)), lambda: _await_and_read(lm.acall(prompt), text_of), shown=str
        )
        return result

    def typed(
        self, signature: type[dspy.Signature], inputs: dict[str, Any], *, reads_prose: bool = False
    ) -> Outputs | CallError:
        """Make one typed call through ``dspy.Predict``, so that optimizers see it.

        With ``reads_prose``, a reply in plain words is the value of the only output.
        """
        predictor = dspy.Predict(signature)
        prepared = dict(inputs)
        for name, value in inputs.items():
            if isinstance(value, str):
                prepared[name] = sendable_prompt(value)
        has_images = any(map(holds_image, prepared.values()))
        if has_images:
            prepared = {name: without_parts(value) for name, value in prepared.items()}
        prepared["lm"] = self.lm

        def outputs(predicted: Any) -> Outputs:
            return Outputs({name: predicted.get(name) for name in signature.output_fields})

        def in_prose(error: AdapterParseError) -> Outputs:
            text = (visible_text(str(error.lm_response)) or "").strip()
            if not reads_prose or not text or "[[ ##" in text or text.startswith("{"):
                raise error
            return Outputs({name: text for name in signature.output_fields})

        def ask() -> Outputs:
            try:
                return outputs(predictor(**prepared))
            except AdapterParseError as error:
                return in_prose(error)

        async def aask() -> Outputs:
            try:
                return outputs(await predictor.acall(**prepared))
            except AdapterParseError as error:
                return in_prose(error)

        result: Outputs | CallError = self.make_charged_call(
            "typed",
            "\n".join(f"{name}: {shown_input(value)}" for name, value in inputs.items()),
            ask,
            aask,
            shown=lambda found: str(found.values),
            adapter=plain_adapter(images=has_images),
        )
        return result

    def make_charged_call(
        self,
        kind: SubCallKind,
        prompt: str,
        direct: Callable[[], Any],
        awaitable: Callable[[], Any],
        shown: Callable[[Any], str],
        adapter: Any = None,
    ) -> Any:
        """Make one call within the budget, metered and recorded; a provider's failure becomes a :class:`CallError`."""
        deadline = self._deadline_for()
        seen = prompt.count(SHOWN_IMAGE) * TOKENS_OF_PART
        size = estimate_tokens(len(prompt)) + seen
        price = token_cost(self.lm.model, size) or 0.0
        reservation = self.ledger.reserve(size, sub_call=True, cost=price)
        started, span = time.perf_counter(), self.start_span(kind, prompt)
        meter = Meter(self._on_wait, self.recorder, span)
        result: Any = CallError(error="the call did not end", kind="Interrupted")
        shown_prompt = cut_text(prompt)
        unfinished = SubCall(kind=kind, prompt=shown_prompt, error=result.error, model=self.lm.model, span=span)
        with self._lock:
            self._open[meter] = unfinished, reservation
        try:
            # A plain thread has no portal to stream through, and sub-calls are not the streamed program's output.
            callbacks = [*dspy.settings.callbacks, meter]
            settings = {"send_stream": None, "adapter": adapter or plain_adapter(), "callbacks": callbacks}
            with self.ledger.slots, dspy.context(**settings):
                result = self._visible_reply(deadlines.call(deadline, self.lm, direct, awaitable), meter, prompt)
        except (DSPyLMError, AdapterParseError) as failure:
            result = self._without_sample(failure, kind)
        except deadlines.Interrupted as over:
            raise BudgetExceededError(f"The run's {over.limit} ended this call.", limit=over.limit) from None
        finally:
            meter.abandon_calls()
            reservation.settle(meter.usage)
            failed = isinstance(result, CallError)
            if failed:
                output, error = "", result.error
            else:
                output, error = cut_text(shown(result)), None
            facts = {"model": self.lm.model, "usage": meter.usage, "seconds": time.perf_counter() - started}
            call = SubCall(kind=kind, prompt=shown_prompt, output=output, error=error, span=span, **facts)
            self.record_call(call, meter)
        return result

    def _without_sample(self, failure: BaseException, kind: SubCallKind) -> str | CallError:
        """Return the error of a failed call, or the reply that the provider rejected, as a tool call or as JSON."""
        sample = failed_generation(failure)
        if sample is None:
            return failed_call(failure)
        text = visible_text(sample) or ""
        if kind == "plain" and text.strip():
            return text.strip()
        return CallError(error="The provider could not read the model's reply.", kind=AdapterParseError.__name__)

    def _visible_reply(self, result: Any, meter: Meter, prompt: str) -> Any:
        """Return a reply without its thinking; note a reply that was cut off; an empty one is an error."""
        finish = meter.finish
        text = without_first_thinking(result, prompt) if isinstance(result, str) else result
        if isinstance(text, str):
            text = without_end_marker(text)
        if isinstance(result, str) and not (text and text.strip()):
            why = explain_cut(finish) or ("it ended inside its thinking" if text is None else "it is empty")
            return CallError(error=f"the sub-model's reply holds no answer: {why}", kind="EmptyReply")
        if explain_cut(finish):
            with self._lock:
                self._cut[finish] += 1
        if isinstance(text, str) and text != result:
            return text.strip()
        return text

    def record_call(self, call: SubCall, meter: Meter | None) -> None:
        """Record a finished sub-call."""
        with self._lock:
            if meter and self._open.pop(meter, None) is None:  # the run has ended without it
                return
            self._made.append(call)
        self._end_span(call)
        self._on_call(call, meter)

    def start_span(self, kind: SubCallKind, prompt: str) -> int:
        """Start the span of a sub-call, inside the cell that makes it."""
        return self.recorder.start("sub_call", kind, self._parent_span(), input=cut_text(prompt))

    def _end_span(self, call: SubCall) -> None:
        if call.span is not None:
            self.recorder.end(call.span, call, output=call.output, error=call.error)


def wrong_inputs_message(signature: str, read: type[dspy.Signature], names: Iterable[str]) -> str:
    """Describe how the given inputs differ from those of a signature, in few words."""
    return (
        f"`{signature[:MAX_QUOTED_CHARS]}` takes {list(read.input_fields)}, not {str(list(names))[:MAX_QUOTED_CHARS]}"
    )


def _is_unread(answer: Any) -> TypeGuard[CallError]:
    return isinstance(answer, CallError) and answer.kind == AdapterParseError.__name__


def failed_call(error: BaseException) -> CallError:
    """Return the :class:`CallError` for a failed call."""
    if isinstance(error, AdapterParseError) and not isinstance(error, RLMError):  # ours say what happened themselves
        return CallError(error=explain_unread(error), kind=AdapterParseError.__name__)
    return CallError(error=cut_text(str(error)), kind=type(error).__name__)


def result_or_error(call: Callable[[Any], T], item: Any) -> T | CallError:
    """Make ``call`` for an item; return a :class:`CallError` if it is refused."""
    try:
        return call(item)
    except (RLMError, TypeError, ValueError) as error:
        return failed_call(error)


async def _await_and_read(awaitable: Any, read: Callable[[Any], T]) -> T:
    return read(await awaitable)


def _reply_text(reply: str | CallError) -> str:
    if isinstance(reply, CallError):
        return f"[ERROR] {reply.kind}: {reply.error}"
    return reply


def result_or_raise(result: Any) -> Any:
    """Return a result, or raise its error so that REPL code sees an exception."""
    if isinstance(result, CallError):
        raise RLMError(f"{result.kind}: {result.error}")
    return result


def sendable_prompt(prompt: Any) -> str:
    """Return a prompt that can be sent: a non-empty, encodable str."""
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt must be a str, not {type(prompt).__name__}")
    if not prompt.strip():
        raise ValueError("prompt cannot be empty")
    return str(replace_surrogates(prompt))


def text_of(outputs: Any) -> str:
    """Return the text of an LM call's outputs, in any of DSPy's shapes."""
    if isinstance(outputs, list) and outputs:
        first = outputs[0]
        text = first.get("text") if isinstance(first, dict) else first
    else:
        text = getattr(outputs, "text", None)
    if isinstance(text, str):
        return text
    return ""
