"""Runs as OpenTelemetry spans, live: ``invoke_agent`` → ``chat`` and ``execute_tool``, a child inside its cell's span.

Attribute names follow OpenTelemetry's conventions for generative AI. These are still in development, so all names are
in this file, with OpenInference's beside them for Phoenix. Only ``chat`` spans have usage, so that sums are right.
"""

from __future__ import annotations

import builtins
import inspect
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from rlm_dspy import spans
from rlm_dspy._version import __version__
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.redact import Redactor
from rlm_dspy.run import Content, Message, Run, Span, Step, SubCall, cut_content, cut_text, error_text

logger = logging.getLogger(__name__)

CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
EXPORT_SECONDS = 5.0  # seconds for one export, so that an unreachable server does not hold up the end of a command
MAX_TEXT_CHARS = 20_000  # characters of a text in a span with content="full"
OPENINFERENCE_KINDS = {"run": "AGENT", "lm": "LLM", "cell": "TOOL"}
AGENT = "RLM"

_exporter: SpanExporter | None = None
_tried = False  # whether the environment was looked at


def trace(
    *,
    tracer_provider: Any = None,
    endpoint: str | None = None,
    content: Content | None = None,
    redactor: Redactor | None = None,
) -> None:
    """Send every run of this process as OpenTelemetry spans, from now on.

    Args:
        tracer_provider: where spans go; by default the application's own provider if it has one, else a new one that
            exports over OTLP (HTTP).
        endpoint: the OTLP address, e.g. ``"http://localhost:5000"``; by default the standard variables, else
            ``http://localhost:4318``.
        content: how much of prompts, code and outputs spans hold: ``"none"``, ``"short"`` (the first 300 characters of
            each) or ``"full"``. By default the variable ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``
            decides; without it, none.
        redactor: masks secrets in texts; by default those of the environment.

    Raises:
        ConfigurationError: OpenTelemetry is not installed, or ``content`` is not one of these.

    Example:
        >>> rlm_dspy.trace(endpoint="http://localhost:6006", content="short")
    """
    global _exporter
    if content not in (None, "full", "short", "none"):
        raise ConfigurationError(f"content must be 'full' or 'short' or 'none', not {content!r}")
    try:
        provider = tracer_provider or _tracer_provider(endpoint)
    except ImportError as error:
        raise ConfigurationError(f"OpenTelemetry is not installed ({error}): pip install {PACKAGES}") from error
    stop_tracing()
    _exporter = SpanExporter(provider, content or _configured_content(), redactor or Redactor())
    spans.everywhere.append(_exporter)


def stop_tracing() -> None:
    """Stop what :func:`trace` started; runs in progress keep sending."""
    global _exporter
    if _exporter in spans.everywhere:
        spans.everywhere.remove(_exporter)
    _exporter = None


def trace_if_configured(environ: Mapping[str, str] | None = None) -> None:
    """Start tracing once if the standard variables name an address; say so if OpenTelemetry is missing."""
    global _tried
    environ = os.environ if environ is None else environ
    named = next((name for name in ENDPOINT_VARIABLES if environ.get(name)), None)
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if _tried or _exporter or named is None or is_off:
        return
    _tried = True
    try:
        trace()
    except ConfigurationError as error:
        logger.warning("%s is set, but runs are not traced: %s", named, error)


def _tracer_provider(endpoint: str | None) -> Any:
    """Return the application's provider, or a new one that exports over OTLP."""
    from opentelemetry import trace as api
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    current = api.get_tracer_provider()
    if endpoint is None and not isinstance(current, api.ProxyTracerProvider):  # the application has set one
        return current
    if endpoint is not None and not endpoint.rstrip("/").endswith("/v1/traces"):
        endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    name = os.environ.get("OTEL_SERVICE_NAME") or "rlm-dspy"
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)))
    return provider


