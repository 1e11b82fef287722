"""Limits on what a model's server may send, enforced where LiteLLM's HTTP clients read it.

LiteLLM has no setting for them and creates its own clients, so public members of ``httpx.Response`` are replaced. They
behave as before everywhere except inside ``bound_replies``.

What they read as JSON is brought into the form that LiteLLM reads, so that a slip in it does not cost the reply: some
servers send the text in parts or as a refusal, an error as a text, or counts of tokens that no reply can have.

Holds: a reply is read up to ``MAX_REPLY_BYTES`` after decompression, and no redirect is followed, so that prompts and
headers with keys reach only addresses the user chose.
"""

from __future__ import annotations

import contextvars
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from dspy.clients.engines.lifecycle import aclosing_stream
from dspy.lm15 import Request

from rlm_dspy.counting import CHARS_PER_TOKEN
from rlm_dspy.metering import whole_count

MAX_REPLY_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10  # read of an error; LiteLLM searches it for secrets, which takes minutes for a few megabytes
MOST_OBJECTS = 1_000_000  # lists and dicts of a reply; reading ten million takes half a minute and gigabytes
MOST_CHOICES = 128  # of a reply, of which one is read

logger = logging.getLogger(__name__)

_installing = threading.Lock()
_is_bounded: contextvars.ContextVar[bool] = contextvars.ContextVar("is_bounded", default=False)


class Arrivals:
    """Whether any reply has arrived for the requests of a context."""

    def __init__(self) -> None:
        self.any = False


_arrivals: contextvars.ContextVar[Arrivals | None] = contextvars.ContextVar("arrivals", default=None)


def watch_arrivals() -> Arrivals:
    """Return the arrivals of the requests that this context makes from now on inside ``bound_replies``."""
    arrivals = Arrivals()
    _arrivals.set(arrivals)
    return arrivals


