"""Runs as OpenTelemetry spans: their tree, attributes and content, and when they are sent."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import rlm_dspy
from rlm_dspy import telemetry
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.testing import action, scripted
from servers.openai import OpenAIServer, error
from servers.otlp import OtlpServer
from servers.wire import Fault

RECURSIVE = (
    action("print(llm_query('first'), subcall(context[:200], 'find the code'))"),
    "one",
    action("SUBMIT(output='4711')"),
    action("SUBMIT(answer='4711')"),
)
Sent = Callable[..., list[ReadableSpan]]


@pytest.fixture
def memory() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider, spans
    telemetry.stop_tracing()


@pytest.fixture
def sent(memory: Any) -> Sent:
    provider, spans = memory

    def run(*replies: Any, content: Any = None, context: str = "the code is 4711\n" * 100) -> list[ReadableSpan]:
        rlm_dspy.trace(tracer_provider=provider, content=content)
        lm, _ = scripted(*replies)
        with dspy.context(lm=lm):
            rlm_dspy.RLM("context, question -> answer")(context=context, question="What is the code?")
        return sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    return run


def tree_of(spans: list[ReadableSpan]) -> list[str]:
    by_id = {span.context.span_id: span for span in spans}

    def depth(span: ReadableSpan) -> int:
        return 0 if span.parent is None else 1 + depth(by_id[span.parent.span_id])

    return [f"{'  ' * depth(span)}{span.name}" for span in spans]


def test_the_spans_of_a_run_are_the_agent_its_chats_and_tools_and_the_child_in_its_cell(sent: Sent) -> None:
    spans = sent(*RECURSIVE)
    assert tree_of(spans) == [
        "invoke_agent RLM",
        "  chat scripted/model",
        "  execute_tool python",
        "    chat scripted/model",
        "    invoke_agent RLM",
        "      chat scripted/model",
        "      execute_tool python",
        "  chat scripted/model",
        "  execute_tool python",
    ]
    assert len({span.context.trace_id for span in spans}) == 1
    kinds = {span.name.split()[0]: span.attributes["openinference.span.kind"] for span in spans if span.attributes}
    assert kinds == {"invoke_agent": "AGENT", "chat": "LLM", "execute_tool": "TOOL"}


def test_usage_is_on_chat_spans_only(sent: Sent) -> None:
    for span in sent(*RECURSIVE):
        given = span.attributes or {}
        is_chat = given["gen_ai.operation.name"] == "chat"
        assert ("gen_ai.usage.input_tokens" in given) == is_chat
        assert ("llm.token_count.total" in given) == is_chat


def test_without_a_choice_no_content_is_sent(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(telemetry.CONTENT_VARIABLE, raising=False)
    assert "4711" not in json.dumps([span.to_json() for span in sent(*RECURSIVE)])


@pytest.mark.parametrize(
    ("value", "content"),
    [
        *dict.fromkeys(("", "false", "blah", "NO_CONTENT", "none", "EVENT_ONLY"), "none").items(),
        ("short", "short"),
        *dict.fromkeys(("true", "SPAN_ONLY", "full", "span_and_event"), "full").items(),
    ],
)
def test_the_standard_variable_chooses_the_content(value: str, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.CONTENT_VARIABLE, value)
    assert telemetry._configured_content() == content


def test_content_is_in_both_conventions(sent: Sent) -> None:
    spans = sent(*RECURSIVE, content="full")
    agent, chat, cell = (dict(span.attributes or {}) for span in spans[:3])
    assert json.loads(agent["input.value"])["question"] == "What is the code?"
    assert json.loads(agent["output.value"]) == {"answer": "4711"}
    assert json.loads(chat["gen_ai.input.messages"])[1]["role"] == "user"
    assert chat["llm.input_messages.1.message.role"] == "user"
    assert "subcall(context" in json.loads(chat["gen_ai.output.messages"])[0]["parts"][0]["content"]
    assert "subcall(context" in json.loads(cell["gen_ai.tool.call.arguments"])["code"]
    assert "4711" in cell["gen_ai.tool.call.result"]


@pytest.mark.parametrize(("content", "most"), [("none", 0), ("short", 9_000), ("full", 30_000)])
def test_a_context_of_10_mb_never_enters_a_span(sent: Sent, content: str, most: int) -> None:
    cells = [action(f"print(context[{number}:200])") for number in range(4)]
    spans = sent(*cells, action("SUBMIT(answer='x')"), content=content, context="0123456789abcdef\n" * 600_000)
    texts = ("input", "output", "llm.input", "llm.output", "gen_ai.input", "gen_ai.output", "gen_ai.tool.call")
    shown = [str(value) for span in spans for name, value in (span.attributes or {}).items() if name.startswith(texts)]
    assert sum(map(len, shown)) <= 3 * most
    others = [
        str(value) for span in spans for name, value in (span.attributes or {}).items() if str(value) not in shown
    ]
    assert sum(map(len, others)) < 5_000


def test_errors_are_statuses(sent: Sent) -> None:
    spans = sent(action("1/0"), action("SUBMIT(answer='x')"), content="short")
    (failed,) = [span for span in spans if not span.status.is_ok and span.status.description]
    assert failed.name == "execute_tool python"
    assert "ZeroDivisionError" in (failed.status.description or "")


def test_a_failed_run_ends_its_spans(memory: Any) -> None:
    provider, spans = memory
    rlm_dspy.trace(tracer_provider=provider)
    lm, _ = scripted(dspy.lm15.AuthError("no key"))
    with dspy.context(lm=lm), pytest.raises(rlm_dspy.RLMError):
        rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
    found = {span.name: dict(span.attributes or {}) for span in spans.get_finished_spans()}
    assert found["invoke_agent RLM"]["error.type"] == "LMAuthError"
    assert found["invoke_agent RLM"]["rlm.status"] == "stopped"
    assert "error.type" in found["chat scripted/model"]


def test_a_wait_is_an_event_of_its_call(memory: Any) -> None:
    provider, spans = memory
    rlm_dspy.trace(tracer_provider=provider)
    busy = Fault(429, error("slow", "x"), {"retry-after": "0.1"})
    reply = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\nSUBMIT(answer='x')\n"
    with OpenAIServer(busy, reply=reply) as server:
        address = server.url + "/openai/v1"
        lm = rlm_dspy.lm("groq/openai/gpt-oss-20b", api_base=address, api_key="gsk_right_key_000000", cache=False)
        with dspy.context(lm=lm):
            rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
    (chat,) = [span for span in spans.get_finished_spans() if span.name.startswith("chat")]
    (event,) = chat.events
    assert (event.name, (event.attributes or {})["rlm.provider"]) == ("rlm.wait", "Groq")


def test_secrets_are_masked(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-secret-000000")
    provider, spans = memory
    rlm_dspy.trace(tracer_provider=provider, content="full")
    lm, _ = scripted(action("print('sk-secret-000000')"), action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        rlm_dspy.RLM("context, question -> answer")(context="sk-secret-000000", question="q")
    assert "sk-secret" not in json.dumps([span.to_json() for span in spans.get_finished_spans()])


def test_a_run_belongs_to_the_span_around_it(memory: Any) -> None:
    provider, spans = memory
    rlm_dspy.trace(tracer_provider=provider)
    lm, _ = scripted(action("SUBMIT(answer='x')"))
    with provider.get_tracer("app").start_as_current_span("request"), dspy.context(lm=lm):
        rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
    assert tree_of(sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0))[:2] == [
        "request",
        "  invoke_agent RLM",
    ]


def test_tracing_twice_sends_once(sent: Sent) -> None:
    sent(action("SUBMIT(answer='x')"))
    assert len(sent(action("SUBMIT(answer='x')"))) == 6


def test_a_provider_that_another_tracer_feeds_gets_no_second_copy(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "traces_dspy_already", lambda: True)
    assert sent(*RECURSIVE) == []


def test_an_unknown_content_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="content must be"):
        rlm_dspy.trace(content="all")  # type: ignore[arg-type]


PROGRAM = """
import dspy, rlm_dspy, sys
from rlm_dspy import spans
from rlm_dspy.testing import action, scripted
lm, _ = scripted(action("SUBMIT(answer='x')"))
with dspy.context(lm=lm):
    rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
