"""Faults between the command and a model: one clear line, the right exit code, no useless requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rlm_dspy.lms.model_list import check_name
from servers import local
from servers.local import LocalServer
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY = "gsk_right_key_000000"
GROQ = "groq/openai/gpt-oss-20b"


@pytest.fixture
def ask(run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Ask a model something, with variables set."""
    write("notes.txt", "the timeout is 42 s\n")

    def asked(model: str, *flags: str, **env: str) -> Any:
        for name, value in {"GROQ_API_KEY": KEY, **env}.items():
            monkeypatch.setenv(name, value)
        return run("ask", "-m", model, "--mode", "rlm", *flags, "what is the timeout?", "notes.txt")

    return asked


def told(result: Any, code: int, *says: str) -> None:
    """One line on stderr that says all of it, nothing on stdout."""
    assert (result.code, result.out) == (code, "")
    named, *lines = result.err.splitlines()
    assert lines == [] or "is served at http://no-such-host.invalid" in named, result.err
    assert len(lines) < 2, result.err
    for words in says:
        assert words in result.err


def chats(server: Any) -> int:
    return sum(seen.path in ("/api/chat", "/chat/completions") for seen in server.posts)


@pytest.mark.parametrize(
    ("model", "env"),
    [
        ("ollama_chat/x", {"OLLAMA_HOST": "http://127.0.0.1:9"}),
        ("ollama_chat/x", {"OLLAMA_HOST": "http://no-such-host.invalid:11434"}),
        (GROQ, {"GROQ_API_BASE": "http://127.0.0.1:9/v1"}),
        (GROQ, {"GROQ_API_BASE": "http://no-such-host.invalid/v1"}),
        ("hosted_vllm/x", {"HOSTED_VLLM_API_BASE": "http://127.0.0.1:9/v1"}),
    ],
)
def test_an_address_where_nobody_is(ask: Callable, model: str, env: dict[str, str]) -> None:
    told(ask(model, **env), 4, "cannot be reached at ")


def test_a_server_under_openai_with_an_own_address_is_named_by_it(ask: Callable) -> None:
    address = "http://127.0.0.1:9/v1"
    result = ask("openai/x", OPENAI_API_BASE=address)
    told(
        result,
        4,
        f"The server at {address} (openai/x) cannot be reached.",
        "check its address (OPENAI_API_BASE, OPENAI_BASE_URL or",
    )
    assert "the setting openai_api_base)." in result.err
    assert "OpenAI " not in result.err
    with OpenAIServer(key="another", models=("x",)) as server:
        told(ask("openai/x", OPENAI_API_BASE=server.url), 4, f"The server at {server.url} (openai/x) refused")


def test_a_missing_key_can_be_kept(ask: Callable) -> None:
    told(ask(GROQ, GROQ_API_KEY=""), 4, "Set GROQ_API_KEY, or keep it with `rlm-dspy keys set GROQ_API_KEY`.")


def test_a_name_without_its_provider(ask: Callable) -> None:
    told(ask("qwen3:8b"), 4, "rlm-dspy: qwen3:8b does not name its provider. Did you mean ollama_chat/qwen3:8b?")
    with LocalServer(local.plain("tiny")) as server:
        told(ask("tiny", OPENAI_API_BASE=f"{server.url}/v1"), 4, "Did you mean openai/tiny?")


@pytest.mark.parametrize(
    ("flag", "name", "says"),
    [
        ("-m", "nosuchmodel", "nosuchmodel does not name its provider. Did you mean ollama_chat/nosuchmodel?"),
        ("-m", "offlin", "offlin does not name its provider. Did you mean offline?"),
        ("--sub-model", "nosuchmodel", "nosuchmodel does not name its provider."),
        ("--fallback", "antropic/claude-sonnet-4-5", "Did you mean anthropic/claude-sonnet-4-5?"),
        ("-m", "nosuch/model", "is not a known provider. Model names begin with ollama_chat/, groq/"),
    ],
)
def test_a_name_that_nobody_serves_is_refused_before_anything_is_asked(
    ask: Callable, flag: str, name: str, says: str
) -> None:
    told(ask(GROQ, flag, name, "--dry-run"), 4, says)
    told(ask(GROQ, flag, name, "--temperature", "0"), 4, says)