def _configured_content() -> Content:
    """Return the content that the standard variable asks for: true, false, ``short``, or a place like ``span_only``."""
    value = os.environ.get(CONTENT_VARIABLE, "").strip().lower()
    if value in ("", "false", "none", "no_content", "event_only"):
        return "none"
    if value in ("true", "full", "span_only", "span_and_event"):
        return "full"
    if value == "short":
        return "short"
    logger.warning("%s is %r, which is not known: no content is sent", CONTENT_VARIABLE, value)
    return "none"


class SpanExporter:
    """A listener that makes an OpenTelemetry span of each run, call of a model and cell.

    If MLflow or OpenInference already traces DSPy, modules and calls of models are theirs: then only cells are sent,
    inside the span that is current.
    """

    def __init__(self, provider: Any, content: Content, redactor: Redactor) -> None:
        from opentelemetry import trace as api

        self._api = api

        self._tracer = provider.get_tracer("rlm_dspy", __version__)
        self._content = content
        self._redactor = redactor
        self._open: dict[int, Any] = {}  # the OpenTelemetry span of each open span; None for one that has none
        self._contexts: dict[int, Any] = {}  # where the children of each open span go

    def started(self, span: Span, record: Run | None) -> None:
        """Start a span, with the attributes known by now."""
        context = None
        if span.parent is not None:
            context = self._contexts.get(span.parent)
        otel_span = None
        if span.kind in OPENINFERENCE_KINDS and self._is_ours(span):
            name, attributes = _start_attributes(span, record)
            otel_span = self._tracer.start_span(
                name, context=context, kind=_span_kind(self._api, span), start_time=_nanoseconds(span.started)
            )
            otel_span.set_attributes({key: self._redacted(value) for key, value in attributes.items()})
            context = self._api.set_span_in_context(otel_span, context)
        self._open[span.id] = otel_span
        self._contexts[span.id] = context

    def ended(self, span: Span, record: Run | Step | SubCall | None) -> None:
        """End a span: usage, content, the error."""
        otel_span = self._open.pop(span.id, None)
        context = self._contexts.pop(span.id, None)
        if otel_span is None:
            self._add_event(span, context)
            return
        attributes = _end_attributes(span, record)
        if self._content != "none":
            attributes |= self._content_attributes(span, record)
        otel_span.set_attributes(attributes)
        if span.error:
            kind = error_class(span.error)
            if span.kind == "cell" and self._content == "none" and not hasattr(builtins, kind):
                kind = "Error"  # a cell may name a class after what it has read
            otel_span.set_attribute("error.type", kind)
            if self._content != "none":
                description = self._shown_text(span.error)
            else:
                description = kind
            otel_span.set_status(self._api.Status(self._api.StatusCode.ERROR, description))
        otel_span.end(_nanoseconds(span.started + (span.seconds or 0.0)))

    def _is_ours(self, span: Span) -> bool:
        if not traces_dspy_already():
            return True
        return span.kind == "cell" and self._api.get_current_span().get_span_context().is_valid

    def _add_event(self, span: Span, context: Any) -> None:
        """Note a wait or a failed sub-call, which have no span of their own, in the span around them."""
        if context is None or not (span.kind == "wait" or (span.kind == "sub_call" and span.error)):
            return
        facts: dict[str, Any] = {"rlm.provider": span.name, "rlm.seconds": span.seconds or 0.0}
        if span.kind == "sub_call":
            facts = {"rlm.kind": span.name, "error.type": error_class(span.error)}
        around = self._api.get_current_span(context)
        around.add_event(f"rlm.{span.kind}", facts, _nanoseconds(span.started))

    def _content_attributes(self, span: Span, record: Any) -> dict[str, Any]:
        if span.kind == "run":
            inputs = {name: self._shown_text(text) for name, text in getattr(record, "inputs", {}).items()}
            outputs = {name: self._shown_text(str(value)) for name, value in getattr(record, "outputs", {}).items()}
            return _values(json.dumps(inputs, ensure_ascii=False), json.dumps(outputs, ensure_ascii=False))
        if span.kind == "cell":
            code, output = self._shown_text(span.input), self._shown_text(span.output)
            call = {"gen_ai.tool.call.arguments": json.dumps({"code": code}, ensure_ascii=False)}
            return {**call, "gen_ai.tool.call.result": output, **_values(code, output)}
        asked = [Message(role=message.role, content=self._shown_text(message.content)) for message in span.messages]
        attributes = _message_attributes(asked, self._shown_text(span.output))
        return {**attributes, "rlm.same_messages": span.same_messages}  # as in the previous prompt of this run

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redactor.text(value)
        return value

    def _shown_text(self, text: str) -> str:
        return cut_text(cut_content(self._redactor.text(text), self._content), MAX_TEXT_CHARS)


