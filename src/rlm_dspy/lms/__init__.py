"""Models: LiteLLM routing, the offline extractive engine, and choosing between them."""

from __future__ import annotations

from typing import Any

import dspy

from rlm_dspy import local_servers
from rlm_dspy.lms.engine import SERVER, AsyncRoutedEngine, RoutedEngine
from rlm_dspy.lms.offline import MODEL, offline_lm
from rlm_dspy.lms.providers import OFFLINE, ModelChoice, Route, choose

_ROUTE = frozenset(Route.__dataclass_fields__) - {"model", "retries"} | {"num_retries"}


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
    ours = {name: value for name, value in options.items() if name in _ROUTE}
    rest = {name: value for name, value in options.items() if name not in _ROUTE}
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


def server_address(model: Any) -> str | None:
    """Return the address of a model's server, if it is not the provider's public one."""
    metadata = getattr(model, "kwargs", {}).get("metadata") or {}
    return metadata.get(SERVER)


__all__ = ["OFFLINE", "ModelChoice", "choose", "lm", "offline_lm", "server_address"]
