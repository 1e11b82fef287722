"""Which model is chosen when none is named."""

from __future__ import annotations

import pytest

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import choose, lm, ollama
from servers.ollama import OllamaServer

NOWHERE = {"OLLAMA_HOST": "127.0.0.1:9"}


def test_the_order_is_flag_variable_groq_ollama_offline() -> None:
    env = {"RLM_DSPY_MODEL": "openai/x", "GROQ_API_KEY": "k", **NOWHERE}
    assert choose("a/b", env).model == "a/b"
    assert choose(None, env).model == "openai/x"
    assert choose(None, {"GROQ_API_KEY": "k", **NOWHERE}).model == "groq/openai/gpt-oss-20b"
    nothing = choose(None, NOWHERE)
    assert nothing.offline
    assert "127.0.0.1:9" in nothing.reason


def test_the_newest_chat_model_of_ollama_is_chosen() -> None:
    models = {
        "old:7b": {"modified_at": "2025-01-01T00:00:00Z"},
        "new:8b": {"modified_at": "2026-06-01T00:00:00Z"},
        "nomic-embed-text": {"modified_at": "2026-10-01T00:00:00Z", "family": "nomic-bert"},
    }
    with OllamaServer(models=models) as server:
        assert choose(None, {"OLLAMA_HOST": server.url}).model == "ollama_chat/new:8b"


def test_an_ollama_without_chat_models_is_told() -> None:
    with OllamaServer(models={"bert": {"family": "bert"}}) as server:
        choice = choose(None, {"OLLAMA_API_BASE": server.url})
    assert choice.offline
    assert "ollama pull" in choice.reason


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:8080", "http://box:8080"),
        (":9999", "http://127.0.0.1:9999"),
        ("http://box/", "http://box:80"),
        ("https://box", "https://box:443"),
        ("http://box:1234/v1", "http://box:1234"),
        ("http://box:1234/proxy/api", "http://box:1234/proxy"),
        ("[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_the_forms_of_ollama_host(given: str, base: str) -> None:
    assert ollama.base_url({"OLLAMA_HOST": given}) == base


def test_the_offline_engine_is_a_model_like_others() -> None:
    assert lm("offline", num_ctx=4096).model == "offline/extractive"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("cahe", "cache"), ("num_cxt", "num_ctx")],
)
@pytest.mark.parametrize("model", ["ollama_chat/x", "offline"])
def test_a_misspelt_option_says_what_was_meant(model: str, given: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{given} is not an option of an LM. Did you mean {meant}\\?"):
        lm(model, **{given: 0})


def test_options_of_providers_are_passed_on() -> None:
    options = {"top_k": 4, "top_a": 0.2, "thinking": {"type": "disabled"}, "reasoning_effort": "low", "speed": "fast"}
    made = lm("openai/x", temperature=0, user="me", stop=["."], seed=1, logit_bias={}, **options)
    assert options.items() <= made.kwargs.items()


@pytest.mark.parametrize("given", ["box:port", "127.0.0.1:99999", "ftp://box", "two words", "http://[::1"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid address of an Ollama server"):
        ollama.base_url({"OLLAMA_HOST": given})
