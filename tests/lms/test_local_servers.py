"""What is found out of the user's own servers, and what no answer of theirs can do."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import dspy
import pytest

from rlm_dspy import local_servers
from rlm_dspy.lms import lm, windows
from rlm_dspy.local_servers import Access, ServerUnreachableError, ask_server
from servers.local import NAME, LocalServer, llama_cpp, lm_studio, plain, vllm
from servers.wire import send

# LiteLLM's streams are not free of these.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute:DeprecationWarning"),
]

KEY = "sk-canary-0815-local"


def asked(pages: dict[str, Any]) -> local_servers.LocalServer:
    with LocalServer(pages) as server:
        return ask_server(Access(f"{server.url}/v1"))


def test_llama_cpp_tells_the_window_of_a_slot_and_its_slots() -> None:
    found = asked(llama_cpp(window=2048, slots=2))
    assert (found.kind, found.slots) == ("llama.cpp", 2)
    assert found.models == (local_servers.ServedModel(NAME, 2048),)
    assert found.window_of(NAME) == found.window_of("whatever it is called") == 2048


def test_llama_cpp_that_hides_its_properties_tells_the_window_in_its_list() -> None:
    pages = llama_cpp(window=2048)
    del pages["/props"]
    found = asked(pages)
    assert (found.kind, found.slots, found.window_of(NAME)) == ("llama.cpp", None, 2048)


def test_lm_studio_tells_the_window_of_what_is_loaded() -> None:
    found = asked(lm_studio())
    assert (found.kind, found.slots) == ("LM Studio", None)
    assert found.models == (
        local_servers.ServedModel(NAME, 12_288),
        local_servers.ServedModel("qwen3-8b"),
    )


def test_vllm_tells_its_longest_sequence() -> None:
    found = asked(vllm(window=16_384))
    assert (found.kind, found.window_of(NAME), found.window_of("another")) == ("vLLM", 16_384, None)


def test_a_server_that_tells_names_only_is_plain() -> None:
    found = asked(plain("a", "b"))
    assert (found.kind, [model.name for model in found.models], found.window_of("a")) == (
        "an OpenAI-compatible server",
        ["a", "b"],
        None,
    )


@pytest.mark.parametrize("odd", [None, True, -1, 0, 10**30, 1.5, "8192", [8192], {"n": 1}])
def test_a_window_of_a_wrong_type_or_size_counts_as_not_told(odd: Any) -> None:
    assert asked(llama_cpp(window=odd, slots=odd, trained=odd)).window_of(NAME) is None
    assert asked(vllm(window=odd)).window_of(NAME) is None
    row = {"id": NAME, "state": "loaded", "max_context_length": odd, "loaded_context_length": odd}
    assert asked(lm_studio(row)).models == (local_servers.ServedModel(NAME),)


@pytest.mark.parametrize("odd", [None, 3, "", "x" * 300, "a\x1b[2Jb", "two\nlines", ["a"], {}])
def test_a_name_that_cannot_be_shown_is_left_out(odd: Any) -> None:
    pages = plain("good")
    pages["/v1/models"]["data"].append({"id": odd, "owned_by": odd})
    assert [model.name for model in asked(pages).models] == ["good"]


@pytest.mark.parametrize("odd", [[], "x", None, {}, {"data": {}}, {"data": "x"}, {"data": None}])
def test_a_list_that_is_none_is_an_error(odd: Any) -> None:
    with pytest.raises(ServerUnreachableError) as caught:
        asked({"/v1/models": odd})
    assert caught.value.has_answered


@pytest.mark.parametrize("odd", [[], "x", {"default_generation_settings": []}, {"default_generation_settings": 3}])
def test_odd_properties_leave_a_server_known(odd: Any) -> None:
    assert asked({**llama_cpp(window=None), "/props": odd}).kind == "llama.cpp"
    assert asked({**plain("a"), "/api/v0/models": odd}).kind == "an OpenAI-compatible server"


@pytest.mark.parametrize("body", ["<html>", "[" * 100_000, '{"data": [' + "1" * 5_000 + "]}x", "\x00"])
def test_what_is_no_json_is_an_error_that_quotes_nothing(body: str) -> None:
    with pytest.raises(ServerUnreachableError, match=r"/v1/models did not answer with JSON$"):
        asked({"/v1/models": (200, body)})


def test_an_answer_is_read_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_servers, "MOST_BYTES", 10_000)
    with pytest.raises(ServerUnreachableError, match="did not answer with JSON"):
        asked({"/v1/models": {"data": [], "padding": "x" * 20_000}})


def test_a_long_list_is_read_up_to_a_number_of_models() -> None:
    assert len(asked(plain(*map(str, range(2_000)))).models) == local_servers.MOST_MODELS


class Waiting(LocalServer):
    """Never answers, or a byte at a time, until it is let go."""

    def __init__(self, *, drips: bool) -> None:
        super().__init__({})
        self.drips = drips
        self.over = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        if not self.drips:
            self.over.wait(30)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not self.over.wait(0.01):
            handler.wfile.write(b" ")
            handler.wfile.flush()


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_takes_its_time_is_given_up(drips: bool) -> None:
    with Waiting(drips=drips) as server:
        try:
            with pytest.raises(ServerUnreachableError) as caught:
                ask_server(Access(f"{server.url}/v1", timeout=0.2))
        finally:
            server.over.set()
    assert not caught.value.has_answered


def test_nobody_there_is_told_as_such() -> None:
    with pytest.raises(ServerUnreachableError, match=r"nothing answers at http://127.0.0.1:9/v1/models") as caught:
        ask_server(Access("http://127.0.0.1:9/v1"))
    assert not caught.value.has_answered


def test_a_redirect_is_not_followed_and_takes_no_key_along() -> None:
    with LocalServer(vllm()) as other:
        away = (302, "gone", {"Location": f"{other.url}/v1/models"})
        with (
            LocalServer({"/v1/models": away}) as server,
            pytest.raises(ServerUnreachableError, match=r"/v1/models answered with HTTP 302$"),
        ):
            ask_server(Access(f"{server.url}/v1", KEY))
        assert other.seen == []


def test_a_key_is_sent_and_shown_in_no_text() -> None:
    with LocalServer(llama_cpp(), key=KEY) as server:
        access = Access(f"{server.url}/v1", KEY)
        assert ask_server(access).window_of(NAME) == 8192
        with pytest.raises(ServerUnreachableError) as caught:
            ask_server(Access(f"{server.url}/v1", "sk-wrong-canary"))
    assert KEY not in repr(access)
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("key", ["sk-canary\nX: y", "sk-canary-ключ"])
def test_a_key_that_cannot_be_sent_is_shown_in_no_text(key: str) -> None:
    with LocalServer(llama_cpp()) as server, pytest.raises(ServerUnreachableError) as caught:
        ask_server(Access(f"{server.url}/v1", key))
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_password_in_an_address_is_shown_in_no_text() -> None:
    with LocalServer(plain("a")) as server:
        address = server.url.replace("//", "//me:canary@")
        assert ask_server(Access(f"{address}/v1")).base == f"{server.url}/v1"
    with pytest.raises(ServerUnreachableError) as caught:
        ask_server(Access(f"{address}/v1"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "base", "may"),
    [
        ("openai/m", "http://127.0.0.1:8080/v1", True),
        ("openai/m", "http://[::1]:8080/v1", True),
        ("openai/m", "http://localhost:8080/v1", True),
        ("openai/m", "http://192.168.1.5:8080/v1", True),
        ("openai/m", "http://gpu-box:8080/v1", True),
        ("openai/m", "http://box.lan/v1", True),
        ("m", "http://localhost/v1", True),
        ("openai/m", "https://api.openai.com/v1", False),
        ("openai/m", "https://api.some-cloud.example/v1", False),
        ("openai/m", "https://8.8.8.8/v1", False),
        ("hosted_vllm/m", "https://gpu.example.org/v1", True),
        ("hosted_vllm/m", "https://API.OpenAI.com./v1", False),
        ("lm_studio/m", "https://api.groq.com/openai/v1", False),
        ("groq/m", "http://127.0.0.1:8080/v1", False),
        ("ollama_chat/m", "http://127.0.0.1:11434", False),
        ("anthropic/m", "http://127.0.0.1:8080", False),
        ("openai/m", "ftp://127.0.0.1/v1", False),
        ("openai/m", "http://[::1", False),
        ("openai/m", "nonsense", False),
    ],
)
def test_only_a_server_of_the_users_own_is_asked(model: str, base: str, may: bool) -> None:
    assert local_servers.may_be_asked(model, base) is may
    assert (local_servers.access_to(model, base) is not None) is may


@pytest.mark.parametrize("pages", [llama_cpp(window=12_288), lm_studio(), vllm(window=12_288)])
@pytest.mark.parametrize("model", [f"openai/{NAME}", f"hosted_vllm/{NAME}", f"lm_studio/{NAME}"])
def test_the_window_of_a_model_is_asked_of_its_server_once(pages: dict[str, Any], model: str) -> None:
    with LocalServer(pages) as server:
        made = lm(model, api_base=f"{server.url}/v1")
        plain_lm = dspy.LM(model, api_base=f"{server.url}/v1", api_key="none")
        assert [windows.known_window(one) for one in (made, plain_lm, made, plain_lm)] == [12_288] * 4
        assert len(server.asked) <= 2
    assert windows.is_small(made)


def test_the_window_is_asked_at_the_address_that_a_variable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LocalServer(llama_cpp(window=12_288), key=KEY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        assert windows.known_window(lm(f"openai/{NAME}")) == 12_288
        assert windows.known_window(dspy.LM(f"openai/{NAME}")) == 12_288


def test_what_a_server_gives_stands_before_what_is_published() -> None:
    with LocalServer(llama_cpp(window=12_288)) as server:
        assert windows.known_window(lm("openai/gpt-4o", api_base=f"{server.url}/v1")) == 12_288
    with LocalServer(plain("gpt-4o")) as server:
        assert windows.known_window(lm("openai/gpt-4o", api_base=f"{server.url}/v1")) == 128_000


def test_a_server_that_did_not_answer_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(local_servers.time, "monotonic", lambda: now[0])
    with LocalServer({}) as server:
        made = lm(f"openai/{NAME}", api_base=f"{server.url}/v1")
        assert windows.known_window(made) is None
        server.pages = llama_cpp(window=12_288)
        assert windows.known_window(made) is None
        now[0] += local_servers.ASK_AGAIN + 1
        assert windows.known_window(made) == 12_288


def test_lm_studio_is_asked_again_later_since_its_user_loads_models(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(local_servers.time, "monotonic", lambda: now[0])
    with LocalServer(lm_studio()) as server:
        made = lm("lm_studio/qwen3-8b", api_base=f"{server.url}/v1")
        assert windows.known_window(made) is None
        loaded = {"id": "qwen3-8b", "state": "loaded", "max_context_length": 40960, "loaded_context_length": 4096}
        server.pages = lm_studio(loaded)
        now[0] += local_servers.ASK_AGAIN + 1
        assert windows.known_window(made) == 4096


def test_a_prompt_too_long_has_the_server_asked_again() -> None:
    with LocalServer(llama_cpp(window=12_288), window=1_000) as server:
        made = lm(f"openai/{NAME}", api_base=f"{server.url}/v1", cache=False)
        assert windows.known_window(made) == 12_288
        server.pages = llama_cpp(window=1_000)
        with pytest.raises(dspy.ContextWindowExceededError, match="exceeds the available context size"):
            made("x" * 8_000)
        assert windows.known_window(made) == 1_000


@pytest.mark.parametrize(
    ("pages", "fix"),
    [
        (llama_cpp(), "Start llama-server with a larger -c or fewer slots (-np), or shorten the input."),
        (vllm(), "Start vLLM with a larger --max-model-len, or shorten the input."),
        (lm_studio(), "Load the model with a larger context length, or shorten the input."),
        (plain(), "Use a model with a larger window or a shorter input."),
    ],
)
def test_a_prompt_too_long_says_how_that_server_is_given_a_larger_window(pages: dict[str, Any], fix: str) -> None:
    with LocalServer(pages, window=1_000) as server, pytest.raises(dspy.ContextWindowExceededError) as caught:
        lm(f"openai/{NAME}", api_base=f"{server.url}/v1", cache=False)("x" * 8_000)
    assert str(caught.value).endswith(fix)


def test_no_more_requests_are_sent_at_once_than_llama_cpp_has_slots() -> None:
    busiest, running, counting = 0, 0, threading.Lock()

    class Counting(LocalServer):
        def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
            nonlocal busiest, running
            if body is not None:
                with counting:
                    running += 1
                    busiest = max(busiest, running)
                time.sleep(0.02)
                with counting:
                    running -= 1  # before the client can send another
            super().answer(handler, path, body)

    with Counting(llama_cpp(slots=2)) as server:
        made = lm(f"openai/{NAME}", api_base=f"{server.url}/v1", cache=False)
        threads = [threading.Thread(target=made, args=(f"say {number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.posts) == 6
        assert 1 <= busiest <= 2
        assert lm(f"openai/{NAME}", api_base=f"{server.url}/v1", concurrency=5).engine.route.slots == 5


def test_slots_that_are_no_number_limit_nothing() -> None:
    with LocalServer(llama_cpp(slots="many")) as server:
        assert lm(f"openai/{NAME}", api_base=f"{server.url}/v1").engine.route.slots is None


def test_a_page_of_models_in_pieces_is_read() -> None:
    class Pieces(LocalServer):
        def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
            if path == "/v1/models":
                send(handler, 200, plain("m" * 100)["/v1/models"], {"Connection": "close"})
            else:
                super().answer(handler, path, body)

    with Pieces({}) as server:
        assert ask_server(Access(f"{server.url}/v1/")).models[0].name == "m" * 100
