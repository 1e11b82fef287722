"""A reply that the provider itself could not read: its text is kept, whatever engine asked for it."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from rlm_dspy.dspy_errors import failed_generation
from rlm_dspy.lms import engine, lm, rate_limits
from rlm_dspy.metering import Meter
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault, Server

# LiteLLM's own types make pydantic warn when a stream is read and put together.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing th(e 'model_.*fields'|is) attribute:DeprecationWarning"),
]

KEY = "gsk_right_key_000000"
WROTE = "<|channel|>commentary to=python code\nprint(len(context))"
WAYS = pytest.mark.parametrize("way", ["sync", "async"])
CODES = pytest.mark.parametrize("code", ["tool_use_failed", "output_parse_failed", "json_validate_failed"])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(engine, "_ANSWERED", set())


def bad_sample(code: str, wrote: str | None = WROTE) -> dict[str, Any]:
    """Make the body with which Groq answers such a reply."""
    body = error("Please adjust your prompt.", "invalid_request_error", code)
    if wrote is not None:
        body["error"]["failed_generation"] = wrote
    return body


def refused(body: dict[str, Any], where: str) -> Fault:
    """Make the reply that refuses, at once or in the middle of a stream."""
    if where == "at once":
        return Fault(400, body)
    return Fault(after=3, body=f"data: {json.dumps(body)}\n\n")


def made(name: str, server: Server) -> dspy.LM:
    """Make a model by our engine, or by one of DSPy's two."""
    if name == "ours":
        options: dict[str, Any] = {"requests_per_minute": 100_000}
        return lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, cache=False, **options)
    provider, kind = name.split()
    options = {"engine": kind, "cache": False, "num_retries": 0, "api_key": KEY}
    return dspy.LM(f"{provider}/openai/gpt-oss-20b", api_base=f"{server.url}/openai/v1", **options)


async def failure(model: dspy.LM, way: str) -> Exception:
    """Return the error of a call."""
    with pytest.raises(dspy.LMError) as caught:
        model("hi") if way == "sync" else await model.acall("hi")
    return caught.value


