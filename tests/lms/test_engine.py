"""What goes over the wire, what is counted, and what is refused."""

from __future__ import annotations

import asyncio
import threading

import dspy
import pytest
from dspy.lm15 import Message, Request

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import lm
from rlm_dspy.lms.engine import RoutedEngine
from rlm_dspy.lms.transport import cut_prompt_tokens
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY = "gsk_right_key_000000"


def test_ollama_gets_its_window_and_no_leave_to_truncate() -> None:
    with OllamaServer(models={"qwen3:8b": {"window": 16384}}) as server:
        made = lm("ollama/qwen3:8b", api_base=server.url + "/v1", cache=False, think=False)
        assert made("hi") == ["hello"]
        body = next(seen.body for seen in server.posts if seen.path == "/api/chat")
    assert made.model == "ollama_chat/qwen3:8b"
    assert body["options"]["num_ctx"] == 16384
    assert (body["truncate"], body["keep_alive"], body["think"]) == (False, "10m", False)


def test_a_window_is_capped_and_the_user_may_set_it() -> None:
    with OllamaServer(models={"big": {"window": 1_000_000}}) as server:
        lm("ollama_chat/big", api_base=server.url, cache=False)("hi")
        lm("ollama_chat/big", api_base=server.url, cache=False, num_ctx=65536)("hi")
        sizes = [seen.body["options"]["num_ctx"] for seen in server.posts if seen.path == "/api/chat"]
    assert sizes == [32768, 65536]


def test_ollama_host_is_where_requests_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
        assert lm("ollama_chat/qwen3:8b", cache=False)("hi") == ["hello"]


def test_a_prompt_longer_than_the_window_is_refused_by_ollama() -> None:
    with OllamaServer() as server:
        made = lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False, num_ctx=2048)
        with pytest.raises(dspy.ContextWindowExceededError, match="Raise num_ctx"):
            made("word " * 10_000)


def test_a_prompt_that_was_cut_in_silence_is_found() -> None:
    usage = {"prompt_tokens": 1024, "completion_tokens": 1, "total_tokens": 1025}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    cut = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    told = pytest.raises(dspy.ContextWindowExceededError, match="read only 1,024 of about 12,500 tokens")
    with OpenAIServer(Fault(200, cut)) as server, told:
        lm("openai/local", api_base=server.url, cache=False)("word " * 10_000)


def test_a_short_count_of_a_short_prompt_proves_nothing() -> None:
    def found(chars: int, reported: int | None) -> int | None:
        return cut_prompt_tokens(Request(model="m", messages=[Message.user("word " * (chars // 5))]), reported)

    assert found(1_000, 1) is None
    assert found(100_000, None) is None
    assert found(100_000, 12_000) is None
    assert found(100_000, 4_096) == 25_000


def test_a_table_of_blanks_and_rules_is_not_taken_for_a_prompt_that_was_cut() -> None:
    table = "".join(f"{name:30}{number:<30}\n{'=' * 60}\n" for number, name in enumerate(["ada", "bob"] * 250))
    usage = {"prompt_tokens": 3_500, "completion_tokens": 1, "total_tokens": 3_501}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "read"}}
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    with OpenAIServer(Fault(200, whole)) as server:
        assert lm("openai/local", api_base=server.url, cache=False)(table) == ["read"]


def test_groq_is_priced_with_its_cached_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY + "\n")
    with OpenAIServer() as server:
        made = lm("groq/openai/gpt-oss-20b", api_base=server.url + "/openai/v1", cache=False)
        made("word " * 400)
    entry = made.history[-1]
    assert entry["usage"]["prompt_tokens_details"]["cached_tokens"] == 250
    assert 0 < entry["response"].provider_data["cost"] < 0.001
    assert entry["response"].provider_data["limits"]["x-ratelimit-remaining-tokens"] == "7500"
    assert server.posts[0].headers["Authorization"] == f"Bearer {KEY}"
    assert server.posts[0].path == "/openai/v1/chat/completions"


def test_groq_may_leave_the_service_tier_out() -> None:
    with OpenAIServer(tier=False) as server:
        assert lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, cache=False)("hi") == ["hello"]


def test_an_unknown_price_is_none_and_a_local_one_is_nothing() -> None:
    with OpenAIServer(models=("mystery",), key="none") as server:
        made = lm("openai/mystery", api_base=server.url, cache=False)
        made("hi")
    assert made.history[-1]["response"].provider_data["cost"] is None
    with OllamaServer() as server:
        made = lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False)
        made("hi")
    assert made.history[-1]["response"].provider_data["cost"] == 0.0


