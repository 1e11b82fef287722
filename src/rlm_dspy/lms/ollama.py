"""Query an Ollama server: plain HTTP, short timeouts, no LiteLLM."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rlm_dspy.daemon_threads import daemon_future
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.local_servers import NoRedirects, is_shown, read_bounded

DEFAULT_BASE = "http://127.0.0.1:11434"
DEFAULT_WINDOW = 4096  # allocated by a server by default
MOST_PARALLEL = 16  # largest number of parallel requests that is measured
_LISTING_SECONDS = 0.5  # how long a server may take to list its models, and to say its version
_DETAIL_SECONDS = 2.0  # and to describe one of them, and to say what is loaded
_REPLY_SECONDS = 120.0  # and to answer a prompt


class OllamaUnreachableError(Exception):
    """No Ollama server answered; the message says where and why."""


@dataclass(frozen=True)
class OllamaModel:
    """A model on a server."""

    name: str
    size: int = 0
    modified: str = ""
    family: str = ""

    @property
    def chats(self) -> bool:
        """Whether the model is for chat, not for embeddings."""
        return "bert" not in self.family and "embed" not in self.name


def base_url(env: Mapping[str, str], explicit: str | None = None) -> str:
    """Return the server's address from an option, ``OLLAMA_HOST`` or ``OLLAMA_API_BASE``, or the default.

    ``OLLAMA_HOST`` is the address the server listens on, so 0.0.0.0 means this machine.

    Raises:
        ConfigurationError: the address is invalid, or has a user name.
    """
    given = (explicit or env.get("OLLAMA_HOST") or env.get("OLLAMA_API_BASE") or DEFAULT_BASE).strip()
    try:
        parts = urlsplit(given if "//" in given else f"//{given}", scheme="http")
        usual_port = 443 if parts.scheme == "https" else 80
        if "//" not in given:
            usual_port = 11434
        port = parts.port or usual_port
    except ValueError as error:
        raise ConfigurationError(f"{given!r} is not a valid address of an Ollama server: {error}.") from error
    host = parts.hostname or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if parts.scheme not in ("http", "https") or any(char.isspace() for char in host):
        raise ConfigurationError(f"{given!r} is not a valid address of an Ollama server. Write http://host:11434.")
    if parts.username is not None:
        raise ConfigurationError(
            f"the address of Ollama at {host} has a user name, which Ollama's own route does not send. "
            "Ask the server as openai/MODEL, with the address and /v1 in OPENAI_API_BASE."
        )
    path = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/api")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def models(base: str, timeout: float = _LISTING_SECONDS) -> list[OllamaModel]:
    """Return the server's models, newest first.

    Raises:
        OllamaUnreachableError: nothing answers there, or it is not Ollama.
    """
    found = [
        OllamaModel(
            name=str(row["name"]),
            size=_positive_count(row.get("size")),
            modified=str(row.get("modified_at") or ""),
            family=_model_detail(row, "family"),
        )
        for row in _model_rows(_fetch_json(f"{base}/api/tags", None, timeout))
    ]
    return sorted(found, key=lambda model: model.modified, reverse=True)


def trained_window(base: str, model: str) -> int | None:
    """Return the window that a model was trained for, or None if the server does not say."""
    try:
        info = _fetch_json(f"{base}/api/show", {"model": model}, _DETAIL_SECONDS).get("model_info")
    except OllamaUnreachableError:
        return None
    if not isinstance(info, dict):
        return None
    sizes = [_positive_count(value) for key, value in info.items() if key.endswith(".context_length")]
    return next(filter(None, sizes), None)


def running(base: str) -> dict[str, int]:
    """Return the loaded models with the window allocated for each.

    Raises:
        OllamaUnreachableError: nothing answers there, or it is not Ollama.
    """
    rows = _model_rows(_fetch_json(f"{base}/api/ps", None, _DETAIL_SECONDS))
    return {str(row["name"]): _positive_count(row.get("context_length")) for row in rows}


def measure_parallel(base: str, model: str, options: dict[str, Any]) -> int | None:
    """Measure how many requests the server serves at once; None if it answers none of them.

    No endpoint reports this. So the number of concurrent requests is doubled until not all are served at once, judged
    by the server's own timestamps of the first and last tokens: neither this machine's load nor the network can make
    requests overlap that did not.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "Count from 1 to 40."}], **options}
    sent = 2
    while True:
        with ThreadPoolExecutor(sent) as threads:
            spans = [span for span in threads.map(lambda _: _reply_span(base, body), range(sent)) if span]
        slots = at_once(spans)
        if slots < sent or sent >= MOST_PARALLEL:
            return slots or None  # nothing was answered
        sent *= 2


def at_once(spans: Sequence[tuple[datetime, datetime]]) -> int:
    """Return the maximum number of overlapping time spans; one may begin where another ends."""
    changes = [(start, 1) for start, _ in spans]
    changes += [(end, -1) for _, end in spans]
    most = min(1, len(spans))  # a span may end at the time when it begins
    overlapping = 0
    for _, step in sorted(changes):
        overlapping += step
        most = max(most, overlapping)
    return most


def version(base: str) -> str:
    """Return the server's version.

    Raises:
        OllamaUnreachableError: nothing answers there, or it is not Ollama.
    """
    return str(_fetch_json(f"{base}/api/version", None, _LISTING_SECONDS).get("version", "unknown"))


def _model_rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    rows = answer.get("models")
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and is_shown(row.get("name"))]


def _model_detail(row: dict[str, Any], name: str) -> str:
    details = row.get("details")
    if isinstance(details, dict):
        return str(details.get(name) or "")
    return ""


def _positive_count(value: Any) -> int:
    if isinstance(value, int) and value > 0:
        return value
    return 0


def _reply_span(base: str, body: dict[str, Any]) -> tuple[datetime, datetime] | None:
    try:
        lines = _send_request(f"{base}/api/chat", {**body, "stream": True}, _REPLY_SECONDS).splitlines()
        times = [datetime.fromisoformat(json.loads(line)["created_at"]) for line in lines]
    except (OllamaUnreachableError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if times:
        return times[0], times[-1]
    return None


def _fetch_json(url: str, body: Any, timeout: float) -> dict[str, Any]:
    try:
        answer = json.loads(_send_request(url, body, timeout))
    except (ValueError, RecursionError) as error:
        raise OllamaUnreachableError(f"{url} does not answer as an Ollama server does ({error})") from error
    if not isinstance(answer, dict):
        raise OllamaUnreachableError(f"{url} does not answer as an Ollama server does")
    return answer


def _send_request(url: str, body: Any, timeout: float) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    handlers: list[Any] = [NoRedirects]
    if local:  # a proxy from the environment cannot reach this machine's own server
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)

    def fetch() -> bytes:
        with opener.open(request, timeout=timeout) as reply:
            return read_bounded(reply, time.monotonic() + timeout)

    try:
        return daemon_future(fetch).result(timeout)  # in a thread, because headers that drip have no overall timeout
    except urllib.error.HTTPError as error:
        with error:
            raise OllamaUnreachableError(f"{url} answered with HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OllamaUnreachableError(f"{url} does not answer as an Ollama server does ({reason})") from error
