"""The list of ``models``, and its default."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from servers.ollama import OllamaServer

KEY = "gsk_canary_0815_models"


@pytest.fixture
def nobody(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLM_DSPY_MODEL")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")


@pytest.mark.usefixtures("nobody")
def test_with_nothing_configured_the_offline_engine_is_the_default(run: Callable) -> None:
    result = run("models")
    assert result.code == 0
    assert result.out.startswith("default: offline (no model is set")
    assert "GROQ_API_KEY is not set" in result.err


@pytest.mark.usefixtures("nobody")
def test_what_can_be_reached_is_a_table_with_the_default_marked(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    with OllamaServer(models={"qwen3:8b": {"window": 40960, "size": 5_200_000_000}}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("models")
    lines = result.out.splitlines()
    assert lines[0].split() == ["model", "window", "size", "in", "$/M", "out", "$/M"]
    assert lines[1].split() == ["ollama_chat/qwen3:8b", "40,960", "5.2", "GB", "0", "0"]
    assert lines[2].split()[:3] == ["*", "groq/openai/gpt-oss-20b", "131,072"]
    assert lines[-1] == "default: groq/openai/gpt-oss-20b (GROQ_API_KEY is set)"
    assert KEY not in result.out + result.err


@pytest.mark.usefixtures("nobody")
def test_all_of_it_as_json(run: Callable) -> None:
    found = json.loads(run("models", "--all", "--json").out)
    assert found["default"]["model"] == "offline"
    assert len(found["models"]) > 500
    groq = next(row for row in found["models"] if row["name"] == "groq/openai/gpt-oss-120b")
    assert (groq["window"], groq["default"]) == (131072, False)
    assert groq["input_price"] > 0


@pytest.mark.usefixtures("nobody")
def test_a_model_that_a_file_names_is_the_default(run: Callable, write: Callable) -> None:
    write("rlm-dspy.toml", "model = 'hosted_vllm/mine'\n")
    assert "default: hosted_vllm/mine (named by rlm-dspy.toml)" in run("models").out


@pytest.mark.usefixtures("nobody")
def test_whoever_names_the_model_is_told(run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.txt", "The gate opens at 6 hours.\n")
    write("rlm-dspy.toml", "model = 'offline'\n")
    assert "keyword, as rlm-dspy.toml says." in run("ask", "When?", "a.txt").err
    assert "keyword (named by rlm-dspy.toml)" in run("doctor").out
    monkeypatch.setenv("RLM_DSPY_MODEL", "offline")
    assert "keyword, as RLM_DSPY_MODEL says." in run("ask", "When?", "a.txt").err
    assert "keyword (named by RLM_DSPY_MODEL)" in run("doctor").out
    assert run("models").out.endswith("default: offline (named by RLM_DSPY_MODEL)\n")
    first = run("ask", "When?", "a.txt", "-m", "offline").err.splitlines()[0]
    assert first == "No language model: the offline engine looks up passages by keyword, as --model says."


@pytest.mark.usefixtures("nobody")
def test_without_a_model_the_offline_engine_says_how_to_have_one(run: Callable, write: Callable) -> None:
    write("a.txt", "The gate opens at 6 hours.\n")
    told = run("ask", "When?", "a.txt").err
    assert "(no model is set, GROQ_API_KEY is not set, and no Ollama answers at http://127.0.0.1:9)" in told
    assert "To use a model, set -m or RLM_DSPY_MODEL, e.g. ollama_chat/qwen3:8b, or set GROQ_API_KEY." in told