@pytest.mark.parametrize(
    "command",
    [
        ("chat", "notes.txt"),
        ("batch", "q.jsonl", "notes.txt", "--out", "a.jsonl"),
        ("eval", "d.jsonl"),
        ("optimize", "d.jsonl", "--max-calls", "9", "-y"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_refuses_such_a_name(run: Callable, write: Callable, command: tuple[str, ...]) -> None:
    write("notes.txt", "the timeout is 42 s\n")
    write("q.jsonl", '"what is the timeout?"\n')
    rows = [{"id": n, "question": f"what is {n}?", "answer": "42 s", "context": "it is 42 s"} for n in range(9)]
    write("d.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    names = ("-m", "--prompt-model") if command[0] == "optimize" else ("-m",)
    for flag in names:
        result = run(*command, flag, "nosuchmodel", stdin=b"what is the timeout?\n")
        assert result.code == 4
        assert "nosuchmodel does not name its provider. Did you mean" in result.err


def test_a_usual_name_is_accepted_without_importing_litellm() -> None:
    program = (
        "import sys\n"
        "from rlm_dspy.lms.model_list import check_name\n"
        "for name in ('offline', 'groq/x', 'ollama/x', 'gpt-4o', 'bedrock/x', 'azure/x', 'github_copilot/gpt-4'):\n"
        "    check_name(name)\n"
        "assert 'litellm.main' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_name_that_only_litellm_knows_is_accepted() -> None:
    check_name("ft:gpt-4o:mine")


@pytest.mark.parametrize("address", ["not a url", "ftp://127.0.0.1/v1", "127.0.0.1:8000/v1", "http://"])
def test_an_address_that_is_none(ask: Callable, address: str) -> None:
    told(ask(GROQ, GROQ_API_BASE=address), 2, "GROQ_API_BASE", "http://")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "ftp://here", "two words"])
def test_an_address_where_no_ollama_can_be(ask: Callable, address: str) -> None:
    told(ask("ollama_chat/x", OLLAMA_HOST=address), 2, "not a valid address of an Ollama server")


def test_a_page_instead_of_json(ask: Callable) -> None:
    page = Fault(200, "<html><body>Please log in to the hotel's network</body></html>")
    with OpenAIServer(*[page] * 5) as server:
        told(ask(GROQ, GROQ_API_BASE=server.url), 5, "not a chat completion", "Check the address")
    assert chats(server) == 1
    with OllamaServer(Fault(), *[page] * 5) as server:
        told(ask("ollama_chat/qwen3:8b", OLLAMA_HOST=server.url), 5, "not a chat completion")
    assert chats(server) == 1


def test_a_proxys_error_page(ask: Callable) -> None:
    page = Fault(407, "<html><h1>Proxy Authentication Required</h1></html>")
    with OpenAIServer(page) as server:
        told(ask(GROQ, GROQ_API_BASE=server.url), 4, "HTTP 407", "an HTML page", "proxy")
    assert chats(server) == 1


def test_a_gateway_that_is_down_is_tried_again_and_then_told(ask: Callable) -> None:
    page = Fault(502, "<html>bad gateway</html>", {"retry-after": "0"})
    with OpenAIServer(*[page] * 9) as server:
        told(ask(GROQ, GROQ_API_BASE=server.url), 4, "HTTP 502", "an HTML page")
    assert chats(server) == 4


def test_a_name_with_a_typo_names_the_nearest(ask: Callable) -> None:
    with OpenAIServer() as server:
        told(ask("groq/openai/gpt-os-20b", GROQ_API_BASE=server.url), 4, f"Did you mean {GROQ}")
    with OllamaServer() as server:
        told(ask("ollama_chat/qwen3:8", OLLAMA_HOST=server.url), 4, "Did you mean ollama_chat/qwen3:8b?")
    told(ask("grok/openai/gpt-oss-20b"), 4, "not a known provider")


def test_an_embedding_model(ask: Callable) -> None:
    with OllamaServer(models={"nomic-embed-text": {"family": "bert"}}) as server:
        told(ask("ollama_chat/nomic-embed-text", OLLAMA_HOST=server.url), 4, "cannot chat")
    assert chats(server) == 1


@pytest.mark.parametrize("key", ["gsk_one\ngsk_two", "gsk one two", "gsk_näh_schlüssel"])
def test_a_key_that_cannot_be_sent(ask: Callable, key: str) -> None:
    with OpenAIServer() as server:
        result = ask(GROQ, GROQ_API_BASE=server.url, GROQ_API_KEY=key)
    told(result, 4, "GROQ_API_KEY")
    assert key not in result.err
    assert chats(server) == 0


def test_a_key_in_a_file_that_no_variable_can_hold(ask: Callable, write: Callable) -> None:
    write("rlm-dspy.toml", 'groq_api_key = "gsk_\\u0000zero"\n')
    told(ask(GROQ, GROQ_API_KEY="", RLM_DSPY_TRUST_PROJECT="1"), 2, "GROQ_API_KEY contains a null character")


def test_a_window_of_nothing(ask: Callable) -> None:
    told(ask("ollama_chat/x", RLM_DSPY_NUM_CTX="0"), 2, "num_ctx", "greater than or equal to 1")


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_tells_a_window_of_zero(ask: Callable) -> None:
    with OllamaServer(models={"x": {"window": 0}}, reply="SUBMIT(answer='42', evidence=[])") as server:
        ask("ollama_chat/x", OLLAMA_HOST=server.url)
    assert {seen.body["options"]["num_ctx"] for seen in server.posts if seen.path == "/api/chat"} == {8192}


def test_a_server_that_dies_in_the_middle_of_its_reply(ask: Callable) -> None:
    with OpenAIServer(*[Fault(cut=True)] * 9) as server:
        told(ask(GROQ, GROQ_API_BASE=server.url), 4, "cut the connection")
    assert chats(server) == 4


def test_a_quota_that_is_gone_for_long(ask: Callable) -> None:
    gone = Fault(429, error("Rate limit reached", "tokens", "rate_limit_exceeded"), {"retry-after": "1272"})
    with OpenAIServer(gone) as server:
        told(ask(GROQ, GROQ_API_BASE=server.url), 5, "out of quota for 21 min")
    assert chats(server) == 1


def test_a_prompt_too_large_for_the_quota(ask: Callable) -> None:
    large = Fault(413, error("Request too large: Limit 8000, Requested 12000", "tokens", "rate_limit_exceeded"))
    with OpenAIServer(large) as server:
        told(ask(GROQ, GROQ_API_BASE=server.url), 5, "too large for your quota", "Waiting cannot help")
    assert chats(server) == 1


def test_no_key(ask: Callable) -> None:
    told(ask(GROQ, GROQ_API_KEY=""), 4, "Set GROQ_API_KEY")


def test_a_window_that_the_prompt_does_not_fit(ask: Callable) -> None:
    with OllamaServer() as server:
        told(ask("ollama_chat/qwen3:8b", OLLAMA_HOST=server.url, RLM_DSPY_NUM_CTX="100"), 5, "too small a window")
    assert chats(server) == 1
