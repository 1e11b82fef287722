"""What LiteLLM hides of a stream: an error that the server wrote into it, no end at all, the text as it was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from rlm_dspy.lms import errors
from rlm_dspy.lms.providers import Route


def watch_lines(source: Any, route: Route) -> None:
    """Have Ollama's lines read by us first: LiteLLM keeps an error in a sentence only, and alters text."""
    lines = getattr(source, "completion_stream", None)
    parse = getattr(lines, "chunk_parser", None)
    if route.is_ollama and lines is not None and parse is not None:
        lines.chunk_parser = partial(_parse_line, parse)


def check_end(source: Any, route: Route) -> None:
    """Refuse a stream that did not come to its end: LiteLLM makes one up where the server left off."""
    reasons = ("received_finish_reason", "intermittent_finish_reason")
    if any(getattr(source, name, "unknown") for name in reasons):
        return
    kind = str(dict(getattr(source, "_response_headers", None) or {}).get("content-type", ""))
    if kind and not re.search("event-?stream|ndjson", kind):
        raise errors.invalid_reply(route, "is not a chat completion in JSON")
    raise errors.cut_reply(route)


def _parse_line(parse: Callable[..., Any], chunk: Any) -> Any:
    """Parse a line of Ollama's: an error of the server is raised, and text stays as the model wrote it."""
    if isinstance(chunk, dict) and chunk.get("error"):
        raise errors.StreamError(chunk)
    parsed = parse(chunk)
    delta, said = parsed.choices[0].delta, chunk["message"]
    # LiteLLM takes marks of thinking out of the text, even those in a string of the code that the model wrote.
    delta.content = said.get("content") or None
    delta.reasoning_content = said.get("thinking") or None
    return parsed
