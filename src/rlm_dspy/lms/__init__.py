"""Models: LiteLLM routing, the offline extractive engine, and choosing between them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import dspy

from rlm_dspy import local_servers
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.engine import SERVER, AsyncRoutedEngine, RoutedEngine
from rlm_dspy.lms.offline import MODEL, offline_lm
from rlm_dspy.lms.providers import OFFLINE, ModelChoice, Route, choose

_ROUTE_OPTIONS = frozenset(Route.__dataclass_fields__) - {"model", "retries"} | {"num_retries"}
_DSPY_OPTIONS = {
    name for name, option in inspect.signature(dspy.LM).parameters.items() if option.kind is not option.VAR_KEYWORD
}
# Other options that DSPy or LiteLLM passes on to a model.
_PASSED_ON = {
    "chat_template_kwargs", "enable_thinking", "frequency_penalty", "function_call", "functions", "logit_bias",
    "logprobs", "max_completion_tokens", "metadata", "moderation", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "provider",
    "reasoning", "reasoning_effort", "reasoning_format", "response_format", "rollout_id", "safety_identifier",
    "seed", "service_tier", "speed", "stop", "store", "stream", "stream_options", "thinking", "tool_choice",
    "tools", "top_k", "top_logprobs", "top_p", "user", "user_id", "verbosity",
}  # fmt: skip
_CLOSE = 0.85  # a name that is more similar to a known one counts as misspelt; top_a and top_p are less similar


def lm(model: str, **options: Any) -> dspy.LM:
    """Return a ``dspy.LM`` with the defaults that its provider needs.

    Args:
        model: a LiteLLM model string, such as ``ollama_chat/qwen3:8b`` or ``groq/openai/gpt-oss-20b``;
            ``offline`` is the embedded extractive engine.
        **options: connection options (``api_base``, ``api_key``, ``headers``, ``timeout``, ``num_ctx``,
            ``keep_alive``, ``think``, ``requests_per_minute``, ``concurrency``, ``fallback``, ``num_retries``,
            ``pace``); all others go to ``dspy.LM`` (``temperature``, ``max_tokens``, ``cache``, …).

    Raises:
        ConfigurationError: the name or an option is invalid.

    Example:
        >>> dspy.configure(lm=lm("ollama_chat/qwen3:8b", num_ctx=16384))  # doctest: +SKIP
    """
    _check_spelling(options)
    ours = {name: value for name, value in options.items() if name in _ROUTE_OPTIONS}
    rest = {name: value for name, value in options.items() if name not in _ROUTE_OPTIONS}
    if model in (OFFLINE, MODEL):
        return offline_lm(**rest)
    if ours.get("fallback"):
        rest.setdefault("cache", False)  # DSPy would cache the fallback's reply as this model's
    retries = ours.pop("num_retries", Route.retries)
    route = Route(model, retries=retries, **ours)
    if route.base and route.base != route.provider.base:
        # Part of DSPy's cache key, which does not include the engine's settings.
        rest["metadata"] = {**rest.get("metadata", {}), SERVER: local_servers.shown_address(route.base)}
    engines = {"engine": RoutedEngine(route), "async_engine": AsyncRoutedEngine(route)}
    return dspy.LM(route.model, **engines, num_retries=0, **rest)


def _check_spelling(options: Iterable[str]) -> None:
    """Refuse an option that is nearly a known one; DSPy would fail with it only in the first call."""
    known = _ROUTE_OPTIONS | _DSPY_OPTIONS | _PASSED_ON
    for name in options:
        close = difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE)
        if name not in known and close:
            raise ConfigurationError(f"{name} is not an option of an LM. Did you mean {close[0]}?")


def server_address(model: Any) -> str | None:
    """Return the address of a model's server, if it is not the provider's public one."""
    metadata = getattr(model, "kwargs", {}).get("metadata") or {}
    return metadata.get(SERVER)


__all__ = ["OFFLINE", "ModelChoice", "choose", "lm", "offline_lm", "server_address"]
