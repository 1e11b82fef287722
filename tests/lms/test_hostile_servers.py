"""What a broken or hostile server sends is named as what it is, and costs bounded time and memory."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import dspy
import pytest

from rlm_dspy import local_servers
from rlm_dspy.lms import engine, lm, ollama, transport
from rlm_dspy.lms.rate_limits import parse_duration

BODY = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
}


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def completion(**changes: object) -> bytes:
    return json.dumps({**BODY, **changes}).encode()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve these bytes to every request, whatever it is; ``seen`` counts the requests."""
    sockets: list[socket.socket] = []
    over = threading.Event()

    def start(*parts: bytes, pause: float = 0.0) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)
        threading.Thread(target=loop, args=(listener, parts, pause), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    def loop(listener: socket.socket, parts: tuple[bytes, ...], pause: float) -> None:
        while not over.is_set():
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                asked.append(peer.recv(1 << 20))
                try:
                    for part in parts:
                        peer.sendall(part)
                        over.wait(pause)
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(1 << 16):
                        pass
                except OSError:
                    pass

    asked: list[bytes] = []
    start.asked = asked  # type: ignore[attr-defined]
    yield start
    over.set()
    for listener in sockets:
        listener.close()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ANSWERED", set())


def made(url: str, **options: object) -> dspy.LM:
    return lm("openai/x", api_base=url, api_key="sk-canary-0123456789", cache=False, num_retries=0, **options)


BROKEN = {
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x28", "TLS"),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
    "no HTTP": (b"220 mail.example ESMTP\r\n", "not HTTP"),
    "bad gzip": (whole(b"no gzip at all", "Content-Encoding: gzip"), "not compressed as it says"),
    "bad chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        "not valid HTTP",
    ),
    "many headers": (whole(completion(), *(f"X-{n}: 1" for n in range(500))), "headers"),
    "a long header": (whole(completion(), "X-Long: " + "a" * 1_000_000), "headers"),
    "bad UTF-8": (whole(completion().replace(b"hello", b"\xff\xfe")), "UTF-8"),
    "deep JSON": (
        whole(completion(deep=0).replace(b'"deep": 0', b'"deep": ' + b"[" * 200_000 + b"]" * 200_000)),
        "nested",
    ),
    "a redirect": (whole(b"", "Location: http://192.0.2.7/v1", status="307 Temporary Redirect"), "http://192.0.2.7/v1"),
    "a page": (whole(b"<html>404</html>", status="404 Not Found"), "serves nothing at this address"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BROKEN)
def test_what_a_server_sends_is_named(serve: Callable, name: str) -> None:
    sent, says = BROKEN[name]
    with pytest.raises(Exception, match=r"openai/x") as caught:
        made(serve(sent))("hi")
    text = str(caught.value)
    assert says in text
    assert "HTTP 500" not in text
    assert "Try later" not in text
    assert "litellm" not in text
    assert sum(request.startswith(b"POST") for request in serve.asked) == 1


@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_a_reply_is_not_read_beyond_its_bound(serve: Callable, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 1 << 20)
    body = completion(padding="a" * (3 << 20))
    sent = whole(gzip.compress(body), "Content-Encoding: gzip") if kind != "plain" else whole(body)
    with pytest.raises(Exception, match="is longer than"):
        made(serve(sent))("hi")


@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_of_an_error_only_the_beginning_is_read(serve: Callable, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(transport, "MAX_ERROR_BYTES", 100)
    body = b"it is the wrong day" + b" " * 200 + b"and the wrong hour"
    headers = ["Content-Encoding: gzip"] if kind != "plain" else []
    sent = whole(gzip.compress(body) if headers else body, *headers, status="400 Bad Request")
    with pytest.raises(Exception, match="wrong day") as caught:
        made(serve(sent))("hi")
    assert "HTTP 400" in str(caught.value)
    assert "wrong hour" not in str(caught.value)


def test_a_reply_with_too_many_parts_is_refused(serve: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_OBJECTS", 1_000)
    bomb = completion(padding=[{}] * 2_000)
    with pytest.raises(Exception, match="has too many parts"):
        made(serve(whole(bomb)))("hi")
    with pytest.raises(Exception, match="has too many parts"):
        made(serve(whole(completion(choices=BODY["choices"] * 200))))("hi")


def test_a_name_of_a_model_that_is_none_costs_no_reply_and_no_traceback(
    serve: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    assert made(serve(whole(completion(model=["x"], id=5, created="now"))))("hi") == ["hello"]
    assert "Traceback" not in capfd.readouterr().err


def test_other_clients_of_httpx_are_left_alone(serve: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    with transport.bound_replies():
        pass
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 10)
    assert httpx.get(serve(whole(completion()))).json()["model"] == "x"
    assert httpx.get(serve(whole(b"", "Location: /v1", status="307 T"))).has_redirect_location


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_drip_ends_at_the_timeout(serve: Callable, streamed: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    model = made(serve(head, *[b": keep-alive\n\n"] * 500, pause=0.1), timeout=1.0)
    started = time.monotonic()
    request = dspy.lm15.Request(model.model, [dspy.lm15.Message.user("q")])
    call = (lambda: list(model.engine.stream(request))) if streamed else (lambda: model("hi"))
    with pytest.raises(Exception, match="did not answer within 1 s"):
        call()
    assert time.monotonic() - started < 40


def test_a_silent_server_is_reported_while_it_is_waited_for(
    serve: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(engine, "_reported", {})
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="did not answer"):
        made(serve(b"", pause=60.0), timeout=1.0)("hi")
    assert "has not answered for" in caplog.text


def test_a_stream_that_falls_silent_is_reported_as_that_and_keep_alives_do_not_restart_the_count(
    serve: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(engine, "_reported", {})
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    word = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}]}
    first = f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', **word})}\n\n".encode()
    empty = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}
    blank = f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', **empty})}\n\n".encode()
    model = made(serve(head, first, *[blank] * 40, pause=0.1), timeout=3.0)
    request = dspy.lm15.Request(model.model, [dspy.lm15.Message.user("q")])
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="did not answer within 3 s"):
        list(model.engine.stream(request))
    assert "has sent no more of its reply for" in caplog.text
    assert "has not answered" not in caplog.text


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_a_usage_that_is_not_reported_is_no_cut_prompt(serve: Callable, usage: object) -> None:
    assert made(serve(whole(completion(usage=usage))))("word " * 9_000) == ["hello"]


def test_a_negative_usage_is_said_and_estimated(serve: Callable, caplog: pytest.LogCaptureFixture) -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": 1, "total_tokens": -4}
    model = made(serve(whole(completion(usage=usage))))
    assert model("hi") == ["hello"]
    assert "reports an impossible usage" in caplog.text


def test_headers_with_absurd_limits_do_no_harm(serve: Callable) -> None:
    limits = [f"x-ratelimit-{name}-tokens: {'9' * 5_000}" for name in ("limit", "remaining", "reset")]
    assert made(serve(whole(completion(), *limits)))("hi") == ["hello"]
    assert parse_duration("9" * 5_000) is None


def test_a_reply_longer_than_any_model_writes_is_refused(serve: Callable) -> None:
    message = {"role": "assistant", "content": "a" * 3_000_000}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    with pytest.raises(Exception, match="has 3,000,000 characters"):
        made(serve(whole(completion(choices=choices))))("hi")


@pytest.mark.parametrize("prefix", ["hosted_vllm", "lm_studio", "llamafile"])
def test_the_key_of_an_own_server_is_sent_to_it(serve: Callable, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv(f"{prefix.upper()}_API_KEY", "sk-canary-of-the-server")
    monkeypatch.setenv(f"{prefix.upper()}_API_BASE", serve(whole(completion())))
    assert lm(f"{prefix}/x", cache=False, num_retries=0)("hi") == ["hello"]
    post = next(request for request in serve.asked if request.startswith(b"POST"))
    assert b"authorization: bearer sk-canary-of-the-server" in post.lower()


@pytest.mark.parametrize(
    "parts",
    [[b"HTTP/1.1 200 OK\r\n", *[b"X-More: 1\r\n"] * 90], [b"HTTP/1.1 100 Continue\r\n\r\n"] * 90],
    ids=["headers", "informational replies"],
)
def test_headers_that_drip_end_at_the_timeout(serve: Callable, parts: list[bytes]) -> None:
    url = serve(*parts, pause=0.1)
    with pytest.raises(ollama.OllamaUnreachableError):
        ollama.models(url.removesuffix("/v1"), timeout=0.5)
    with pytest.raises(local_servers.ServerUnreachableError, match=r"within 0\.5 s"):
        local_servers.ask_server(local_servers.Access(url, timeout=0.5))
    assert len(serve.asked) == 1  # the server is still busy with the first one


def test_a_list_of_models_that_drips_ends_and_odd_names_are_left_out(serve: Callable) -> None:
    started = time.monotonic()
    with pytest.raises(ollama.OllamaUnreachableError):
        ollama.models(serve(b"HTTP/1.1 200 OK\r\n\r\n", *[b" "] * 500, pause=0.1).removesuffix("/v1"), timeout=0.5)
    assert time.monotonic() - started < 30
    rows = [{"name": name} for name in ("good:8b", "bad\r\nrlm-dspy: forged", "\x1b[31m", "x" * 100_000, "\ud800")]
    found = ollama.models(serve(whole(json.dumps({"models": rows}).encode())).removesuffix("/v1"), timeout=10.0)
    assert [model.name for model in found] == ["good:8b"]
