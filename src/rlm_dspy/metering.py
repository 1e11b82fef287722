"""Usage of LM calls, read from DSPy's own records."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import dspy
from dspy.clients.model_metadata import model_info
from dspy.utils.callback import BaseCallback

from rlm_dspy._dspy import engine_of
from rlm_dspy.counting import CHARS_PER_TOKEN
from rlm_dspy.deadlines import Interrupted
from rlm_dspy.dspy_errors import mask_secrets
from rlm_dspy.replay import REPLY, RecordedReply
from rlm_dspy.run import Usage, add_usage
from rlm_dspy.spans import Recorder

# The share of the price that providers charge for a request in a batch; those not listed charge all of it.
BATCH_SHARES = {"openai/": 0.5, "anthropic/": 0.5, "groq/": 0.5, "together_ai/": 0.5}
# Providers on the user's own machines, whose tokens cost nothing.
FREE_PROVIDERS = ("offline", "ollama/", "ollama_chat/", "hosted_vllm/", "lm_studio/", "llamafile/")
MOST_TOKENS = 10**9  # plausible maximum of one call
TOKENS_OF_PART = 1_000  # estimated tokens of an image or another part of a prompt that is not text
PART = "[part: "  # how the record names such a part
LONG_PROMPT_PRICE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
FUNCTION_PREFIX = "callable/"  # of the model string of a function that is used as a model
# The id of the current call, and an entry for each request that an engine of ours answered; none if DSPy's cache did.
_SENT: ContextVar[tuple[str, list[bool]] | None] = ContextVar("rlm_dspy_sent", default=None)
NOTICEABLE_SECONDS = 1.0  # seconds; shorter waits are counted, not announced


def whole_count(reported: Any) -> int | None:
    """Return a token count that a server reports, None if it is not plausible."""
    try:
        count = int(reported)
        if 0 <= count <= MOST_TOKENS and count == float(reported):
            return count
        return None
    except (TypeError, ValueError, OverflowError):
        return None


@lru_cache(maxsize=256)
def metadata(model: str) -> dict[str, Any]:
    """Return the packaged table's entry for a model string, or an empty dict."""
    provider, slash, name = model.partition("/")
    if not slash:
        provider, name = "openai", model
    entry: dict[str, Any] | None = model_info(provider, name)
    return entry or {}


def token_cost(
    model: str,
    prompt_tokens: int,
    reply_tokens: int = 0,
    cached_tokens: int = 0,
    *,
    in_batch: bool = False,
) -> float | None:
    """Return the price of tokens in US dollars: 0.0 from a free provider, None if the price is unknown.

    Where a long prompt costs more per token, so does the reply to it.

    Args:
        model: a LiteLLM model string.
        prompt_tokens: tokens of the prompt, with those read from the provider's cache.
        reply_tokens: tokens of the reply.
        cached_tokens: tokens of the prompt that were read from the provider's cache.
        in_batch: the request is part of a provider batch; its discount does not add to that of the provider's cache.
    """
    if model.startswith(FREE_PROVIDERS):
        return 0.0
    rates = _rates_for(metadata(model), prompt_tokens)
    read, written = rates.get("input_cost_per_token"), rates.get("output_cost_per_token")
    if not read and not written:  # the table has no price
        return None
    if read is None or (written is None and reply_tokens):
        return None
    cached = min(cached_tokens, prompt_tokens)
    share = batch_share(model) if in_batch else 1.0
    cached_price = min(share * read, rates.get("cache_read_input_token_cost", read))
    return float(
        (prompt_tokens - cached) * share * read + cached * cached_price + reply_tokens * share * (written or 0.0)
    )


