"""The two ends of a stream that LiteLLM does not tell: an error that the server wrote into it, and none at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from rlm_dspy.lms import faults
from rlm_dspy.lms.routes import Route


def watch_lines(source: Any, route: Route) -> None:
    """Let an error that Ollama writes into its stream come here whole: LiteLLM keeps it in a sentence only."""
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
        raise faults.invalid_reply(route, "is not a chat completion in JSON")
    raise faults.cut_reply(route)


def _parse_line(parse: Callable[..., Any], chunk: Any) -> Any:
    if isinstance(chunk, dict) and chunk.get("error"):
        raise faults.StreamError(chunk)
    return parse(chunk)
