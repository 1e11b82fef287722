"""Canary keys are planted in every place for keys, and searched for in everything the command prints or saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

GROQ_KEY = "gsk_canary_groq_4711_aaaa"
OTHERS = {
    "OPENAI_API_KEY": "sk-canary-openai-4711",
    "HF_TOKEN": "hf_canary_token_4711",
    "DB_PASSWORD": "canary-pass-4711",
}
FILE_KEY = "canary-anthropic-from-file-4711"
CANARIES = (GROQ_KEY, FILE_KEY, *OTHERS.values())
LEAK = f"the timeout is {GROQ_KEY}"
STEP = f"""[[ ## reasoning ## ]]
The key is {GROQ_KEY}.

[[ ## code ## ]]
```python
print('{GROQ_KEY}', llm_query('repeat {OTHERS["HF_TOKEN"]}'))
SUBMIT(answer='{GROQ_KEY}', evidence=grep('timeout'))
```
"""
GROQ = "groq/openai/gpt-oss-20b"
OUTPUTS = [[], ["--json"], ["-v"], ["-vv"], ["-vv", "--log-json", "--json"], ["--trace", "run.json"]]


@pytest.fixture(autouse=True)
def planted(write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write("notes.txt", f"first\n{LEAK}\n")
    write(".env", f"ANTHROPIC_API_KEY={FILE_KEY}\n")
    monkeypatch.setenv("RLM_DSPY_TRUST_PROJECT", "1")
    monkeypatch.setenv("GROQ_API_KEY", GROQ_KEY)
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)


def leaks(result: object, folder: Path) -> Iterator[str]:
    """Name where a canary is found: what was printed, and every file that was not planted."""
    texts = {"stdout": result.out, "stderr": result.err}
    for path in folder.parent.rglob("*"):
        planted = path.name in ("notes.txt", ".env") or "dspy-cache" in path.parts
        if path.is_file() and not planted:
            texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
    for place, text in texts.items():
        yield from (f"{canary} in {place}" for canary in CANARIES if canary in text)


@pytest.mark.parametrize("password", ["hunter2secret", "pw"])
def test_the_password_of_an_address_is_not_shown(run: Callable, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"http://bob:{password}@gpu.example:11434")
    for flags in ((), ("--json",)):
        shown = run("config", *flags)
        assert f"{password}@" not in shown.out
        assert "gpu.example:11434" in shown.out


@pytest.mark.parametrize("flags", OUTPUTS, ids=" ".join)
def test_no_output_of_an_answered_question_holds_a_key(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    with OpenAIServer(key=GROQ_KEY, reply=STEP) as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        question = f"is it {OTHERS['DB_PASSWORD']} ({' '.join(flags)})?"  # one of its own: replies are cached
        result = run("ask", "-m", GROQ, "--mode", "rlm", *flags, question, "notes.txt")
        assert server.posts[0].headers["Authorization"] == f"Bearer {GROQ_KEY}"
    assert result.code == 0
    assert "********" in result.out
    assert list(leaks(result, home)) == []


ECHOES = [
    Fault(400, error(f"bad request; you sent Authorization: Bearer {GROQ_KEY}", "x")),
    Fault(401, error(f"Incorrect API key provided: {GROQ_KEY}", "x")),
    Fault(403, f"<html>{GROQ_KEY}</html>"),
    Fault(429, error(f"slow down, {GROQ_KEY}", "x"), {"retry-after": "9999"}),
    Fault(200, f'{{"echo": "{GROQ_KEY}"}}'),
    Fault(500, error(f"crashed with {GROQ_KEY}", "x"), {"retry-after": "0"}),
]


@pytest.mark.parametrize("fault", ECHOES, ids=["400", "401", "403 page", "429", "no completion", "500"])
@pytest.mark.parametrize("flags", [[], ["-vv"], ["-vv", "--log-json"]], ids=" ".join)
def test_no_key_that_a_server_sends_back_is_shown(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, flags: list[str]
) -> None:
    with OpenAIServer(*[fault] * 9, key=GROQ_KEY) as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        result = run("ask", "-m", GROQ, "--mode", "rlm", *flags, "what?", "notes.txt", "--trace", "run.json")
    assert result.code in (4, 5)
    assert (home / "run.json").is_file()
    assert list(leaks(result, home)) == []


@pytest.mark.parametrize("command", [["doctor"], ["doctor", "--json"], ["models"], ["models", "--json"], ["config"]])
def test_no_diagnosis_holds_a_key(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    echo = Fault(401, error(f"Incorrect API key provided: {GROQ_KEY}", "x"))
    with OpenAIServer(echo) as server, OllamaServer() as other:
        monkeypatch.setenv("GROQ_API_BASE", server.url.replace("//", f"//user:{OTHERS['DB_PASSWORD']}@"))
        monkeypatch.setenv("OLLAMA_HOST", other.url.replace("//", f"//user:{OTHERS['DB_PASSWORD']}@"))
        monkeypatch.delenv("RLM_DSPY_MODEL")
        result = run(*command)
    assert list(leaks(result, home)) == []