class WrittenError(Exception):
    """A server wrote an error into a reply or a stream that began with status 200; ``body`` is its JSON."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(str(body.get("error")))
        self.body = body


class ReplyTooLargeError(Exception):
    """A reply is longer than ``MAX_REPLY_BYTES``, or has more parts than can be read in time."""


@contextmanager
def bound_replies() -> Iterator[None]:
    """Enforce the limits for requests made inside."""
    _install_bounds()
    token = _is_bounded.set(True)
    try:
        yield
    finally:
        _is_bounded.reset(token)


def _install_bounds() -> None:
    with _installing:  # else a second installation would take the replaced members for the originals
        if hasattr(httpx.Response, "_unbounded_redirect"):
            return
        httpx.Response._unbounded_redirect = httpx.Response.has_redirect_location  # type: ignore[attr-defined]
        httpx.Response._unbounded_bytes = httpx.Response.iter_bytes  # type: ignore[attr-defined]
        httpx.Response._unbounded_async_bytes = httpx.Response.aiter_bytes  # type: ignore[attr-defined]
        httpx.Response._unchanged_json = httpx.Response.json  # type: ignore[attr-defined]
        httpx.Response.json = _json  # type: ignore[assignment, method-assign]
        httpx.Response.has_redirect_location = property(_has_redirect_location)  # type: ignore[assignment]
        httpx.Response.iter_bytes = _iter_bytes  # type: ignore[assignment, method-assign]
        httpx.Response.aiter_bytes = _aiter_bytes  # type: ignore[assignment, method-assign]


def _has_redirect_location(response: Any) -> bool:
    """Whether to follow a redirect; httpx asks this about each reply as soon as its headers have arrived."""
    if arrivals := _arrivals.get():
        arrivals.any = True
    return not _is_bounded.get() and bool(response._unbounded_redirect)


def _json(response: Any, **options: Any) -> Any:
    body = response._unchanged_json(**options)
    if not _is_bounded.get():
        return body
    if response.url.path.endswith("/api/chat") and isinstance(body, dict) and body.get("error"):
        raise WrittenError(body)  # LiteLLM would look for Ollama's reply in it
    return readable_reply(body)


def _iter_bytes(response: Any, chunk_size: int | None = None) -> Iterator[bytes]:
    allowance = _Allowance(response) if _is_bounded.get() else None
    for chunk in response._unbounded_bytes(chunk_size):
        if allowance is None:
            yield chunk
            continue
        yield allowance.take(chunk)
        if allowance.is_used:
            response.close()
            return


async def _aiter_bytes(response: Any, chunk_size: int | None = None) -> AsyncIterator[bytes]:
    allowance = _Allowance(response) if _is_bounded.get() else None
    async for chunk in response._unbounded_async_bytes(chunk_size):
        if allowance is None:
            yield chunk
            continue
        yield allowance.take(chunk)
        if allowance.is_used:
            await response.aclose()
            return


class _Allowance:
    """What may still arrive of a reply. Of an error only the beginning is read, which says what it is."""

    def __init__(self, response: Any) -> None:
        self._is_error = response.status_code >= 400
        self._bytes = MAX_ERROR_BYTES if self._is_error else MAX_REPLY_BYTES
        self._objects = MOST_OBJECTS

    @property
    def is_used(self) -> bool:
        """Whether no more of an error is to be read."""
        return self._is_error and self._bytes == 0

    def take(self, chunk: bytes) -> bytes:
        """Return what may be read of a part.

        Raises:
            ReplyTooLargeError: a limit is exceeded.
        """
        if self._is_error:
            chunk = chunk[: self._bytes]
        if len(chunk) > self._bytes:
            raise ReplyTooLargeError(f"more than {MAX_REPLY_BYTES >> 20} MB")
        self._bytes -= len(chunk)
        self._objects -= chunk.count(b"{") + chunk.count(b"[")
        if self._objects < 0:
            raise ReplyTooLargeError(f"more than {MOST_OBJECTS:,} lists and objects")
        return chunk


# A token is seldom more than a few characters; far fewer tokens than that mean that part of the prompt was not read.
MOST_CHARS = 10
MIN_PROMPT_CHARS = 8_000  # prompts below this many characters are not judged
_RUN = re.compile(r"(.)\1{4,}", re.DOTALL)


def request_chars(request: Request) -> int:
    """Return the number of characters of a request."""
    return sum(map(len, _message_texts(request)))


def cut_prompt_tokens(request: Request, reported_tokens: int | None) -> int | None:
    """Return the approximate number of tokens sent if far fewer were read, else None."""
    if not reported_tokens:  # LiteLLM reports 0 if the server reports nothing
        return None
    # A long run of one character (table padding, a rule) is only a few tokens.
    chars = sum(len(_RUN.sub(r"\1\1\1\1", text)) for text in _message_texts(request))
    if chars >= MIN_PROMPT_CHARS and reported_tokens * MOST_CHARS < chars:
        return chars // CHARS_PER_TOKEN
    return None


def _message_texts(request: Request) -> list[str]:
    return [request.system if isinstance(request.system, str) else "", *(m.text or "" for m in request.messages)]


def readable_reply(body: Any) -> Any:
    """Return a chat completion, or a chunk of one, in the form that LiteLLM reads; anything else is unchanged."""
    if not isinstance(body, dict):
        return body
    error = {"message": body["error"]} if isinstance(body.get("error"), str) else body.get("error")
    if isinstance(error, dict):
        body = {**body, "error": {"code": None, **error}}  # without a code, LiteLLM makes one up
    if not isinstance(body.get("choices"), list):
        return body
    if len(body["choices"]) > MOST_CHOICES:
        raise ReplyTooLargeError(f"more than {MOST_CHOICES} choices")
    body = {**body, "choices": [_with_text(choice) for choice in body["choices"]]}
    for name, kind in (("id", str), ("model", str), ("created", int)):
        if not isinstance(body.get(name, kind()), kind):
            del body[name]  # LiteLLM's log fails with a traceback
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
        message = choice.get(name) if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        content = text = message.get("content")
        if isinstance(content, list):
            parts: list[Any] = [
                part.get("text", part.get("refusal")) if isinstance(part, dict) else None for part in content
            ]
            if all(isinstance(part, str) for part in parts):
                text = "".join(parts)
        if message.get("refusal"):
            text = text or message["refusal"]
        if text != content:
            choice = {**choice, name: {**message, "content": text, "refusal": None}}
    return choice


def _readable_usage(usage: Any) -> dict[str, Any]:
    """Return a usage with whole counts only; without any if a main one is impossible, so that it is estimated."""
    counts = _whole_counts(usage)
    reported = usage if isinstance(usage, dict) else {}
    main = ("prompt_tokens", "completion_tokens")
    if counts is None or any(reported.get(name) is not None and name not in counts for name in main):
        values = [reported.get(name) for name in main]
        shown = [value if isinstance(value, (int, float)) else type(value).__name__ for value in values]  # no secrets
        logger.warning("a reply reports an impossible usage of %s tokens: it is estimated", shown)
        return {}
    details = {name: _whole_counts(value) for name, value in counts.items() if name.endswith("_tokens_details")}
    return {**counts, **details, "total_tokens": sum(counts.get(name, 0) for name in main)}


def _whole_counts(usage: Any) -> dict[str, Any] | None:
    """Return an object without those of its counts of tokens that are impossible; None if it is not an object."""
    if not isinstance(usage, dict):
        return None
    rest = {name: value for name, value in usage.items() if not name.endswith("_tokens")}
    counts = {name: whole_count(value) for name, value in usage.items() if name.endswith("_tokens")}
    return {**rest, **{name: count for name, count in counts.items() if count is not None}}
