"""Asks an Ollama server what it has; plain HTTP, short timeouts, no LiteLLM."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rlm_dspy.errors import ConfigurationError

DEFAULT_BASE = "http://127.0.0.1:11434"
DEFAULT_WINDOW = 4096  # what a server allocates when it is not told


class OllamaUnreachableError(Exception):
    """No Ollama server answered as one; the message says where and why."""


@dataclass(frozen=True)
class OllamaModel:
    """A model that a server has."""

    name: str
    size: int = 0
    modified: str = ""
    family: str = ""
    parameters: str = ""

    @property
    def chats(self) -> bool:
        """Whether it is for chat, not for embeddings."""
        return "bert" not in self.family and "embed" not in self.name


def base_url(env: Mapping[str, str], explicit: str | None = None) -> str:
    """Return the server's address from an option, ``OLLAMA_HOST`` or ``OLLAMA_API_BASE``, or the default.

    ``OLLAMA_HOST`` is what the server itself listens on, so that 0.0.0.0 means this machine.

    Raises:
        ConfigurationError: it is no address.
    """
    given = (explicit or env.get("OLLAMA_HOST") or env.get("OLLAMA_API_BASE") or DEFAULT_BASE).strip()
    try:
        parts = urlsplit(given if "//" in given else f"//{given}", scheme="http")
        port = parts.port or (443 if parts.scheme == "https" else 80 if "//" in given else 11434)
    except ValueError as error:
        raise ConfigurationError(f"{given!r} is no address of an Ollama server: {error}.") from error
    host = parts.hostname or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if parts.scheme not in ("http", "https") or any(char.isspace() for char in host):
        raise ConfigurationError(f"{given!r} is no address of an Ollama server. Write http://host:11434.")
    path = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/api")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def models(base: str, timeout: float = 0.5) -> list[OllamaModel]:
    """Return the server's models, the newest first.

    Raises:
        OllamaUnreachableError: nothing answers there, or it is not Ollama.
    """
    rows = _ask(f"{base}/api/tags", None, timeout).get("models") or []
    found = [
        OllamaModel(
            name=str(row.get("name")),
            size=int(row.get("size") or 0),
            modified=str(row.get("modified_at") or ""),
            family=str((row.get("details") or {}).get("family") or ""),
            parameters=str((row.get("details") or {}).get("parameter_size") or ""),
        )
        for row in rows
        if isinstance(row, dict) and row.get("name")
    ]
    return sorted(found, key=lambda model: model.modified, reverse=True)


def window(base: str, model: str, timeout: float = 2.0) -> int | None:
    """Return the window that a model was trained for, or None if the server does not say."""
    try:
        info = _ask(f"{base}/api/show", {"model": model}, timeout).get("model_info") or {}
    except OllamaUnreachableError:
        return None
    sizes = [value for key, value in info.items() if key.endswith(".context_length") and isinstance(value, int)]
    return next((size for size in sizes if size > 0), None)


def running(base: str, timeout: float = 2.0) -> dict[str, int]:
    """Return the loaded models with the window that was allocated for each.

    Raises:
        OllamaUnreachableError: nothing answers there, or it is not Ollama.
    """
    rows = _ask(f"{base}/api/ps", None, timeout).get("models") or []
    return {str(row["name"]): int(row.get("context_length") or 0) for row in rows}


def version(base: str, timeout: float = 0.5) -> str:
    """Return the server's version.

    Raises:
        OllamaUnreachableError: nothing answers there, or it is not Ollama.
    """
    return str(_ask(f"{base}/api/version", None, timeout).get("version", "unknown"))


def _ask(url: str, body: Any, timeout: float) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    # A proxy from the environment cannot reach this machine's own server.
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(request, timeout=timeout) as reply:
            answer = json.loads(reply.read(20_000_000))
    except urllib.error.HTTPError as error:
        with error:
            raise OllamaUnreachableError(f"{url} answered with HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OllamaUnreachableError(f"{url} does not answer as an Ollama server does ({reason})") from error
    if not isinstance(answer, dict):
        raise OllamaUnreachableError(f"{url} does not answer as an Ollama server does")
    return answer