def test_usage_is_tracked_by_dspy() -> None:
    with OllamaServer() as server, dspy.track_usage() as tracker:
        lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False)("word " * 100)
    assert tracker.get_total_tokens()["ollama_chat/qwen3:8b"]["prompt_tokens"] == 125


def test_a_fallback_answers_when_the_quota_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Fault(429, error("slow", "x"), {"retry-after": "9999"})
    with OpenAIServer(gone) as server, OllamaServer(reply="local") as other:
        monkeypatch.setenv("OLLAMA_HOST", other.url)
        made = lm(
            "groq/openai/gpt-oss-20b",
            api_base=server.url,
            api_key=KEY,
            cache=False,
            fallback="ollama_chat/qwen3:8b",
        )
        assert made("hi") == ["local"]
    assert made.history[-1]["response_model"].endswith("qwen3:8b")


def test_a_fallback_has_the_window_and_the_patience_that_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Fault(429, error("slow", "x"), {"retry-after": "9999"})
    with OpenAIServer(gone) as server, OllamaServer() as other:
        monkeypatch.setenv("OLLAMA_HOST", other.url)
        given = {"api_base": server.url, "api_key": KEY, "num_ctx": 12_000, "keep_alive": 5}
        lm("groq/openai/gpt-oss-20b", fallback="ollama_chat/qwen3:8b", **given)("hi")
        (body,) = (seen.body for seen in other.posts if seen.path == "/api/chat")
    assert (body["options"]["num_ctx"], body["keep_alive"]) == (12_000, 5)


async def test_the_offline_engine_can_be_the_fallback() -> None:
    asked = "Who started it?\n\nAda started it in May."
    made = lm("ollama_chat/x", api_base="http://127.0.0.1:9", cache=False, fallback="offline")
    assert made(asked) == ["Ada started it in May."]
    assert await made.acall(asked) == ["Ada started it in May."]


def test_one_slot_is_asked_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaServer(Fault(delay=0.05)) as server:
        made = lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False)
        threads = [threading.Thread(target=made, args=(f"hi {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.busiest == 1


async def test_async_calls_share_the_slot_and_do_not_block_the_loop() -> None:
    with OllamaServer() as server:
        made = lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False)
        replies = await asyncio.gather(*(made.acall(f"hi {n}") for n in range(4)))
        assert replies == [["hello"]] * 4
        assert server.busiest == 1


def test_a_program_is_saved_and_loaded_with_its_engine() -> None:
    made = lm(
        "ollama_chat/qwen3:8b", api_base="http://127.0.0.1:9", api_key="secret-key", num_ctx=2048, temperature=0.1
    )
    state = made.dump_state()
    again = dspy.LM.load_state(state, allow_custom_lm_class=True)
    assert isinstance(again.engine, RoutedEngine)
    assert again.engine.route.num_ctx == 2048
    assert "secret-key" not in str(state)


@pytest.mark.parametrize("options", [{"timeout": -1}, {"timeout": float("nan")}, {"timeout": float("inf")}])
def test_an_impossible_timeout_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="timeout must be a number above 0"):
        lm("ollama_chat/x", **options)


@pytest.mark.parametrize("name", ["num_ctx", "concurrency", "requests_per_minute"])
@pytest.mark.parametrize("value", [0, -1, True, 0.5, 2.5, "4"])
def test_an_impossible_count_is_refused(name: str, value: object) -> None:
    options = {name: value}
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number above 0"):
        lm("ollama_chat/x", **options)


@pytest.mark.parametrize("name", ["", "two words", "\n"])
def test_a_name_that_cannot_be_a_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a model name"):
        lm(name)


def test_replies_of_two_servers_to_one_prompt_are_kept_apart() -> None:
    prompt = "the same prompt for two servers"
    with OpenAIServer(models=("x",), reply="one") as first, OpenAIServer(models=("x",), reply="two") as second:
        for server, reply in ((first, "one"), (second, "two"), (first, "one")):
            assert lm("openai/x", api_base=server.url, api_key=server.key)(prompt) == [reply]
        assert [len(server.posts) for server in (first, second)] == [1, 1]
        assert "metadata" not in first.posts[0].body
