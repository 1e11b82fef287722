"""What models and doctor are told, against the fakes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rlm_dspy.lms import lm, model_list, ollama, windows
from rlm_dspy.lms.model_list import list_models, probe_provider
from rlm_dspy.metering import metadata
from servers.local import NAME, LocalServer, llama_cpp, lm_studio, plain, vllm
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer
from servers.wire import Fault, send

# LiteLLM's streams are not free of these.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute:DeprecationWarning"),
]

KEY = "gsk_right_key_000000"


def test_what_can_be_reached_is_listed_with_windows_and_prices() -> None:
    with OllamaServer(models={"qwen3:8b": {"window": 40960, "size": 123}}) as server:
        found = list_models({"OLLAMA_HOST": server.url, "GROQ_API_KEY": "k", "OPENAI_API_KEY": "k"})
    local, groq = found.rows[0], found.rows[1]
    assert (local.name, local.window, local.bytes) == ("ollama_chat/qwen3:8b", 40960, 123)
    assert groq.name == "groq/openai/gpt-oss-20b"
    assert groq.window == 131072
    assert groq.input_price is not None
    assert found.choice.model == "groq/openai/gpt-oss-20b"
    assert any("OPENAI_API_KEY is set" in note for note in found.notes)


def test_with_nothing_configured_the_notes_say_what_is_missing() -> None:
    found = list_models({"OLLAMA_HOST": "127.0.0.1:9"})
    assert not found.rows
    assert found.choice.offline
    assert found.notes == ("no Ollama answers at http://127.0.0.1:9", "GROQ_API_KEY is not set")


def test_everything_is_the_packaged_table() -> None:
    names = {row.name for row in list_models({"OLLAMA_HOST": "127.0.0.1:9"}, everything=True).rows}
    assert len(names) > 500
    assert "groq/openai/gpt-oss-120b" in names


def statuses(model: str, **options: object) -> list[tuple[str, str]]:
    return [(check.status, f"{check.what} {check.fix}") for check in probe_provider(model, **options)]


def test_a_good_ollama_is_ok_throughout() -> None:
    with OllamaServer() as server:
        found = statuses("ollama_chat/qwen3:8b", api_base=server.url)
    assert {status for status, _ in found} == {"ok"}
    assert "read whole" in found[-1][1]
    assert "allocated 32,768" in found[-1][1]


def test_a_slow_reply_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_list, "SLOW_REPLY_SECONDS", 0.0)
    with OllamaServer() as server:
        told = statuses("ollama_chat/qwen3:8b", api_base=server.url)
    assert [status for status, line in told if "a short reply took" in line] == ["warning"]


@pytest.mark.parametrize(("window", "status"), [(2048, "failure"), (4096, "warning")])
def test_a_window_too_small_for_a_run_is_told(window: int, status: str) -> None:
    with OllamaServer(models={"tiny": {"window": window}}) as server:
        found = statuses("ollama_chat/tiny", api_base=server.url)
        asked = statuses("ollama_chat/tiny", api_base=server.url, num_ctx=window)
    assert found[-1][0] == asked[-1][0] == status
    assert f"{window:,} tokens" in found[-1][1]
    assert "use a model with a larger window" in found[-1][1]
    assert "raise RLM_DSPY_NUM_CTX" in asked[-1][1]


def test_a_server_that_cuts_although_it_is_told_not_to_is_found() -> None:
    cut = {"model": "cutter:8b", "message": {"role": "assistant", "content": "ok"}, "done": True, "eval_count": 1}
    short, long = (Fault(200, cut | {"prompt_eval_count": count}, path="/api/chat") for count in (6, 2048))
    slots = [Fault(path="/api/chat")] * 2
    with OllamaServer(short, *slots, long, models={"cutter:8b": {"window": 40960}}) as server:
        found = statuses("ollama_chat/cutter:8b", api_base=server.url, num_ctx=16384)
    assert found[-1][0] == "failure"
    assert "server" in found[-1][1]
    assert "2,048" in found[-1][1]


@pytest.mark.parametrize(("slots", "rounds"), [(1, (2,)), (2, (2, 4)), (4, (2, 4, 8))])
def test_the_servers_slots_are_measured(slots: int, rounds: tuple[int, ...]) -> None:
    options = {"options": {"num_ctx": 8192, "num_predict": 24}}
    with OllamaServer(parallel=slots, rounds=rounds) as server:
        assert ollama.measure_parallel(server.url, "qwen3:8b", options) == slots
        assert len(server.posts) == sum(rounds)


def test_only_what_the_server_served_at_once_overlaps() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first, then, last = (start + timedelta(seconds=number) for number in range(3))
    assert ollama.at_once([(first, then), (then, last)]) == 1
    assert ollama.at_once([(first, last), (then, last), (first, then)]) == 2
    assert ollama.at_once([(then, then)] * 3) == 1
    assert ollama.at_once([]) == 0


@pytest.mark.parametrize(
    ("used", "status", "said"),
    [
        ("", "ok", "2 parallel slots, of which 1 is used Set OLLAMA_NUM_PARALLEL=2 here as well."),
        ("2", "ok", "2 parallel slots, all used"),
        ("3", "warning", "2 parallel slots, but 3 requests are sent at once"),
    ],
)
def test_the_slots_are_told_beside_those_that_are_used(
    used: str, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", used)
    with OllamaServer(parallel=2, rounds=(2, 4)) as server:
        found = statuses("ollama_chat/qwen3:8b", api_base=server.url)
    assert (status, True) in [(kind, line.startswith(said)) for kind, line in found]


def test_slots_that_cannot_be_measured_are_said_to_be_so() -> None:
    busy = Fault(503, {"error": "server busy"}, path="/api/chat")
    with OllamaServer(busy, busy) as server:
        assert ollama.measure_parallel(server.url, "qwen3:8b", {}) is None


def test_a_model_that_is_not_there_is_a_failure_with_the_mend() -> None:
    with OllamaServer() as server:
        status, said = statuses("ollama_chat/llama9", api_base=server.url)[-1]
    assert status == "failure"
    assert "ollama pull llama9" in said


def test_no_server_is_a_failure() -> None:
    status, said = statuses("ollama_chat/x", api_base="http://127.0.0.1:9")[-1]
    assert status == "failure"
    assert "ollama serve" in said


def test_a_page_that_is_not_ollama_is_a_failure() -> None:
    with OpenAIServer() as server:
        status, said = statuses("ollama_chat/x", api_base=server.url)[-1]
    assert status == "failure"
    assert "HTTP 401" in said


def test_groq_tells_its_limits() -> None:
    with OpenAIServer() as server:
        found = statuses("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY)
    assert {status for status, _ in found} == {"ok"}
    assert any("remaining-tokens 7500" in said for _, said in found)


def test_a_bad_key_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk_wrong_key")
    with OpenAIServer() as server:
        status, said = statuses("groq/openai/gpt-oss-20b", api_base=server.url)[-1]
    assert status == "failure"
    assert "Check GROQ_API_KEY" in said
    assert "gsk_wrong_key" not in said


def test_no_key_is_a_failure_before_any_request() -> None:
    status, said = statuses("groq/openai/gpt-oss-20b")[-1]
    assert (status, "Set GROQ_API_KEY" in said) == ("failure", True)


def test_the_window_of_ollama_is_what_will_be_asked_for() -> None:
    with OllamaServer(models={"qwen3:8b": {"window": 16000}, "big:70b": {"window": 131072}}) as server:
        made = lm("ollama_chat/qwen3:8b", api_base=server.url)
        assert windows.known_window(made) == windows.window_tokens(made) == 16000
        assert windows.known_window(lm("ollama_chat/big:70b", api_base=server.url)) == 32768
        assert windows.known_window(lm("ollama_chat/big:70b", api_base=server.url, num_ctx=65536)) == 65536
    assert windows.prompt_capacity_chars(made) == 38400
    assert windows.is_small(made)


def test_a_published_window_is_known_and_an_unknown_one_is_a_guess() -> None:
    groq, mystery = lm("groq/openai/gpt-oss-20b"), lm("openai/mystery", api_base="http://127.0.0.1:9")
    assert windows.known_window(groq) == 131072
    assert metadata("groq/openai/gpt-oss-20b")["input_cost_per_token"] > 0
    assert (windows.known_window(mystery), windows.window_tokens(mystery)) == (None, windows.DEFAULT_WINDOW_TOKENS)
    assert not windows.is_small(groq)


def test_a_model_is_small_by_its_name_where_its_window_is_not() -> None:
    assert windows.is_small(lm("hosted_vllm/qwen3-8b", api_base="http://127.0.0.1:9"))
    assert not windows.is_small(lm("hosted_vllm/qwen3-32b", api_base="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("ollama_chat/qwen3:8b", 8.0),
        ("groq/openai/gpt-oss-120b", 120.0),
        ("x/llama-3.2-1.5b-it", 1.5),
        ("gpt-4o", None),
    ],
)
def test_the_size_that_a_name_tells(name: str, billions: float | None) -> None:
    assert windows.weight_billions(name) == billions


def test_a_server_that_breaks_is_a_failure_not_a_crash() -> None:
    with OllamaServer(Fault(200, {"model_info": {}}), Fault(500, {"error": "crashed"})) as server:
        found = statuses("ollama_chat/qwen3:8b", api_base=server.url, num_ctx=4000)
    assert found[-1][0] == "failure"
    assert "crashed" in found[-1][1]


@pytest.mark.parametrize("answer", [None, {"models": 3}, {"models": [{"size": "big"}, "x"]}])
def test_what_a_server_does_not_tell_well_ends_no_diagnosis(answer: object) -> None:
    class Odd(OllamaServer):
        def answer(self, handler: Any, path: str, body: Any) -> None:
            if path == "/api/ps":
                send(handler, 404 if answer is None else 200, answer or "not found")
            else:
                super().answer(handler, path, body)

    with Odd() as server:
        found = statuses("ollama_chat/qwen3:8b", api_base=server.url)
    assert {status for status, _ in found} == {"ok"}
    assert "read whole" in found[-1][1]


@pytest.mark.parametrize("body", [{"model_info": ["x"]}, {"model_info": {"a.context_length": "many"}}, {}])
def test_a_window_that_is_not_told_well_is_unknown(body: object) -> None:
    with OllamaServer(Fault(200, body)) as server:
        assert ollama.trained_window(server.url, "qwen3:8b") is None


def own(pages: dict[str, Any], name: str = NAME, **options: Any) -> list[tuple[str, str]]:
    with LocalServer(pages, models=(name,)) as server:
        return statuses(f"openai/{name}", api_base=f"{server.url}/v1", api_key="none", **options)


def test_a_good_llama_cpp_is_ok_throughout() -> None:
    found = own(llama_cpp(window=16_384))
    assert {status for status, _ in found} == {"ok"}
    assert [said.rstrip() for _, said in found[1:5]] == [
        found[1][1].rstrip(),
        f"{NAME} is its model",
        f"{NAME} has a window of 16,384 tokens for each slot",
        "2 slots, as many requests are sent at once",
    ]
    assert found[1][1].startswith("llama.cpp answers at http://127.0.0.1:")


@pytest.mark.parametrize(
    ("pages", "fix"),
    [
        (llama_cpp(window=2048), "llama-server with -c 16384, which its 2 slots share, or with fewer slots (-np)."),
        (llama_cpp(window=2048, slots=1), "llama-server with -c 8192."),
        (vllm(window=2048), "vLLM with --max-model-len 8192."),
        (
            lm_studio({"id": NAME, "state": "loaded", "max_context_length": 32768, "loaded_context_length": 2048}),
            f"load it with a larger context length (lms load {NAME} --context-length 8192).",
        ),
    ],
)
def test_a_small_window_is_a_warning_that_says_how_to_raise_it(pages: dict[str, Any], fix: str) -> None:
    ((status, said),) = [(status, said) for status, said in own(pages) if "window is only" in said]
    assert status == "warning"
    assert said.startswith("the window is only 2,048 tokens")
    assert said.endswith(fix)


@pytest.mark.parametrize(
    ("pages", "name", "said"),
    [
        (llama_cpp(), "qwen", "qwen is not among the server's models (it answers with its only model) Use"),
        (vllm(), "qwen", "qwen is not among the server's models Use one of its models: qwen2.5-coder-0.5b."),
        (lm_studio(), "qwen3-8b", "qwen3-8b is not loaded, so its window is unknown Load it with a context of"),
        (plain(NAME), NAME, f"the window of {NAME} is unknown The published window or 32,768 tokens are assumed."),
    ],
)
def test_what_a_server_does_not_have_or_tell_is_a_warning(pages: dict[str, Any], name: str, said: str) -> None:
    assert [line.startswith(said.rstrip()) for status, line in own(pages, name) if status == "warning"].count(True) == 1


def test_more_requests_at_once_than_slots_are_a_warning() -> None:
    found = own(llama_cpp(slots=2), concurrency=5)
    fix = "Set concurrency=2, or start llama-server with -np 5."
    assert ("warning", f"2 slots, but 5 requests are sent at once and wait for each other {fix}") in found


def test_a_server_that_hides_its_models_may_chat_all_the_same() -> None:
    found = own({})
    assert [status for status, _ in found] == ["ok", "warning", "ok"]
    assert "/v1/models answered with HTTP 404" in found[1][1]


def test_a_server_of_ones_own_that_is_not_there_is_a_failure() -> None:
    status, said = statuses(f"lm_studio/{NAME}", api_base="http://127.0.0.1:9/v1")[-1]
    assert status == "failure"
    assert said.startswith("nothing answers at http://127.0.0.1:9/v1/models")


def test_the_models_of_servers_of_ones_own_are_listed_with_their_windows() -> None:
    with LocalServer(llama_cpp(), key=KEY) as first, LocalServer(lm_studio()) as second:
        env = {"OPENAI_BASE_URL": f"{first.url}/v1", "OPENAI_API_KEY": KEY, "LM_STUDIO_API_BASE": f"{second.url}/v1"}
        found = list_models({"OLLAMA_HOST": "127.0.0.1:9", "HOSTED_VLLM_API_BASE": "http://127.0.0.1:9/v1", **env})
    assert [(row.name, row.provider, row.window) for row in found.rows] == [
        (f"openai/{NAME}", "llama.cpp", 8192),
        (f"lm_studio/{NAME}", "LM Studio", 12_288),
        ("lm_studio/qwen3-8b", "LM Studio", None),
    ]
    assert any(note.startswith("hosted_vllm/… models are not listed: nothing answers at") for note in found.notes)
    assert KEY not in str(found.notes)


def test_a_providers_own_address_is_not_asked_for_its_models() -> None:
    found = list_models({"OLLAMA_HOST": "127.0.0.1:9", "OPENAI_API_BASE": "https://api.openai.com/v1"})
    assert found.rows == ()
    assert len(found.notes) == 2
