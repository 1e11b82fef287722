"""Which model answers when none is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlm_dspy.lms import ollama

OFFLINE = "offline"
GROQ_MODEL = "groq/openai/gpt-oss-20b"


@dataclass(frozen=True)
class Choice:
    """A model, and why it was chosen."""

    model: str
    reason: str

    @property
    def offline(self) -> bool:
        """Whether it is the offline engine."""
        return self.model == OFFLINE


def choose(explicit: str | None, env: Mapping[str, str], by: str = "the caller") -> Choice:
    """Choose a model: the one named, ``RLM_DSPY_MODEL``, Groq with a key, Ollama's newest, else the offline engine.

    Args:
        explicit: a model's name, if there is one.
        env: the variables.
        by: who gave that name, for the reason.
    """
    if explicit and explicit.strip():
        return Choice(explicit.strip(), f"named by {by}")
    if named := env.get("RLM_DSPY_MODEL", "").strip():
        return Choice(named, "named by RLM_DSPY_MODEL")
    if env.get("GROQ_API_KEY", "").strip():
        return Choice(GROQ_MODEL, "GROQ_API_KEY is set")
    base = ollama.base_url(env)
    try:
        found = [model for model in ollama.models(base) if model.chats]
    except ollama.OllamaUnreachableError:
        return Choice(OFFLINE, f"no model is named, GROQ_API_KEY is not set, and no Ollama answers at {base}")
    if not found:
        return Choice(OFFLINE, f"the Ollama at {base} has no chat model (ollama pull qwen3:8b)")
    return Choice(f"ollama_chat/{found[0].name}", f"the newest model of the Ollama at {base}")