class Catching(dspy.Module):
    """Keeps the error of a streamed call as a program would see it."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.caught: list[Exception] = []

    def forward(self, question: str) -> dspy.Prediction:
        try:
            return self.ask(question=question)
        except dspy.LMError as failed:
            self.caught.append(failed)
            return dspy.Prediction(answer="none")


async def streamed_failure(model: dspy.LM) -> Exception:
    """Return the error of a call inside ``dspy.streamify``."""
    program = Catching()
    with dspy.context(lm=model):
        async for _ in dspy.streamify(program)(question="what?"):
            pass
    (caught,) = program.caught
    return caught


ENGINES = {  # and whether the text survives in it
    "ours": True,
    "groq auto": False,
    "groq litellm": True,
    "openai auto": False,
    "openai litellm": True,
}


@WAYS
@CODES
@pytest.mark.parametrize("name", ENGINES)
async def test_a_bad_sample_is_known_with_what_the_model_wrote(name: str, code: str, way: str) -> None:
    with OpenAIServer(Fault(400, bad_sample(code)), Fault(400, bad_sample(code))) as server:
        caught = await failure(made(name, server), way)
        assert len(server.posts) == 1
    assert failed_generation(caught) == (WROTE if ENGINES[name] else "")


@CODES
@pytest.mark.parametrize("where", ["at once", "streamed"])
@pytest.mark.parametrize("name", ["ours", "groq auto", "openai auto", "openai litellm"])
async def test_a_bad_sample_of_a_streamed_call_is_known_too(name: str, code: str, where: str) -> None:
    with OpenAIServer(refused(bad_sample(code), where)) as server:
        caught = await streamed_failure(made(name, server))
        assert len(server.posts) == 1
    assert failed_generation(caught) == (WROTE if ENGINES[name] else "")


@WAYS
@pytest.mark.parametrize("name", ENGINES)
async def test_a_bad_sample_of_which_nothing_was_kept_is_empty(name: str, way: str) -> None:
    with OpenAIServer(Fault(400, bad_sample("tool_use_failed", None))) as server:
        caught = await failure(made(name, server), way)
    assert failed_generation(caught) == ""


@WAYS
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_any_other_failure_is_none(name: str, way: str, status: int) -> None:
    other = error("The tool tool_use_failed is not known.", "invalid_request_error", "other")
    with OpenAIServer(*[Fault(status, other, {"retry-after": "0"})] * 4) as server:
        caught = await failure(made(name, server), way)
    assert failed_generation(caught) is None


def test_an_error_that_is_no_providers_is_none() -> None:
    assert failed_generation(ValueError("tool_use_failed")) is None


def test_our_engine_says_that_the_model_wrote_it_and_keeps_no_secret() -> None:
    refusal = Fault(400, bad_sample("output_parse_failed", f"{WROTE} # {KEY}"))
    says = r"could not parse \(output_parse_failed\)"
    with OpenAIServer(refusal) as server, pytest.raises(dspy.LMProviderError, match=says) as caught:
        made("ours", server)("hi")
    assert caught.value.status == 400
    assert caught.value.provider_code == "output_parse_failed"
    assert failed_generation(caught.value) == f"{WROTE} # ********"


def test_names_in_what_the_model_wrote_stay_as_they_are() -> None:
    wrote = "sk_learned_model = load(bearer token_of_mine)"
    refusal = Fault(400, bad_sample("tool_use_failed", wrote))
    with OpenAIServer(refusal) as server, pytest.raises(dspy.LMProviderError) as caught:
        made("ours", server)("hi")
    assert failed_generation(caught.value) == wrote


GARBLED = [{"choices": []}, {"foo": 1}, "{not json", "<html>proxy</html>", ""]
PATHS = {"ollama": "/api/chat", "groq": ""}


def served(kind: str, *faults: Fault) -> Server:
    return OllamaServer(*faults, reply="whole") if kind == "ollama" else OpenAIServer(*faults, reply="whole")


def asked(kind: str, server: Server, **options: Any) -> dspy.LM:
    if kind == "ollama":
        return lm("ollama_chat/qwen3:8b", num_ctx=8192, api_base=server.url, cache=False, **options)
    given = {"requests_per_minute": 100_000, **options}
    return lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, cache=False, **given)


def chats(server: Server) -> int:
    """Count the chats that a server was asked for."""
    return sum("chat" in seen.path for seen in server.posts)


async def call(model: dspy.LM, way: str) -> Any:
    return model("hi") if way == "sync" else await model.acall("hi")


@WAYS
@pytest.mark.parametrize("kind", ["ollama", "groq"])
@pytest.mark.parametrize("page", GARBLED, ids=["empty choices", "other JSON", "broken", "html", "nothing"])
async def test_a_garbled_reply_after_a_good_one_is_asked_for_once_more(kind: str, way: str, page: Any) -> None:
    with served(kind) as server:
        model, garbled = asked(kind, server), Fault(200, page, path=PATHS[kind])
        assert await call(model, way) == ["whole"]
        server.faults.append(garbled)
        assert await call(model, way) == ["whole"]
        assert chats(server) == 3
        server.faults.extend([garbled, garbled])
        with pytest.raises(dspy.LMProviderError, match=r"no choices|not a chat completion"):
            await call(model, way)
        assert chats(server) == 5


@WAYS
async def test_a_garbled_first_reply_is_told_at_once(way: str) -> None:
    with served("groq", Fault(200, "<html>proxy</html>")) as server:
        with pytest.raises(dspy.LMProviderError, match="not a chat completion"):
            await call(asked("groq", server), way)
        assert len(server.posts) == 1


def test_the_second_attempt_is_counted_and_can_be_forbidden() -> None:
    meter = Meter()
    with served("groq") as server, dspy.context(callbacks=[meter]):
        asked("groq", server)("hi")
        server.faults.append(Fault(200, "{not json"))
        assert asked("groq", server)("hi") == ["whole"]
        server.faults.append(Fault(200, "{not json"))
        with pytest.raises(dspy.LMProviderError):
            asked("groq", server, num_retries=0)("hi")
    assert meter.usage.retries == 1


@WAYS
async def test_a_garbled_stream_after_a_good_reply_is_asked_for_once_more(way: str) -> None:
    with served("groq") as server:
        model = asked("groq", server)
        request = dspy.lm15.Request(model=model.model, messages=(dspy.lm15.Message.user("hi"),))
        await call(model, way)
        server.faults.append(Fault(200, "<html>proxy</html>"))
        if way == "sync":
            seen = list(model.engine.stream(request))
        else:
            seen = [event async for event in model._async_engine_spec.stream(request)]
        assert len(server.posts) == 3
    assert "".join(event.delta.text for event in seen if event.type == "delta") == "whole"