def _rates_for(rates: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
    """Return a table entry whose base prices are those of a prompt of this length."""
    starts = [int(match[1]) for name in rates if (match := LONG_PROMPT_PRICE.fullmatch(name))]
    reached = [start for start in starts if prompt_tokens > start * 1_000]
    suffix = f"_above_{max(reached, default=0)}k_tokens"
    long_prices = {name.removesuffix(suffix): price for name, price in rates.items() if name.endswith(suffix)}
    return {**rates, **long_prices}


def batch_share(model: str) -> float:
    """Return the share of the price that a model's provider charges for a request in a batch."""
    return next((share for prefix, share in BATCH_SHARES.items() if model.startswith(prefix)), 1.0)


class Meter(BaseCallback):  # type: ignore[misc]
    """Collects the usage of every LM call made in a context that has it among its callbacks.

    ``on_wait`` is called with a provider and the seconds that a call is about to wait for it. With a ``recorder``, each
    call and each wait becomes a span below ``span``.
    """

    def __init__(
        self,
        on_wait: Callable[[str, float], None] | None = None,
        recorder: Recorder | None = None,
        span: int | None = None,
    ) -> None:
        self.on_wait = on_wait
        self.recorder = recorder
        self.span = span
        self.by_model: dict[str, Usage] = {}
        self.last_wait = ""  # what a call is waiting for, or waited for when it was cancelled
        self.response: Any = None  # the last response, of a type that depends on DSPy's engine; None without history
        self.outputs: Any = None  # those of the last call
        self._calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._marks: dict[str, list[bool]] = {}
        self._functions: dict[str, int] = {}  # calls of functions in flight, with the calls that had ended before each
        self._ended = 0  # calls of models
        self._spans: dict[str, int] = {}  # of the calls in flight
        self._replies: dict[str, RecordedReply] = {}  # of those that a record answers
        self._waits: dict[object, float | None] = {}  # waits not ended, with their starts; None if they were cancelled
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """The sum over all models."""
        with self._lock:
            return sum(self.by_model.values(), Usage())

    @property
    def finish(self) -> str:
        """The finish reason of the last reply: "stop", "length", "content_filter"."""
        reason = getattr(self.response, "finish_reason", None)
        choices = getattr(self.response, "choices", None)  # LiteLLM's own response, kept by DSPy's engine for it
        if reason is None and choices:
            reason = getattr(choices[0], "finish_reason", None)
        return str(reason or "stop")

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Remember the LM and the input of a call."""
        self._calls[call_id] = (instance, inputs)
        if getattr(engine_of(instance), "notes_requests", False):
            self._marks[call_id] = _request_mark(call_id)
        if str(getattr(instance, "model", "")).startswith(FUNCTION_PREFIX):
            self._functions[call_id] = self._ended
        if self.recorder and self.span is not None:
            model = str(getattr(instance, "model", "unknown"))
            prompt = prompt_messages(inputs)
            self._spans[call_id] = self.recorder.start_prompt(model, self.span, prompt)
            reply = self.recorder.recorded_reply(self.span, prompt)
            REPLY.set(reply)
            if reply is not None:
                self._replies[call_id] = reply

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Add the usage of a finished call; a failed one counts as a call."""
        lm, sent = self._calls.pop(call_id, (None, None))
        if exception is not None:
            mask_secrets(exception, lm)
        if sent is None:  # it was abandoned
            return
        replayed = self._replies.pop(call_id, None)
        mark = self._marks.pop(call_id, [True])
        # DSPy hands over the very list that the history entry holds, so identity finds it among concurrent calls.
        recent = reversed(getattr(lm, "history", [])[-256:])
        entry = next((entry for entry in recent if entry["outputs"] is outputs), None)
        wraps_models = self._wraps_models(call_id)
        if wraps_models:
            usage = Usage()
        elif isinstance(exception, (asyncio.CancelledError, Interrupted)):
            usage = self._abandoned_usage(sent, getattr(lm, "model", ""))
        elif exception is not None:
            usage = Usage(calls=1)
        elif replayed is not None:
            usage = replayed.usage.model_copy(update={"replayed_calls": replayed.usage.calls})
        elif entry is not None:
            usage = _reported_usage(entry)
        elif not any(mark):
            usage = Usage(calls=1, cached_calls=1)
        else:  # DSPy's history may be disabled
            usage = _estimated_usage({**sent, "outputs": outputs}, getattr(lm, "model", ""))
        self.response, self.outputs = entry["response"] if entry else None, outputs
        if self.recorder and (span := self._spans.pop(call_id, None)):
            if exception is None:
                error = None
            else:
                error = f"{type(exception).__name__}: {exception}"
            finish = "" if exception else self.finish
            facts: dict[str, Any] = {"finish": finish, "error": error, "output": reply_text(outputs)}
            self.recorder.end(span, usage=usage, thinking=thinking_chars(outputs), **facts)
        data = getattr(self.response, "provider_data", None)
        answered_by = data.get("answered_by") if isinstance(data, dict) else None
        if not wraps_models:
            self.add(str(answered_by or getattr(lm, "model", "unknown")), usage)

    def _wraps_models(self, call_id: str) -> bool:
        """Return whether the call that ends is of a function that called models, which are counted instead."""
        before = self._functions.pop(call_id, None)
        if before is None:
            self._ended += 1
            return False
        return self._ended > before or bool(self._calls)

    def abandon_calls(self) -> None:
        """Count the prompts of calls in flight: their wait has ended, and nobody will read their replies."""
        for call_id in list(self._calls):
            lm, sent = self._calls.pop(call_id, (None, None))
            if sent is not None:
                model = getattr(lm, "model", "unknown")
                wraps_models = self._wraps_models(call_id)
                if wraps_models:
                    usage = Usage()
                else:
                    usage = self._abandoned_usage(sent, model)
                self.add(model, usage)
                if self.recorder and (span := self._spans.pop(call_id, None)):
                    self.recorder.end(span, usage=usage, error="the call was abandoned")

    def _abandoned_usage(self, sent: dict[str, Any], model: str) -> Usage:
        """Return the usage of a call that was cancelled: an estimate, unless it was still waiting for its turn."""
        with self._lock:
            if not self._waits:  # its prompt was sent and may be billed
                return _estimated_usage({**sent, "outputs": None}, model)
            _, started = self._waits.popitem()
        waited = 0.0 if started is None else time.monotonic() - started
        return Usage(calls=1, waited_seconds=round(waited, 3))

    def begin_wait(self, wait: object) -> None:
        """Note that a call has begun to wait."""
        with self._lock:
            self._waits[wait] = time.monotonic()

    def end_wait(self, wait: object, model: str, usage: Usage, *, cancelled: bool) -> None:
        """Add the usage of a wait, unless its call was abandoned, which counted it."""
        with self._lock:
            if wait not in self._waits:
                return
            if cancelled:
                self._waits[wait] = None
            else:
                del self._waits[wait]
                self.last_wait = ""
        self.add(model, usage)

    def start_wait_span(self, provider: str) -> int | None:
        """Start the span of a wait for a provider, inside the call that waits; None without a recorder."""
        if self.recorder is None or self.span is None:
            return None
        return self.recorder.start("wait", provider, next(reversed(self._spans.values()), self.span))

    def add(self, model: str, usage: Usage) -> None:
        """Add to a model's usage."""
        with self._lock:
            add_usage(self.by_model, {model: usage})


def _request_mark(call_id: str) -> list[bool]:
    """Return the list that :func:`note_request` fills during a call; all meters of the call share it."""
    current = _SENT.get()
    if current is None or current[0] != call_id:
        current = call_id, []
        _SENT.set(current)
    return current[1]


def note_request() -> None:
    """Note that an engine, not DSPy's cache, answers a request; such engines have ``notes_requests`` set."""
    current = _SENT.get()
    if current is not None:
        current[1].append(True)


@contextmanager
def metered_wait(model: str, provider: str, seconds: float, *, retry: bool) -> Iterator[None]:
    """Notify every meter of the current context that a call is waiting, and count how long it waits."""
    meters = [callback for callback in dspy.settings.callbacks if isinstance(callback, Meter)]
    for meter in meters:
        meter.last_wait = f"waiting {seconds:.0f} s for {provider}{' after a failure' if retry else ''}"
        if meter.on_wait and seconds >= NOTICEABLE_SECONDS:
            meter.on_wait(provider, seconds)
    spans = [(meter, meter.start_wait_span(provider)) for meter in meters]
    started = time.monotonic()
    wait = object()
    for meter in meters:
        meter.begin_wait(wait)
    cancelled = True
    try:
        yield
        cancelled = False
    finally:
        usage = Usage(retries=int(retry), waited_seconds=round(time.monotonic() - started, 3))
        for meter, span in spans:
            meter.end_wait(wait, model, usage, cancelled=cancelled)
            if meter.recorder and span is not None:
                meter.recorder.end(span, usage=usage)


def prompt_messages(sent: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the roles and texts of the prompt of a call of an LM; parts other than text are only named."""
    request: Any = sent.get("request") or sent.get("prompt")
    messages = sent.get("messages")
    if messages is None and hasattr(request, "messages"):  # an lm15 request
        if request.system:
            system = [{"role": "system", "content": request.system}]
        else:
            system = []
        messages = [*system, *request.messages]
    if messages is None:
        messages = [{"role": "user", "content": request}]
    return [_role_and_text(message) for message in messages]


def _role_and_text(message: Any) -> tuple[str, str]:
    if type(message) is dict and type(message.get("content")) is str:
        return str(message.get("role", "")), message["content"]
    if not isinstance(message, Mapping):
        message = {"role": getattr(message, "role", ""), "content": getattr(message, "parts", None) or str(message)}
    content = message.get("content")
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(_part_text(part) for part in content or ())
    return str(message.get("role", "")), text


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        text, kind = part.get("text"), part.get("type")
    else:
        text, kind = getattr(part, "text", None), type(part).__name__
    if isinstance(text, str):
        return text
    return f"{PART}{kind}]"


def reply_text(outputs: Any) -> str:
    """Return the outputs of a call of an LM as text, a model's hidden thinking first."""
    texts: list[str] = []
    for output in outputs if isinstance(outputs, list) else [outputs]:
        if isinstance(output, Mapping):
            texts += [str(output[name]) for name in ("reasoning_content", "text") if output.get(name)]
        elif output is not None:
            texts.append(str(output))
    return "\n\n".join(texts)


def thinking_chars(outputs: Any) -> int:
    """Return how many characters of ``reply_text`` are hidden thinking at its start, if there is one output."""
    first = outputs[0] if isinstance(outputs, list) and outputs else outputs
    if isinstance(first, Mapping):
        return len(str(first.get("reasoning_content") or ""))
    return 0


def response_usage(request: Any, response: Any, model: str) -> Usage:
    """Return what an lm15 response cost; estimated, as for any call, if the server reported no tokens."""
    used = response.usage
    reported = {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cache_read_tokens},
    }
    outputs = [response.message.text]
    return _reported_usage(
        {"request": request, "outputs": outputs, "usage": reported, "response": response, "model": model}
    )


def _reported_usage(entry: dict[str, Any]) -> Usage:
    reported, response = entry["usage"] or {}, entry["response"]
    # DSPy's cache keeps no usage in the entry; a response of LiteLLM's own type has ``cache_hit`` set.
    is_lm15 = getattr(getattr(response, "usage", None), "input_tokens", None) is not None
    if getattr(response, "cache_hit", False) or (is_lm15 and not reported):
        return Usage(calls=1, cached_calls=1)  # nothing was spent
    sent, got = (whole_count(reported.get(name)) or 0 for name in ("prompt_tokens", "completion_tokens"))
    # Some servers report nothing, some report zeros; a prompt and a reply always have tokens.
    if not sent or not got:
        estimated = _estimated_usage(entry, str(entry.get("model") or ""))
        if not sent or estimated.completion_tokens > 0:
            return estimated
    cost = entry.get("cost")
    data = getattr(response, "provider_data", None)
    if cost is None and isinstance(data, dict):
        cost = data.get("cost")
    details = reported.get("prompt_tokens_details")
    cached = 0
    if isinstance(details, dict):
        cached = min(sent, whole_count(details.get("cached_tokens")) or 0)
    if cost is None:
        answered_by = data.get("answered_by") if isinstance(data, dict) else None
        cost = token_cost(str(answered_by or entry.get("model") or ""), sent, got, cached)
    return Usage(calls=1, prompt_tokens=sent, completion_tokens=got, cached_tokens=cached, cost=cost)


def _estimated_usage(call: dict[str, Any], model: str) -> Usage:
    """Estimate the usage of a call that reports none, at the published price of its model, if known."""
    sent = got = 0
    for _, text in prompt_messages(call):
        sent += len(text) // CHARS_PER_TOKEN + text.count(PART) * TOKENS_OF_PART
    for output in call["outputs"] or ():
        written = output.get("text") if isinstance(output, dict) else output
        got += len(str(written or "")) // CHARS_PER_TOKEN
    cost = token_cost(model, sent, got)
    return Usage(calls=1, prompt_tokens=sent, completion_tokens=got, cost=cost, estimated_calls=1)
