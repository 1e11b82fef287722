"""The timed parts of a run: what is recorded of each step, call, cell, sub-call and wait, and for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.run import Run, Span, cut_content
from rlm_dspy.spans import listening
from rlm_dspy.testing import action, scripted, texts
from servers.openai import OpenAIServer, error
from servers.wire import Fault

CONTEXT = "the code is 4711\n" * 100
RECURSIVE = (
    action("print(llm_query('first'), subcall(context[:200], 'find the code'))"),
    "one",
    action("print(llm_query('inner'))"),
    "two",
    action("SUBMIT(output='4711')"),
    action("SUBMIT(answer='4711')"),
)


def run_of(*replies: Any, **options: Any) -> tuple[Run, Any]:
    lm, script = scripted(*replies)
    with dspy.context(lm=lm):
        done = rlm_dspy.RLM("context, question -> answer", **options)(context=CONTEXT, question="What is the code?")
    return done.run, script


def shown(run: Run, span: Span) -> list[str]:
    """The prompt of a call, as ``texts`` shows a request."""
    prompt = run.prompt_of(span)
    return [one.content if one.role == "system" else f"{one.role}: {one.content}" for one in prompt]


def below(spans: Iterable[Span], parent: Span) -> list[Span]:
    return [span for span in spans if span.parent == parent.id]


def kinds(spans: Iterable[Span]) -> list[str]:
    return [f"{span.kind} {span.name}".strip() for span in spans]


def test_the_spans_of_a_run_are_nested_as_they_happened() -> None:
    run, _ = run_of(*RECURSIVE)
    (root,) = [span for span in run.spans if span.parent is None]
    assert root.kind == "run"
    first, second = below(run.spans, root)
    assert [first.step, second.step] == [1, 2]
    assert kinds(below(run.spans, first)) == ["lm scripted/model", "cell"]
    cell = below(run.spans, first)[1]
    plain, recursive = below(run.spans, cell)
    assert kinds([plain, recursive]) == ["sub_call plain", "sub_call recursive"]
    assert kinds(below(run.spans, plain)) == ["lm scripted/model"]
    (child,) = below(run.spans, recursive)
    assert (child.kind, child.depth) == ("run", 1)
    assert child.run != root.run
    inner = below(run.spans, child)[0]
    assert kinds(below(run.spans, inner)) == ["lm scripted/model", "cell"]
    assert kinds(below(run.spans, below(run.spans, inner)[1])) == ["sub_call plain"]


def test_spans_join_the_texts_of_the_record() -> None:
    run, _ = run_of(*RECURSIVE)
    by_id = {span.id: span for span in run.spans}
    for step in run.steps:
        assert by_id[step.span or 0].step == step.index
    called = run.steps[0].sub_calls
    assert [by_id[call.span or 0].name for call in called] == ["plain", "recursive"]
    assert called[1].run is not None
    assert called[1].run.spans == ()  # the tree has its spans once, in the root
    assert by_id[called[1].run.steps[0].span or 0].run == called[1].run.id


def test_every_span_lies_within_its_parent() -> None:
    before = time.time()
    run, _ = run_of(*RECURSIVE)
    by_id = {span.id: span for span in run.spans}
    for span in run.spans:
        assert before - 1 <= span.started <= time.time() + 1
        assert span.seconds is not None
        if span.parent is not None:
            above = by_id[span.parent]
            assert above.seconds is not None
            assert above.started <= span.started + 0.05
            assert span.started + span.seconds <= above.started + above.seconds + 0.05


def test_each_prompt_can_be_rebuilt_and_is_kept_once() -> None:
    cells = [action(f"print('output {number}' * 50)") for number in range(6)]
    run, script = run_of(*cells, action("SUBMIT(answer='x')"))
    calls = [span for span in run.spans if span.kind == "lm"]
    assert len(calls) == len(script.requests) == 7
    for span, request in zip(calls, script.requests, strict=True):
        assert shown(run, span) == texts(request)
    assert [len(span.messages) for span in calls] == [
        2
    ] * 7  # the system text and the probe, then a reply and an output
    kept = [message.content for span in calls for message in span.messages]
    assert kept == [message.content for message in run.prompt_of(calls[-1])]


def test_usage_stands_at_the_calls_and_adds_up() -> None:
    run, _ = run_of(*RECURSIVE)
    spent = [span.usage for span in run.spans if span.usage]
    assert {span.kind for span in run.spans if span.usage} == {"lm"}
    assert sum(usage.calls for usage in spent) == run.usage.calls == 6
    assert sum(usage.total_tokens for usage in spent) == run.usage.total_tokens


def test_a_wait_and_its_retry_are_recorded_inside_their_call() -> None:
    busy = Fault(429, error("slow", "x"), {"retry-after": "0.1"})
    reply = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\nSUBMIT(answer='x')\n"
    with OpenAIServer(busy, busy, reply=reply) as server:
        lm = rlm_dspy.lm(
            "groq/openai/gpt-oss-20b", api_base=server.url + "/openai/v1", api_key="gsk_right_key_000000", cache=False
        )
        with dspy.context(lm=lm):
            run = rlm_dspy.RLM("context, question -> answer")(context="c", question="q").run
    (call,) = [span for span in run.spans if span.kind == "lm"]
    waits = [span for span in run.spans if span.kind == "wait"]
    assert [(span.parent, span.name) for span in waits] == [(call.id, "Groq")] * 2
    assert all(span.usage and span.usage.retries == 1 and span.usage.waited_seconds >= 0.1 for span in waits)


def test_cells_keep_their_code_and_raw_output() -> None:
    run, _ = run_of(action("print('seen')\n1/0"), action("SUBMIT(answer='x')"))
    cell = next(span for span in run.spans if span.kind == "cell")
    assert cell.input == "print('seen')\n1/0"
    assert "seen" in cell.output
    assert "ZeroDivisionError" in (cell.error or "")


def test_a_failed_run_has_its_spans_and_none_stays_open() -> None:
    lm, _ = scripted(action("print(1)"), dspy.lm15.AuthError("no key"))
    with dspy.context(lm=lm), pytest.raises(rlm_dspy.RLMError) as caught:
        rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
    run = caught.value.run
    assert run is not None
    assert [span.kind for span in run.spans] == ["run", "step", "lm", "cell", "step", "lm"]
    assert all(span.seconds is not None for span in run.spans)
    assert "no key" in (run.spans[-1].error or "")
    assert run.spans[0].error


def test_the_async_way_records_the_same() -> None:
    lm, _ = scripted(*RECURSIVE)

    async def answered() -> Run:
        with dspy.context(lm=lm):
            program = rlm_dspy.RLM("context, question -> answer")
            run: Run = (await program.acall(context=CONTEXT, question="What is the code?")).run
            return run

    run, (same, _) = asyncio.run(answered()), run_of(*RECURSIVE)
    assert kinds(run.spans) == kinds(same.spans)
    assert [span.depth for span in run.spans] == [span.depth for span in same.spans]


def test_a_direct_call_is_recorded_too() -> None:
    lm, script = scripted("[[ ## answer ## ]]\n4711\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        run = Direct("context, question -> answer")(context="the code is 4711", question="q").run
    root, call = run.spans
    assert kinds(run.spans) == ["run context, question -> answer", "lm scripted/model"]
    assert call.parent == root.id
    assert shown(run, call) == texts(script.requests[0])


def test_a_whole_context_in_a_prompt_is_cut_in_the_record() -> None:
    lm, _ = scripted("[[ ## answer ## ]]\n4711\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        run = Direct("context, question -> answer")(context="x" * 2_000_000, question="q").run
    assert len(run.model_dump_json()) < 300_000
    assert "characters)" in run.spans[1].messages[-1].content


def test_short_content_never_keeps_the_first_part_of_a_word() -> None:
    key = "sk-a-key-that-is-masked-later"
    kept = cut_content("word " * 58 + key + " and more", "short")
    assert kept == "word " * 58 + "… (328 characters)"
    assert cut_content("長" * 400, "short").startswith("長" * 300 + "…")


@pytest.mark.parametrize("content", ["short", "none"])
def test_content_can_be_cut_or_switched_off(content: Any) -> None:
    secret = "the launch word is aardvark. " * 50
    lm, script = scripted(
        action(f"print('{secret}')\nprint(llm_query('{secret}'))"), secret, action(f"SUBMIT(answer='{secret}')")
    )
    with dspy.context(lm=lm):
        program = rlm_dspy.RLM("context, question -> answer", content=content)
        done = program(context=secret, question=secret)
    assert done.answer == secret  # the record is cut, not the run
    assert len(done.trajectory[0]["output"]) > len(secret)
    assert "aardvark" in texts(script.requests[-1])[-1]
    record = done.run.model_dump_json()
    assert ("aardvark" in record) == (content == "short")
    assert len(record) < 15_000
    assert [span.kind for span in done.run.spans if span.usage] == ["lm", "lm", "lm"]


def test_an_unknown_choice_of_content_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="content must be 'full' or 'short' or 'none', not 'all'"):
        rlm_dspy.RLM("context -> answer", content="all")  # type: ignore[arg-type]


class Broken:
    """A listener that fails at the first end."""

    def __init__(self) -> None:
        self.seen = 0

    def started(self, span: Span, record: Any) -> None:
        self.seen += 1

    def ended(self, span: Span, record: Any) -> None:
        raise OSError("disk full")


def test_a_listener_that_fails_does_not_end_the_run_and_is_reported() -> None:
    broken = Broken()
    with listening(broken):
        run, _ = run_of(action("print(1)"), action("SUBMIT(answer='x')"))
    assert run.status == "submitted"
    assert run.warnings == ("Broken failed and missed the rest of this run: disk full",)
    assert broken.seen == 3  # the run, its step and the call of the model, which was the first to end
    lm, _ = scripted("[[ ## answer ## ]]\nx")
    with dspy.context(lm=lm), listening(Broken()):
        direct = Direct("context, question -> answer")(context="c", question="q")
    assert direct.run.warnings == run.warnings
    assert run_of(action("SUBMIT(answer='x')"))[0].warnings == ()


def test_the_record_survives_json() -> None:
    run, _ = run_of(*RECURSIVE)
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_a_run_inside_a_tool_has_a_record_of_its_own() -> None:
    inner: list[Run] = []

    def ask_again(question: str) -> str:
        run, _ = run_of(action("SUBMIT(answer='inner')"))
        inner.append(run)
        return str(run.outputs["answer"])

    run, _ = run_of(action("print(ask_again('q'))"), action("SUBMIT(answer='x')"), tools=[ask_again])
    ids = {span.id for span in run.spans}
    assert len(inner) == 1
    assert not ids & {span.id for span in inner[0].spans}
    assert {span.run for span in run.spans} == {run.id}


@pytest.mark.parametrize("is_async", [False, True])
def test_streamify_gets_a_status_for_each_step_and_cell(is_async: bool) -> None:
    lm, _ = scripted(action("print(llm_query('hi'))\nprint(2)"), "sub", action("SUBMIT(answer='x')"))

    async def streamed() -> list[str]:
        program = dspy.streamify(rlm_dspy.RLM("context, question -> answer"), is_async_program=is_async)
        with dspy.context(lm=lm):
            items = [item async for item in program(context="c", question="q")]
        assert items[-1].answer == "x"
        return [item.message for item in items if isinstance(item, dspy.streaming.StatusMessage)]

    assert asyncio.run(streamed()) == [
        "Step 1/20: asking the model for code...",
        "Step 1/20: running 2 lines of Python...",
        "Step 2/20: asking the model for code...",
        "Step 2/20: running 1 line of Python...",
    ]


def test_events_carry_the_words_and_the_usage_of_their_step() -> None:
    seen: list[Any] = []
    run_of(action("print(llm_query('hi'))", "Ask first."), "sub", action("SUBMIT(answer='x')"), on_event=seen.append)
    code, output = (next(event for event in seen if event.kind == kind) for kind in ("code", "output"))
    assert (code.text, code.reasoning) == ("print(llm_query('hi'))", "Ask first.")
    assert (output.text, output.reasoning, output.step_usage.calls) == ("sub", "Ask first.", 2)


def test_evidence_keeps_ten_lines_of_its_source() -> None:
    text = "\n".join(f"line {number} of it" for number in range(100))
    lm, _ = scripted(action("SUBMIT(answer='x', evidence=[{'quote': 'line 50 of it'}])"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
        (row,) = rlm(context=text, question="q").run.evidence
    assert row["around"].split("\n") == [f"line {number} of it" for number in range(45, 56)]
    corpus = rlm_dspy.Corpus.from_texts({"a.md": "one\ntwo\nthree", "b.md": "x"})
    lm, _ = scripted(action("SUBMIT(answer='x', evidence=[{'quote': 'two', 'source': 'a.md'}])"))
    with dspy.context(lm=lm):
        run = rlm(context=corpus, question="q").run
    assert run.evidence[0]["around"] == "one\ntwo\nthree"