print(len(spans.everywhere), "opentelemetry.exporter" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, "0 False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"}, "1 True"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{url}/v1/traces"}, "1 True"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_SDK_DISABLED": "true"}, "0 False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_TRACES_EXPORTER": "none"}, "0 False"),
    ],
)
def test_the_standard_variables_switch_it_on(
    variables: dict[str, str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtlpServer() as server:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(url=server.url))
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
        names = [span.name for span in server.spans]
    assert done.stdout.strip() == shown
    assert names == ["invoke_agent RLM", "chat scripted/model", "execute_tool python"] * int(shown[0])


def test_variables_without_the_package_are_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "_tried", False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            telemetry.trace_if_configured({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    (said,) = caplog.messages
    assert said.startswith(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but runs are not traced: OpenTelemetry is not installed"
    )


def test_no_secret_is_in_the_class_of_an_error(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-secret-000000")
    provider, spans = memory
    rlm_dspy.trace(tracer_provider=provider)

    def boom(prompt: str) -> str:
        raise RuntimeError("sk-secret-000000 is refused at http://x")

    lm, _ = scripted(action("print(llm_query('hi'))"), action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        rlm_dspy.RLM("context, question -> answer", sub_lm=boom)(context="c", question="q")
    assert "sk-secret" not in json.dumps([span.to_json() for span in spans.get_finished_spans()])
    assert telemetry.error_class("ValueError: sk-secret") == "ValueError"
    assert telemetry.error_class("sk-secret: x") == telemetry.error_class("") == "Error"


def test_the_class_of_a_failed_cell_is_sent_unless_the_cell_made_it_up(sent: Sent) -> None:
    made_up = "class SecretFromTheText(Exception): pass\nraise SecretFromTheText"
    spans = sent(action("{}['a']"), action(made_up), action("SUBMIT(answer='x')"))
    kinds = [dict(span.attributes or {}).get("error.type") for span in spans]
    assert [kind for kind in kinds if kind] == ["KeyError", "Error"]
