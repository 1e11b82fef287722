"""Streams that are whole, that end before their end, and that another model takes over."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from rlm_dspy import RLM
from rlm_dspy.errors import LMUnavailableError
from rlm_dspy.lms import engine, lm, rate_limits, streams
from rlm_dspy.metering import Meter
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.run import Event
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault, Server

# LiteLLM's own types make pydantic warn when a stream is read and put together.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute:DeprecationWarning"),
]

KEY = "gsk_right_key_000000"
REPLY = "[[ ## answer ## ]]\nforty two is what it is\n\n[[ ## completed ## ]]"
SUBMIT = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\n```python\nSUBMIT(answer=str(len(context)))\n```\n"
GONE = "llama runner process has terminated: it's gone"
BROKEN = {
    "ollama": json.dumps({"error": GONE}) + "\n",
    "groq": "data: " + json.dumps({"error": {"message": GONE, "type": "server_error"}}) + "\n\n",
}
DEATHS = {
    "cut": (Fault(after=6, cut=True), dspy.LMTransportError, "cut the connection in the middle of its reply"),
    "ended early": (Fault(after=6), dspy.LMTransportError, "cut the connection in the middle of its reply"),
    "said so": (Fault(after=6, body="BROKEN"), dspy.LMServerError, "in its reply: llama runner"),
    "stalled": (Fault(after=6, delay=2.5), dspy.LMTimeoutError, "within 1 s"),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(engine, "_ANSWERED", set())  # a port may be taken twice


def served(kind: str, *faults: Fault, reply: str = REPLY) -> Server:
    right = [Fault(**{**vars(one), "body": BROKEN[kind]}) if one.body == "BROKEN" else one for one in faults]
    return OllamaServer(*right, reply=reply) if kind == "ollama" else OpenAIServer(*right, reply=reply)


def made(kind: str, server: Server, **options: Any) -> dspy.LM:
    given = {"api_base": server.url, "cache": False, **options}
    if kind == "ollama":
        return lm("ollama_chat/qwen3:8b", num_ctx=8192, **given)
    return lm("groq/openai/gpt-oss-20b", api_key=KEY, requests_per_minute=100_000, **given)


async def events(model: dspy.LM, way: str) -> list[Any]:
    """Stream one request, by either engine; what was seen is on the error too."""
    request = dspy.lm15.Request(model=model.model, messages=(dspy.lm15.Message.user("hi"),))
    seen: list[Any] = []
    try:
        if way == "sync":
            seen.extend(model.engine.stream(request))
        else:
            async for event in model._async_engine_spec.stream(request):
                seen.append(event)
    except dspy.lm15.LM15Error as failure:
        failure.seen = seen
        raise
    return seen


def text(seen: list[Any]) -> str:
    return "".join(event.delta.text for event in seen if event.type == "delta")


async def streamed(program: Any, **inputs: Any) -> tuple[str, Any]:
    """Return the text that ``dspy.streamify`` showed, and the prediction or the error it ended with."""
    shown = ""
    try:
        async for item in dspy.streamify(program)(**inputs):
            if isinstance(item, dspy.Prediction):
                return shown, item
            if not isinstance(item, dspy.streaming.StatusMessage):
                shown += item.choices[0].delta.content or ""
    except dspy.LMError as failure:
        return shown, failure
    raise AssertionError("the stream ended without a prediction")


WIRES = pytest.mark.parametrize("kind", ["ollama", "groq"])
WAYS = pytest.mark.parametrize("way", ["sync", "async"])


@WIRES
@WAYS
async def test_a_stream_arrives_in_order_and_ends_with_its_cost_and_limits(kind: str, way: str) -> None:
    with served(kind, reply="one two") as server:
        seen = await events(made(kind, server), way)
    assert [event.type for event in seen] == ["start", "delta", "delta", "end"]
    assert text(seen) == "one two"
    assert seen[-1].provider_data["cost"] is not None
    assert ("limits" in seen[-1].provider_data) == (kind == "groq")


@WIRES
@WAYS
@pytest.mark.parametrize("death", DEATHS)
async def test_a_server_that_dies_after_text_was_shown_is_one_clear_error(kind: str, way: str, death: str) -> None:
    fault, _, says = DEATHS[death]
    with served(kind, fault) as server:
        model = made(kind, server, fallback="offline", **({"timeout": 1.0} if death == "stalled" else {}))
        with pytest.raises(dspy.lm15.LM15Error, match=says) as caught:
            await events(model, way)
        assert len([seen for seen in server.posts if "chat" in seen.path]) == 1
    assert "\n" not in str(caught.value)


@WIRES
@WAYS
@pytest.mark.parametrize("death", [Fault(after=0, cut=True), Fault(after=0), Fault(after=0, body="BROKEN")])
async def test_a_stream_that_dies_before_its_text_is_tried_again(kind: str, way: str, death: Fault) -> None:
    with served(kind, death) as server:
        seen = await events(made(kind, server), way)
    assert text(seen) == REPLY
    assert [event.type for event in seen].count("start") == 1


@WAYS
async def test_what_opens_a_stream_shows_nothing_yet(way: str) -> None:
    with served("groq", Fault(after=1, cut=True)) as server:  # the chunk with the role
        assert text(await events(made("groq", server), way)) == REPLY


@WIRES
@WAYS
async def test_a_fallback_takes_over_before_the_first_text(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = Fault(503, error("down", "x"), {"retry-after": "0"})
    with served(kind, *[down] * 4) as server, OllamaServer(reply="from the other") as other:
        model = made(kind, server, fallback="ollama_chat/qwen3:8b")
        monkeypatch.setenv("OLLAMA_HOST", other.url)
        seen = await events(model, way)
    assert text(seen) == "from the other"
    assert seen[-1].provider_data["answered_by"] == "ollama_chat/qwen3:8b"


@WAYS
async def test_the_offline_engine_takes_over_a_stream(way: str) -> None:
    model = lm("ollama_chat/x", api_base="http://127.0.0.1:9", cache=False, fallback="offline")
    seen = await events(model, way)
    assert seen[-1].provider_data["answered_by"] == "offline/extractive"


@pytest.mark.parametrize("death", ["cut", "ended early", "said so"])
async def test_streamify_ends_with_the_class_of_the_failure_and_does_not_ask_again(death: str) -> None:
    fault, kind, says = DEATHS[death]
    with served("groq", fault) as server:
        with dspy.context(lm=made("groq", server)):
            shown, failure = await streamed(dspy.Predict("question -> answer"), question="what?")
        assert len(server.posts) == 1
    assert shown
    assert REPLY.startswith(shown)
    assert type(failure) is kind
    with pytest.raises(kind, match=says):
        raise failure


async def test_a_fallback_in_streamify_is_counted_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Fault(429, error("slow", "x"), {"retry-after": "9999"})
    meter = Meter()
    with served("groq", gone) as server, OllamaServer(reply=REPLY) as other:
        monkeypatch.setenv("OLLAMA_HOST", other.url)
        with dspy.context(lm=made("groq", server, fallback="ollama_chat/x:1"), callbacks=[meter]):
            other.models["x:1"] = {}
            shown, found = await streamed(dspy.Predict("question -> answer"), question="what?")
    assert (shown, found.answer) == (REPLY, "forty two is what it is")
    assert set(meter.by_model) == {"ollama_chat/x:1"}


@pytest.mark.parametrize("fault", [Fault(), Fault(after=6, cut=True)], ids=["whole", "cut"])
async def test_a_streamed_run_answers_or_ends_with_what_was_done(fault: Fault) -> None:
    with served("ollama", fault, reply=SUBMIT) as server, dspy.context(lm=made("ollama", server)):
        shown, found = await streamed(RLM("context, question -> answer"), context="word", question="how long?")
    if not fault.cut:
        assert found.answer == "4"
        return
    assert isinstance(found, LMUnavailableError)
    assert found.run.status == "stopped"
    assert SUBMIT.startswith(shown)


@WIRES
@WAYS
async def test_a_call_that_is_cut_is_tried_again_and_a_second_cut_is_one_clear_error(kind: str, way: str) -> None:
    async def ask(model: dspy.LM) -> Any:
        return model("hi") if way == "sync" else await model.acall("hi")

    with served(kind, Fault(cut=True, path=PATHS[kind]), reply="whole") as server:
        assert await ask(made(kind, server)) == ["whole"]
    with served(kind, *[Fault(cut=True, path=PATHS[kind])] * 2) as server:
        with pytest.raises(dspy.LMTransportError, match="cut the connection in the middle of its reply"):
            await ask(made(kind, server, num_retries=1))
        assert len(server.posts) == 2


PATHS = {"ollama": "/api/chat", "groq": ""}


@WAYS
@pytest.mark.parametrize("page", ["<html>proxy</html>", "{not json", {"choices": []}], ids=["html", "broken", "empty"])
async def test_a_page_in_place_of_a_stream_is_told_once(way: str, page: Any) -> None:
    with served("groq", *[Fault(200, page)] * 3) as server:
        with pytest.raises(dspy.lm15.ProviderError, match="not a chat completion"):
            await events(made("groq", server), way)
        assert len(server.posts) == 1


THOUGHTS = [
    'print("<think>x</think>")',
    "<think>plan: x = 1</think>\nprint(1)",
    "plan</think>\nprint(1)",
    "<think>never closed print(1)",
    "one </think> two <think> three",
]


@WIRES
@WAYS
@pytest.mark.parametrize("wrote", THOUGHTS)
async def test_marks_of_thinking_are_streamed_as_the_model_wrote_them(kind: str, way: str, wrote: str) -> None:
    with served(kind, reply=wrote) as server:
        seen = await events(made(kind, server), way)
    assert text(seen) == wrote


@WAYS
async def test_thinking_that_ollama_keeps_apart_stays_apart_in_a_stream(way: str) -> None:
    with OllamaServer(reply="print(1)", thinking="a plan") as server:
        seen = await events(made("ollama", server), way)
    shown = [(event.delta.type, event.delta.text) for event in seen if event.type == "delta"]
    assert shown == [("thinking", "a plan"), ("text", "print(1)")]


class Watcher:
    """Takes all events, and the text of answers as it arrives."""

    wants_text = True

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "text"]


@pytest.mark.parametrize("kind", ["ollama", "groq"])
def test_a_direct_answer_is_shown_while_it_arrives(kind: str) -> None:
    watcher = Watcher()
    program = Direct("context, question -> answer", on_event=watcher)
    with served(kind) as server, dspy.context(lm=made(kind, server)):
        done = program(context="c", question="q")
    assert done.answer == "forty two is what it is"
    assert watcher.texts[0] == ""  # a reply begins
    assert len(watcher.texts) > 2
    assert "".join(watcher.texts) == REPLY
    assert done.run.usage.calls == 1
    assert done.run.usage.estimated_calls == 0


def test_a_watcher_that_does_not_ask_gets_no_text_and_no_stream() -> None:
    seen: list[Event] = []
    with served("groq") as server, dspy.context(lm=made("groq", server)):
        Direct("context, question -> answer", on_event=seen.append)(context="c", question="q")
        assert not server.posts[0].body.get("stream")
    assert "text" not in [event.kind for event in seen]


def test_the_text_begins_again_when_a_stream_was_cut() -> None:
    watcher = Watcher()
    with served("groq", Fault(after=6, cut=True)) as server, dspy.context(lm=made("groq", server)):
        done = Direct("context, question -> answer", on_event=watcher)(context="c", question="q")
    assert done.answer == "forty two is what it is"
    last = len(watcher.texts) - 1 - watcher.texts[::-1].index("")
    assert watcher.texts.count("") == 2
    assert "".join(watcher.texts[last:]) == REPLY


def test_an_extracted_answer_is_shown_while_it_arrives_and_steps_are_not() -> None:
    watcher = Watcher()
    with OpenAIServer() as server, dspy.context(lm=made("groq", server)):
        server.turns = [("[[ ## reasoning ## ]]\nlook\n\n[[ ## code ## ]]\nprint(1)", "stop"), (REPLY, "stop")]
        done = RLM("context, question -> answer", max_iters=1, on_event=watcher)(context="c", question="q")
        assert [bool(post.body.get("stream")) for post in server.posts] == [False, True]
    assert done.run.status == "extracted"
    assert "".join(watcher.texts) == REPLY


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("[[ ## answer", ""),
        ("[[ ## answer ## ]]\n", ""),
        ("[[ ## answer ## ]]\nforty two", "forty two"),
        ("[[ ## answer ## ]]\nforty two\n\n[", "forty two"),
        ("[[ ## answer ## ]]\nforty two\n\n[[ ## evi", "forty two"),
        ("[[ ## reasoning ## ]]\nhm\n[[ ## answer ## ]]\na [x] b", "a [x] b"),
        ('{"answer": "x"}', ""),
    ],
)
def test_the_answer_so_far_is_what_stands_in_its_field(text: str, shown: str) -> None:
    assert streams.answer_so_far(text, "answer") == shown