def error_class(error: str | None) -> str:
    """Return the class that the text of an error, or the exception of a traceback, begins with, and nothing else."""
    found = re.match(r"[A-Za-z_][\w.]{0,80}(?=:|\Z)", error_text(error or ""), re.MULTILINE)
    if found and found.group()[:1].isupper():
        return found.group()
    return "Error"


def traces_dspy_already() -> bool:
    """Return whether MLflow's autolog or OpenInference's instrumentor traces DSPy in this process."""
    if type(inspect.getattr_static(dspy.LM, "__call__")).__module__.startswith("openinference."):
        return True
    return any(type(callback).__module__.startswith("mlflow.") for callback in dspy.settings.callbacks)


def _start_attributes(span: Span, record: Run | None) -> tuple[str, dict[str, Any]]:
    """Return the name and the first attributes of a span."""
    common = {
        "openinference.span.kind": OPENINFERENCE_KINDS[span.kind],
        "rlm.run_id": span.run,
        "rlm.step": span.step,
        "rlm.depth": span.depth,
    }
    if span.kind == "run":
        model = record.model if record else ""
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": AGENT,
            "gen_ai.request.model": model,
        }
        return f"invoke_agent {AGENT}", {**common, **attributes, "rlm.signature": span.name}
    if span.kind == "cell":
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "python", "tool.name": "python"}
        return "execute_tool python", {**common, **attributes, "gen_ai.tool.type": "function"}
    provider, _, name = span.name.rpartition("/")
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": span.name, "llm.model_name": name}
    return f"chat {span.name}", {**common, **attributes, "gen_ai.provider.name": provider or "openai"}


def _end_attributes(span: Span, record: Any) -> dict[str, Any]:
    """Return how a run ended, or what a call of a model used."""
    if isinstance(record, Run):
        return {"rlm.status": record.status, "rlm.stopped_by": record.stopped_by or "", "rlm.steps": len(record.steps)}
    if span.kind != "lm" or span.usage is None:
        return {}
    usage = span.usage
    attributes = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.response.finish_reasons": [span.finish] if span.finish else [],
        "llm.token_count.prompt": usage.prompt_tokens,
        "llm.token_count.completion": usage.completion_tokens,
        "llm.token_count.total": usage.total_tokens,
        "llm.token_count.prompt_details.cache_read": usage.cached_tokens,
    }
    if usage.cost is None:
        return attributes
    return {**attributes, "llm.cost.total": usage.cost}


def _message_attributes(asked: Sequence[Message], answered: str) -> dict[str, Any]:
    """Return the messages that are new in a prompt, and the reply, in both conventions."""
    sent = [{"role": message.role, "parts": [{"type": "text", "content": message.content}]} for message in asked]
    replied = [{"role": "assistant", "parts": [{"type": "text", "content": answered}]}]
    attributes: dict[str, Any] = {
        "gen_ai.input.messages": json.dumps(sent, ensure_ascii=False),
        "gen_ai.output.messages": json.dumps(replied, ensure_ascii=False),
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": answered,
        "output.value": answered,
    }
    for number, message in enumerate(asked):
        attributes[f"llm.input_messages.{number}.message.role"] = message.role
        attributes[f"llm.input_messages.{number}.message.content"] = message.content
    return attributes


def _values(inputs: str, outputs: str) -> dict[str, str]:
    return {"input.value": inputs, "output.value": outputs}


def _span_kind(api: Any, span: Span) -> Any:
    if span.kind == "lm":
        return api.SpanKind.CLIENT
    return api.SpanKind.INTERNAL


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
