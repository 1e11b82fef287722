"""Every row of the error table, through the real LiteLLM over HTTP."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import dspy
import pytest

from rlm_dspy.lms import engine, errors, lm
from rlm_dspy.lms.providers import Route
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY = "gsk_right_key_000000"
CANARY = "gsk_canary_4711_secret"
TPM = "Request too large for model `x` on tokens per minute (TPM): Limit 8000, Requested 12000, please reduce."
NO_CHOICES = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [], "service_tier": "auto"}

ROWS = [
    ("401", Fault(401, error("Invalid API Key", "x")), dspy.LMAuthError, "GROQ_API_KEY", 1),
    ("403", Fault(403, error("forbidden", "x")), dspy.LMAuthError, "GROQ_API_KEY", 1),
    ("404", Fault(404, error("does not exist", "x")), dspy.LMUnsupportedModelError, "Did you mean", 1),
    ("413", Fault(413, error(TPM, "tokens", "rate_limit_exceeded")), dspy.LMInvalidRequestError, "too large", 1),
    ("429 for long", Fault(429, error("slow", "x"), {"retry-after": "1272"}), dspy.LMBillingError, "21 min", 1),
    ("no money", Fault(429, error("quota", "x", "insufficient_quota")), dspy.LMBillingError, "plan", 1),
    (
        "window",
        Fault(400, error("Please reduce the length of the messages.", "x", "context_length_exceeded")),
        dspy.ContextWindowExceededError,
        "too small a window",
        1,
    ),
    ("json", Fault(400, error("Failed", "x", "json_validate_failed")), dspy.LMProviderError, "could not parse", 1),
    ("content", Fault(400, error("blocked by content policy", "x")), dspy.LMInvalidRequestError, "content", 1),
    ("400", Fault(400, error("bad option", "x")), dspy.LMInvalidRequestError, "bad option", 1),
    ("malformed", Fault(200, "{not json"), dspy.LMProviderError, "not a chat completion", 1),
    ("html", Fault(200, "<html>proxy</html>"), dspy.LMProviderError, "not a chat completion", 1),
    ("empty choices", Fault(200, NO_CHOICES), dspy.LMProviderError, "no choices|not a chat completion", 1),
    ("other JSON", Fault(200, {"foo": 1}), dspy.LMProviderError, "not a chat completion", 1),
    ("choices no list", Fault(200, {"choices": "none"}), dspy.LMProviderError, "not a chat completion", 1),
    ("error in a 200", Fault(200, error("slow down", "x", 402)), dspy.LMBillingError, "in its reply: slow down", 1),
]


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    monkeypatch.setattr(engine, "_ANSWERED", set())  # a port may be taken twice


def groq(server: OpenAIServer, **options: object) -> dspy.LM:
    given = {"api_key": KEY, "cache": False, "requests_per_minute": 100_000, **options}
    return lm("groq/openai/gpt-oss-20b", api_base=server.url + "/openai/v1", **given)


@pytest.mark.parametrize(("fault", "kind", "says", "calls"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_failure_that_cannot_pass_is_told_once(fault: Fault, kind: type[Exception], says: str, calls: int) -> None:
    with OpenAIServer(fault, fault, fault) as server, pytest.raises(kind, match=says) as caught:
        groq(server)("hi")
    assert type(caught.value) is kind
    assert len(server.posts) == calls
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, error("slow", "x"), {"retry-after": "0"}),
        Fault(500, error("oops", "x"), {"retry-after": "0"}),
        Fault(503, "busy", {"retry-after": "0"}),
        Fault(498, error("capacity", "x"), {"retry-after": "0"}),
        Fault(502, "<html>bad gateway</html>", {"retry-after": "0"}),
        Fault(200, error("upstream is gone", "x", "upstream_error")),
    ],
    ids=["429", "500", "503", "498", "502 page", "error in a 200"],
)
def test_a_failure_that_may_pass_is_retried_after_the_wait_it_asks_for(fault: Fault) -> None:
    with OpenAIServer(fault) as server:
        assert groq(server)("hi") == ["hello"]
        assert len(server.posts) == 2


@pytest.mark.parametrize("page", [{"choices": []}, {"foo": 1}, "<html>proxy</html>", "{not json"])
async def test_an_ollama_reply_that_is_none_is_told_in_one_line(page: object) -> None:
    with OllamaServer(*[Fault(200, page, path="/api/chat")] * 2) as server:
        made = lm("ollama_chat/qwen3:8b", api_base=server.url, num_ctx=8192, cache=False, num_retries=0)
        with pytest.raises(dspy.LMProviderError, match="not a chat completion") as caught:
            made("hi")
        with pytest.raises(dspy.LMProviderError, match="not a chat completion"):
            await made.acall("hi")
    assert "Traceback" not in str(caught.value)


def test_a_cut_connection_is_a_transport_error() -> None:
    with OpenAIServer(Fault(cut=True)) as server, pytest.raises(dspy.LMTransportError, match="cut the connection"):
        groq(server, num_retries=0)("hi")


def test_a_slow_server_is_a_timeout() -> None:
    with OpenAIServer(Fault(delay=1.0)) as server, pytest.raises(dspy.LMTimeoutError, match=r"within 0\.2 s"):
        groq(server, num_retries=0, timeout=0.2)("hi")


def test_an_unreachable_server_is_named() -> None:
    with pytest.raises(dspy.LMTransportError, match=r"127\.0\.0\.1:9.*ollama serve"):
        lm("ollama_chat/x", api_base="http://127.0.0.1:9", cache=False, num_retries=0)("hi")


def test_a_missing_key_is_told_before_any_request() -> None:
    with pytest.raises(dspy.LMNotConfiguredError, match="Set GROQ_API_KEY"):
        lm("groq/openai/gpt-oss-20b", cache=False)("hi")


def test_a_key_with_a_line_break_is_not_sent() -> None:
    with OpenAIServer() as server, pytest.raises(dspy.LMAuthError, match="line break"):
        groq(server, api_key="gsk_one\ngsk_two")("hi")
    assert not server.posts


@pytest.mark.parametrize("wrong", ["gsk_one\ngsk_two", '"gsk_one"', "'gsk_one'"])
def test_a_wrong_key_is_told_with_the_place_where_it_was_set(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        with pytest.raises(dspy.LMAuthError, match=r"the key \(api_key, which was given in place of GROQ_API_KEY\)"):
            groq(server, api_key=wrong)("hi")
        monkeypatch.setenv("GROQ_API_KEY", wrong)
        with pytest.raises(dspy.LMAuthError, match=r"the key \(GROQ_API_KEY\)"):
            groq(server, api_key=None)("hi")
        monkeypatch.setenv("HOSTED_VLLM_API_KEY", wrong)
        with pytest.raises(dspy.LMAuthError, match=r"the key \(HOSTED_VLLM_API_KEY\)"):
            lm("hosted_vllm/m", api_base=server.url, cache=False)("hi")
        assert not server.posts


def test_a_quoted_key_is_told_as_that() -> None:
    with OpenAIServer() as server, pytest.raises(dspy.LMAuthError, match="Remove the quotes"):
        groq(server, api_key=f'"{KEY}"')("hi")


@pytest.mark.parametrize("wait", ["99999999999999999999", "700000"])
def test_an_absurd_wait_is_not_spelt_out(wait: str) -> None:
    fault = Fault(429, error("slow", "x"), {"retry-after": wait})
    with OpenAIServer(fault) as server, pytest.raises(dspy.LMError, match="out of quota for more than a week"):
        groq(server, num_retries=0)("hi")


def test_an_unknown_provider_is_told() -> None:
    with pytest.raises(dspy.LMUnsupportedModelError, match="not a known provider"):
        lm("frobnicate/x", cache=False)("hi")


def test_an_ollama_model_that_is_not_there_names_those_that_are() -> None:
    with (
        OllamaServer() as server,
        pytest.raises(dspy.LMUnsupportedModelError, match="Did you mean ollama_chat/qwen3:8b"),
    ):
        lm("ollama_chat/qwen3", api_base=server.url, cache=False)("hi")


def test_an_embedding_model_is_told_that_it_cannot_chat() -> None:
    models = {"nomic-embed-text": {"family": "bert"}}
    with OllamaServer(models=models) as server, pytest.raises(dspy.LMUnsupportedModelError, match="cannot chat"):
        lm("ollama_chat/nomic-embed-text", api_base=server.url, cache=False)("hi")


def test_the_key_is_in_no_error_repr_or_saved_state() -> None:
    echo = Fault(400, error(f"bad key {CANARY} given", "x"))
    with OpenAIServer(echo) as server:
        made = groq(server, api_key=CANARY)
        with pytest.raises(dspy.LMError) as caught:
            made("hi")
    texts = [str(caught.value), repr(caught.value), repr(made.engine), repr(made.engine.route), str(made.dump_state())]
    assert not [text for text in texts if CANARY in text]


async def test_the_async_engine_tells_the_same() -> None:
    with OpenAIServer(Fault(401, error("no", "x"))) as server:
        with pytest.raises(dspy.LMAuthError, match="GROQ_API_KEY"):
            await groq(server).acall("hi")
        assert await groq(server).acall("hi") == ["hello"]


def test_the_password_of_an_address_is_in_no_error_repr_or_saved_state() -> None:
    with OpenAIServer(Fault(400, error(f"no {CANARY}", "x"))) as server:
        address = server.url.replace("//", f"//someone:{CANARY}@")
        made = lm("openai/x", api_base=address, cache=False)
        with pytest.raises(dspy.LMError) as caught:
            made("hi")
    texts = [str(caught.value), repr(caught.value), repr(made.engine.route), str(made.dump_state())]
    assert not [text for text in texts if CANARY in text]


def raised(error: Exception, *below: Exception) -> Exception:
    """Return an error as if it had been raised while those below were handled."""
    step = error
    for cause in below:
        step.__context__ = cause
        step = cause
    return error


def told_by_class(name: str, **given: object) -> Exception:
    """Make one of LiteLLM's exceptions, with a sentence that it does not write today."""
    kind = getattr(importlib.import_module("litellm.exceptions"), name)
    return kind(**{"message": "some other words", "model": "x", "llm_provider": "openai", **given})


