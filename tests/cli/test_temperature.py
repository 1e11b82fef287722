"""``--temperature`` reaches each request and is part of what a reply is kept under."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm_dspy.cli.home_files import user_toml
from servers.openai import OpenAIServer

REPLY = """[[ ## answer ## ]]
42 s

[[ ## evidence ## ]]
[{"quote": "the timeout is 42 s"}]

[[ ## completed ## ]]
"""
ASK = ("ask", "-m", "groq/x", "--mode", "direct", "what is the timeout?", "notes.txt")


@pytest.fixture
def server(write: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    write("notes.txt", "first line\nthe timeout is 42 s\n")
    write("q.jsonl", '"what is the timeout?"\n')
    row = {"question": "what is the timeout?", "answer": "42 s", "context": "the timeout is 42 s"}
    write("d.jsonl", json.dumps(row) + "\n")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_right_key_000000")
    with OpenAIServer(reply=REPLY, models=("x",)) as made:
        monkeypatch.setenv("GROQ_API_BASE", made.url)
        yield made


def sent(server: OpenAIServer) -> list[float | None]:
    return [seen.body.get("temperature") for seen in server.posts]


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "what is the timeout?", "notes.txt"),
        ("chat", "notes.txt"),
        ("batch", "q.jsonl", "notes.txt", "--out", "a.jsonl"),
        ("eval", "d.jsonl", "--compare", "direct"),
    ],
    ids=lambda command: command[0],
)
def test_it_reaches_the_request(run: Callable, server: OpenAIServer, command: tuple[str, ...]) -> None:
    mode = () if command[0] == "eval" else ("--mode", "direct")
    stdin = b"what is the timeout?\n" if command[0] == "chat" else None
    result = run(*command, "-m", "groq/x", *mode, "--temperature", "0.3", stdin=stdin)
    assert result.code == 0, result.err
    assert sent(server) == [0.3]


def test_a_file_and_a_variable_set_it(
    run: Callable, server: OpenAIServer, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rlm-dspy.toml", "temperature = 0\n")
    assert run(*ASK).code == 0
    monkeypatch.setenv("RLM_DSPY_TEMPERATURE", "0.5")
    assert run(*ASK).code == 0
    assert sent(server) == [0, 0.5]


def test_a_reply_at_another_temperature_is_not_reused(run: Callable, server: OpenAIServer) -> None:
    for temperature in ("0", "0.5", "0"):
        assert run(*ASK, "--temperature", temperature).code == 0
    assert sent(server) == [0, 0.5]
    for temperature, asked in (("0", 1), ("0.5", 2), ("0.5", 2)):
        run("eval", "d.jsonl", "--compare", "direct", "-m", "groq/x", "--temperature", temperature)
        assert len(server.posts) == 2 + asked


def test_the_run_has_it(run: Callable, server: OpenAIServer, home: Path) -> None:
    run(*ASK, "--temperature", "0.3", "--trace", "run.json")
    assert json.loads((home / "run.json").read_text())["asked"]["settings"]["temperature"] == 0.3


@pytest.mark.parametrize("model", ["openai/o3-mini", "openai/gpt-5"])
def test_a_model_that_refuses_it_is_not_asked(
    run: Callable, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right-key-000000")
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    result = run(*ASK, "-m", model, "--temperature", "0")
    assert (result.code, sent(server)) == (2, [])
    assert f"{model} does not take a temperature of 0: leave out --temperature" in result.err


def test_the_offline_engine_has_none(run: Callable, server: OpenAIServer) -> None:
    write_user_settings("temperature = 0.3\n")
    results = [run(*ASK, "-m", "offline"), run(*ASK, "-m", "offline")]
    assert [result.code for result in results] == [0, 0]
    assert ["It has no temperature: 0.3 is ignored." in result.err for result in results] == [True, False]


def write_user_settings(text: str) -> None:
    user_toml().parent.mkdir(parents=True, exist_ok=True)
    user_toml().write_text(text)


def test_a_wrong_one_is_refused(run: Callable, server: OpenAIServer) -> None:
    assert "'--temperature': 3.0 is not in the range 0<=x<=2" in run(*ASK, "--temperature", "3").err
