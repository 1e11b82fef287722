"""``ask`` over each provider's wire: the whole command, real LiteLLM, real HTTP; tests check the sent requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY = "gsk_right_key_000000"
DIRECT = """[[ ## answer ## ]]
42 s

[[ ## evidence ## ]]
[{"quote": "the timeout is 42 s"}]

[[ ## completed ## ]]
"""
STEP = """[[ ## reasoning ## ]]
It stands there.

[[ ## code ## ]]
```python
SUBMIT(answer='42 s', evidence=grep('timeout'))
```

[[ ## completed ## ]]
"""
NOTES = "first line\nthe timeout is 42 s\n"


@pytest.fixture(autouse=True)
def notes(write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write("notes.txt", NOTES)
    monkeypatch.setenv("GROQ_API_KEY", KEY)


def test_ollama_is_asked_directly_with_its_window_and_the_text(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaServer(reply=DIRECT, models={"x": {"window": 16384}}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("ask", "-m", "ollama_chat/x", "what is the timeout?", "notes.txt")
        (body,) = (seen.body for seen in server.posts if seen.path == "/api/chat")
    assert (result.code, result.out) == (0, '42 s\n\nnotes.txt:2  "the timeout is 42 s"\n')
    assert (body["model"], body["stream"], body["truncate"], body["keep_alive"]) == ("x", False, False, "10m")
    assert body["options"]["num_ctx"] == 16384
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert f"=== notes.txt (2 lines) ===\n{NOTES}" in body["messages"][1]["content"]


def test_ollama_explores_without_the_text_on_the_wire(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaServer(reply=STEP, models={"x": {"window": 16384}}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("ask", "-m", "ollama_chat/x", "--mode", "rlm", "--json", "what is the timeout?", "notes.txt")
        (body,) = (seen.body for seen in server.posts if seen.path == "/api/chat")
    found = json.loads(result.out)
    assert (found["answer"], found["model"], found["status"]) == ("42 s", "ollama_chat/x", "submitted")
    assert found["evidence"][0]["path"] == "notes.txt"
    assert (found["usage"]["cost"], found["usage"]["retries"]) == (0.0, 0)
    assert body["options"]["num_ctx"] == 16384
    assert body["options"]["num_predict"] == 2048  # a small window is a small model: its replies are capped
    assert "SUBMIT(answer=..., evidence=...)" in body["messages"][0]["content"]


def test_groq_is_asked_with_the_key_and_no_options_it_does_not_know(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(reply=STEP, models=("x",)) as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url + "/openai/v1")
        result = run("ask", "-m", "groq/x", "--mode", "rlm", "--json", "what is the timeout?", "notes.txt")
    (seen,) = server.posts
    assert (result.code, json.loads(result.out)["answer"]) == (0, "42 s")
    assert seen.path == "/openai/v1/chat/completions"
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert set(seen.body) <= {"model", "messages", "n", "temperature", "max_tokens"}
    assert seen.body["model"] == "x"
    assert [message["role"] for message in seen.body["messages"]] == ["system", "user"]


def test_a_wait_is_counted_in_the_json(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer(Fault(429, error("slow", "x"), {"retry-after": "0.3"}), reply=DIRECT) as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        result = run("ask", "-m", "groq/openai/gpt-oss-20b", "--json", "what is the timeout?", "notes.txt")
    used = json.loads(result.out)["usage"]
    assert used["retries"] == 1
    assert used["waited_seconds"] >= 0.3


@pytest.mark.parametrize("given", ["flag", "environment", "file"])
def test_the_fallback_answers_when_the_quota_is_gone_and_is_named(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    gone = Fault(429, error("slow", "x"), {"retry-after": "9999"})
    name, flags = "ollama_chat/x", ["--fallback", "ollama_chat/x"] if given == "flag" else []
    if given == "environment":
        monkeypatch.setenv("RLM_DSPY_FALLBACK", name)
    elif given == "file":
        write("rlm-dspy.toml", f"fallback = '{name}'\n")
    with OpenAIServer(gone) as server, OllamaServer(reply=DIRECT, models={"x": {}}) as other:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        monkeypatch.setenv("OLLAMA_HOST", other.url)
        groq = "groq/openai/gpt-oss-20b"
        result = run("ask", "-m", groq, *flags, "what is the timeout?", "notes.txt", "--trace", "run.json")
    assert (result.code, result.out.splitlines()[0]) == (0, "42 s")
    assert f"{groq} could not answer; {name} answered instead." in result.err
    assert set(json.loads(write("x", "").with_name("run.json").read_text())["usage_by_model"]) == {name}


def test_what_the_fallback_said_is_not_kept_as_the_models(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Fault(429, error("slow", "x"), {"retry-after": "9999"})
    with OpenAIServer(gone, reply=DIRECT) as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        ask = ("ask", "-m", "groq/openai/gpt-oss-20b", "--fallback", "offline", "what is the timeout?", "notes.txt")
        assert "offline/extractive answered instead" in run(*ask).err
        again = run(*ask)
    assert (again.code, again.out.splitlines()[0], again.err) == (0, "42 s", "")


def test_a_fallback_that_cannot_be_a_model_is_told_before_anything_is_asked(run: Callable) -> None:
    result = run("ask", "-m", "groq/x", "--fallback", "two words", "q", "notes.txt")
    assert (result.code, result.out) == (2, "")
    assert "not a model name" in result.err


def test_a_score_says_which_questions_the_fallback_answered(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Fault(429, error("slow", "x"), {"retry-after": "9999"})
    rows = [{"question": f"what is the timeout? {n}", "answer": "42 s", "context": NOTES} for n in range(2)]
    data = write("d.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RLM_DSPY_FALLBACK", "ollama_chat/x")
    with OpenAIServer(gone, reply=DIRECT) as server, OllamaServer(reply=DIRECT, models={"x": {}}) as other:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        monkeypatch.setenv("OLLAMA_HOST", other.url)
        groq = "groq/openai/gpt-oss-20b"
        result = run("eval", str(data), "-m", groq, "--compare", "direct", "--threads", "1", "--json")
    assert result.code == 0
    assert [row["models"] for row in json.loads(result.out)["rows"]] == [["ollama_chat/x"], [groq]]
    said = f"1 of 2 questions were answered by ollama_chat/x: the score is not that of {groq}."
    assert said in result.err


def ask_ollama(
    run: Callable, monkeypatch: pytest.MonkeyPatch, question: str, reply: str, *options: str
) -> tuple[Any, str]:
    """Return what ``ask`` over a text beyond one call printed, and the first prompt that was sent.

    Each question is another, for what was answered before comes from the cache.
    """
    with OllamaServer(reply=reply, models={"tiny:1b": {"window": 16384}}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("ask", "-m", "ollama_chat/tiny:1b", "--json", question, "long.txt", *options)
        body = next((seen.body for seen in server.posts if seen.path == "/api/chat"), None)
    assert body is not None, result
    return result, "\n".join(message["content"] for message in body["messages"])


@pytest.fixture
def long(write: Callable) -> None:
    filler = "nothing of note stands in this line of the text\n" * 2_000
    write("long.txt", f"{filler}the timeout is 42 s\n{filler}")


def test_the_best_passages_are_sent_where_that_is_asked_for(
    run: Callable, monkeypatch: pytest.MonkeyPatch, long: None
) -> None:
    result, prompt = ask_ollama(run, monkeypatch, "what is the timeout?", DIRECT, "--mode", "retrieve")
    told = json.loads(result.out)
    assert (told["answer"], told["mode"]) == ("42 s", "retrieve")
    assert "the timeout is 42 s" in prompt
    assert len(prompt) < 12_000
    assert "passages" in result.err or "passage" in result.err


def test_a_tiny_model_is_shown_passages_where_the_answer_stands_in_one_place(
    run: Callable, monkeypatch: pytest.MonkeyPatch, long: None
) -> None:
    result, prompt = ask_ollama(run, monkeypatch, "which timeout is set?", DIRECT)
    assert json.loads(result.out)["mode"] == "retrieve"
    assert "the timeout is 42 s" in prompt


def test_what_the_passages_do_not_hold_is_explored(run: Callable, monkeypatch: pytest.MonkeyPatch, long: None) -> None:
    absent = DIRECT.replace("42 s\n\n[[ ## evidence", "not in the corpus\n\n[[ ## evidence").replace(
        '[{"quote": "the timeout is 42 s"}]', "[]"
    )
    result, _ = ask_ollama(run, monkeypatch, "what timeout do I have?", absent, "--max-iters", "2")
    assert "do not contain the answer; exploring the whole text" in result.err


def test_where_no_passage_fits_the_text_is_explored(run: Callable, monkeypatch: pytest.MonkeyPatch, long: None) -> None:
    result, _ = ask_ollama(run, monkeypatch, "whose zeppelin?", DIRECT, "--max-iters", "2")
    assert "exploring the whole text" in result.err
    told = json.loads(result.out)
    assert told["mode"] == "rlm"
    assert told["usage"]["calls"] > 2  # the attempt from passages counts too
