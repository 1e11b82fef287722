"""Bring a server's chat completion into the form that LiteLLM reads, so that a slip in it does not cost the reply.

Some servers send the text in parts or as a refusal, an error as a text, or counts of tokens that no reply can have.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from dspy.clients.engines.lifecycle import aclosing_stream

from rlm_dspy.metering import whole_count

logger = logging.getLogger(__name__)


def readable_reply(body: Any) -> Any:
    """Return a chat completion, or a chunk of one, in the form that LiteLLM reads; anything else is unchanged."""
    if not isinstance(body, dict):
        return body
    error = {"message": body["error"]} if isinstance(body.get("error"), str) else body.get("error")
    if isinstance(error, dict):
        body = {**body, "error": {"code": None, **error}}  # without a code, LiteLLM makes one up
    if not isinstance(body.get("choices"), list):
        return body
    body = {**body, "choices": [_with_text(choice) for choice in body["choices"]]}
    if body.get("usage") is not None:
        body["usage"] = _readable_usage(body["usage"])
    return body


async def readable_chunks(chunks: Any) -> AsyncIterator[Any]:
    """Pass on the chunks of the OpenAI client's stream, which are not validated yet, in the form that LiteLLM reads."""
    async with aclosing_stream(chunks):
        async for chunk in chunks:
            if hasattr(chunk, "model_dump"):
                plain = chunk.model_dump(exclude_unset=True, warnings=False)
                chunk = type(chunk).construct(**readable_reply(plain))
            yield chunk


def _with_text(choice: Any) -> Any:
    """Return a choice with its text as one string, if it came as a list of parts that are all text, or as a refusal."""
    for name in ("message", "delta"):
        said = choice.get(name) if isinstance(choice, dict) else None
        if not isinstance(said, dict):
            continue
        content = text = said.get("content")
        if isinstance(content, list):
            found = [part.get("text", part.get("refusal")) if isinstance(part, dict) else None for part in content]
            texts = [part for part in found if isinstance(part, str)]
            text = "".join(texts) if len(texts) == len(found) else content
        if said.get("refusal"):
            text = text or said["refusal"]
        if text != content:
            choice = {**choice, name: {**said, "content": text, "refusal": None}}
    return choice


def _readable_usage(usage: Any) -> dict[str, Any]:
    """Return a usage with whole counts only; without any if a main one is impossible, so that it is estimated."""
    found = _whole_counts(usage)
    given = usage if isinstance(usage, dict) else {}
    main = ("prompt_tokens", "completion_tokens")
    if found is None or any(given.get(name) is not None and name not in found for name in main):
        values = [given.get(name) for name in main]
        shown = [value if isinstance(value, (int, float)) else type(value).__name__ for value in values]  # no secrets
        logger.warning("a reply reports an impossible usage of %s tokens: it is estimated", shown)
        return {}
    details = {name: _whole_counts(value) for name, value in found.items() if name.endswith("_tokens_details")}
    return {**found, **details, "total_tokens": sum(found.get(name, 0) for name in main)}


def _whole_counts(usage: Any) -> dict[str, Any] | None:
    """Return an object without those of its counts of tokens that are impossible; None if it is not an object."""
    if not isinstance(usage, dict):
        return None
    rest = {name: value for name, value in usage.items() if not name.endswith("_tokens")}
    counts = {name: whole_count(value) for name, value in usage.items() if name.endswith("_tokens")}
    return {**rest, **{name: count for name, count in counts.items() if count is not None}}