def broken_off(below: str = "APIConnectionError") -> Exception:
    """Make the exception of a stream that ended early."""
    return told_by_class("MidStreamFallbackError", original_exception=told_by_class(below))


def written_into_it() -> Exception:
    """Make what OpenAI's client raises for an error inside a stream."""
    return importlib.import_module("openai").APIError("some words", None, body={"message": "it is gone"})


def unreadable() -> Exception:
    """Make what LiteLLM raises for a reply that is not a chat completion."""
    kind = importlib.import_module("litellm.llms.openai.common_utils").OpenAIError
    return kind(status_code=500, message="some other words")


@pytest.mark.parametrize(
    ("made_up", "kind", "says"),
    [
        (lambda: raised(broken_off(), StopIteration()), dspy.lm15.TransportError, "in the middle of its reply"),
        (lambda: broken_off(), dspy.lm15.TransportError, "in the middle of its reply"),
        (lambda: raised(broken_off(), written_into_it()), dspy.lm15.ServerError, "it is gone"),
        (lambda: broken_off("ServiceUnavailableError"), dspy.lm15.ServerError, "HTTP 503"),
        (
            lambda: raised(told_by_class("InternalServerError"), unreadable()),
            dspy.lm15.ProviderError,
            "not a chat completion",
        ),
        (
            lambda: told_by_class("BadRequestError", llm_provider=""),
            dspy.lm15.UnsupportedModelError,
            "not a known provider",
        ),
        (lambda: told_by_class("ContextWindowExceededError"), dspy.lm15.ContextLengthError, "too small a window"),
        (lambda: told_by_class("ContentPolicyViolationError"), dspy.lm15.InvalidRequestError, "refused the content"),
    ],
    ids=["ended early", "no cause", "said so", "busy", "unreadable", "unknown", "window", "content"],
)
def test_what_litellm_makes_up_is_told_by_its_class_whatever_its_words(
    made_up: Callable[[], Exception], kind: type[Exception], says: str
) -> None:
    found = errors.translate_error(made_up(), Route("groq/openai/gpt-oss-20b"))
    assert type(found) is kind
    assert says in str(found)
