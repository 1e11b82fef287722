"""Recover what LiteLLM hides in a stream: an error written by the server, a missing end, the unaltered text."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from dspy.lm15 import TextDelta

from rlm_dspy.lms import errors
from rlm_dspy.lms.providers import Route
from rlm_dspy.lms.transport import WrittenError, readable_chunks, readable_reply

# Called with each piece of a reply as it arrives, and with None when a reply begins; set around calls whose text is
# shown while it is written.
ON_TEXT: ContextVar[Callable[[str | None], None] | None] = ContextVar("rlm_dspy_on_text", default=None)


async def shown_events(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Pass the events of a stream on, and their text to ``ON_TEXT``; hidden thinking is left out."""
    on_text = ON_TEXT.get()
    if on_text:
        on_text(None)
    async for event in events:
        delta = getattr(event, "delta", None)
        if on_text and isinstance(delta, TextDelta):
            on_text(delta.text)
        yield event


def answer_so_far(text: str, name: str) -> str:
    """Return what a partial reply says so far in the field ``name``; "" if that has not begun."""
    _, found, rest = text.partition(f"[[ ## {name} ## ]]")
    if found:
        return re.split(r"\n?\[\[|\n?\[$", rest, maxsplit=1)[0].strip()
    return ""


def watch_lines(source: Any, route: Route) -> None:
    """Read each line before LiteLLM, which turns Ollama's errors into plain messages and alters its text."""
    from openai import AsyncStream  # slow, but LiteLLM has imported it

    lines = getattr(source, "completion_stream", None)
    parse = getattr(lines, "chunk_parser", None)
    if lines is not None and parse is not None:
        lines.chunk_parser = partial(_parse_line if route.is_ollama else _parse_chunk, parse)
    elif isinstance(lines, AsyncStream):
        source.completion_stream = readable_chunks(lines)


def _parse_chunk(parse: Callable[..., Any], chunk: Any, *more: Any, **options: Any) -> Any:
    return parse(readable_reply(chunk), *more, **options)


def check_end(source: Any, route: Route) -> None:
    """Refuse a stream that did not end properly: LiteLLM invents an end when the server stops."""
    reasons = ("received_finish_reason", "intermittent_finish_reason")
    if any(getattr(source, name, "unknown") for name in reasons):
        return
    kind = str(dict(getattr(source, "_response_headers", None) or {}).get("content-type", ""))
    if kind and not re.search("event-?stream|ndjson", kind):
        raise errors.invalid_reply(route, "is not a chat completion in JSON")
    raise errors.cut_reply(route)


def _parse_line(parse: Callable[..., Any], chunk: Any) -> Any:
    """Parse one of Ollama's lines: raise the server's errors, and keep text as the model wrote it."""
    if isinstance(chunk, dict) and chunk.get("error"):
        raise WrittenError(chunk)
    parsed = parse(chunk)
    delta, said = parsed.choices[0].delta, chunk["message"]
    # LiteLLM removes thinking tags from the text, even inside strings of the model's code.
    delta.content = said.get("content") or None
    delta.reasoning_content = said.get("thinking") or None
    return parsed
