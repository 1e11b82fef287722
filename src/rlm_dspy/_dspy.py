"""The private names of DSPy that this package relies on, and why. Any release of DSPy may change them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import dspy
from dspy import lm15
from dspy.clients import _litellm, model_metadata
from dspy.clients._http import retry_after_seconds  # reads Retry-After as DSPy's own engines do
from dspy.clients.base_lm import GLOBAL_HISTORY  # the calls of all LMs, which DSPy only shows
from dspy.clients.engines.litellm_engine import _ChatStream as ChatStream  # reads LiteLLM's chunks as lm15 events
from dspy.clients.lm15_boundary import request_kwargs as chat_body  # a request in OpenAI's form, without its model
from dspy.primitives.code_interpreter import _validate_interpreter as validate_interpreter  # DSPy's own messages
from dspy.primitives.code_interpreter import _validate_interpreter_factory as validate_interpreter_factory
from dspy.streaming.messages import sync_send_to_stream  # sends to a stream from any thread that DSPy made
from dspy.utils.parallelizer import ParallelExecutor  # asks again any question that takes longer than two minutes

__all__ = [
    "ChatStream",
    "WrappedEngine",
    "anthropic_body",
    "anthropic_reply",
    "async_engine_of",
    "call_signature",
    "chat_body",
    "engine_of",
    "get_litellm",
    "model_table",
    "questions_asked_once",
    "retry_after_seconds",
    "sync_send_to_stream",
    "trim_history",
    "validate_interpreter",
    "validate_interpreter_factory",
]


LITELLM_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


def get_litellm(*, feature: str) -> Any:
    """Import LiteLLM once, with the settings that DSPy gives it, and keep the logging that this process has chosen.

    LiteLLM adds handlers of its own, which print to stdout.
    """
    is_new = "litellm" not in sys.modules
    chosen = {name: list(logging.getLogger(name).handlers) for name in LITELLM_LOGGERS}
    litellm = _litellm.get_litellm(feature=feature)
    if is_new:
        for name, handlers in chosen.items():
            if handlers:
                logging.getLogger(name).handlers = handlers
    return litellm


class _CallSignatureMeta(type(dspy.Signature)):  # type: ignore[misc]
    """Makes a call's signature equal to the predictor's own, by which ``dspy.Refine`` looks up its advice."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.predictor_signature

    def __hash__(cls) -> int:
        return hash(cls.predictor_signature)


def call_signature(own: Any, instructions: str) -> Any:
    """Return a predictor's signature with the instructions of one call; ``dspy.Refine`` still sees it as equal."""
    changed = own.with_instructions(instructions)
    if type(dspy.settings.adapter).__qualname__.startswith("Refine."):
        changed.predictor_signature = getattr(own, "predictor_signature", own)
        changed.__class__ = _CallSignatureMeta
    return changed


class WrappedEngine:
    """Has the attributes of another engine, and is shared by all copies of an LM."""

    complete_legacy = None  # else DSPy would bypass this engine

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "engine":
            raise AttributeError(name)
        return getattr(self.engine, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def engine_of(lm: Any) -> Any:
    """Return the engine that an LM was made with: an object, a name of DSPy's, or None."""
    return getattr(lm, "_engine_spec", None)


def async_engine_of(lm: Any) -> Any:
    """Return the async engine that an LM was made with, None if it has none; there is no public accessor."""
    return getattr(lm, "_async_engine_spec", None)


def trim_history(most: int) -> None:
    """Drop all but the newest calls from DSPy's history of all LMs, whose size no setting limits."""
    del GLOBAL_HISTORY[:-most]


@contextmanager
def questions_asked_once() -> Iterator[None]:
    """Keep DSPy's evaluations, in all threads, from asking a slow question twice and paying for it twice."""
    original = ParallelExecutor.__init__

    def without_timeout(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self.timeout = 0  # 0 means "never" in DSPy

    ParallelExecutor.__init__ = without_timeout
    try:
        yield
    finally:
        ParallelExecutor.__init__ = original


def model_table() -> dict[str, Any]:
    """Return LiteLLM's packaged table of models; DSPy's public functions look up one model at a time."""
    table: dict[str, Any] = model_metadata._load()
    return table


def anthropic_body(request: lm15.Request) -> dict[str, Any]:
    """Return a request in Anthropic's form; DSPy has no public converter, and this sends nothing."""
    body: dict[str, Any] = lm15.AnthropicLM(api_key="conversion-only")._payload(request, False)
    body.pop("stream", None)
    return body


def anthropic_reply(request: lm15.Request, body: dict[str, Any]) -> lm15.Response:
    """Parse a reply of Anthropic's; as everywhere else, prompt tokens include those read from the provider's cache."""
    raw = SimpleNamespace(json=lambda: body)
    response: lm15.Response = lm15.AnthropicLM(api_key="conversion-only").parse_response(request, raw)
    used = response.usage
    if used.input_tokens is None:
        return response
    sent = used.input_tokens + (used.cache_read_tokens or 0) + (used.cache_write_tokens or 0)
    return replace(response, usage=replace(used, input_tokens=sent, total_tokens=None))
