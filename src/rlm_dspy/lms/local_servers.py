"""What the user's own OpenAI-compatible server is, and the window that it gives: llama.cpp, LM Studio, vLLM, others.

Only a server at an address that the user chose is asked, and never a cloud provider. Whatever answers is not trusted:
an answer is read up to a size and a time, redirects are not followed, values of a wrong type count as not told, and
no key, password or text of the server's gets into a message.
"""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

Kind = Literal["llama.cpp", "LM Studio", "vLLM", "an OpenAI-compatible server"]

OTHER: Kind = "an OpenAI-compatible server"
TIMEOUT_SECONDS = 2.0  # seconds for one answer
MOST_BYTES = 4_000_000
MOST_MODELS = 500
MOST_TOKENS = 100_000_000
LONGEST_NAME = 200
ASK_AGAIN = 30.0  # seconds after which a server is asked again that did not answer, or whose answer may change

# Prefixes of models that speak OpenAI's wire; at those that name a kind of server, any host may be the user's own.
OPENAI = "openai/"
SELF_HOSTED = ("hosted_vllm/", "lm_studio/", "llamafile/")
CLOUDS = (
    "openai.com", "azure.com", "groq.com", "anthropic.com", "openrouter.ai", "mistral.ai", "deepseek.com",
    "googleapis.com", "amazonaws.com", "together.xyz", "together.ai", "fireworks.ai", "perplexity.ai", "x.ai",
    "cerebras.ai", "sambanova.ai", "nvidia.com", "huggingface.co", "deepinfra.com", "cohere.com", "cohere.ai",
    "databricks.com", "aliyuncs.com", "moonshot.ai", "moonshot.cn", "novita.ai", "hyperbolic.xyz", "replicate.com",
)  # fmt: skip
_LOCAL_NAMES = (".local", ".localhost", ".lan", ".internal", ".home.arpa")


class ServerUnreachableError(Exception):
    """The server did not answer as one with OpenAI's wire; ``has_answered`` tells whether anybody did."""

    def __init__(self, message: str, *, has_answered: bool) -> None:
        super().__init__(message)
        self.has_answered = has_answered


@dataclass(frozen=True)
class ServedModel:
    """A model of a server: the window that it has there now, and the largest that it could have."""

    name: str
    window: int | None = None
    largest: int | None = None


@dataclass(frozen=True)
class LocalServer:
    """A server that answered; ``slots`` is how many requests it serves at once, if it tells."""

    base: str
    kind: Kind = OTHER
    models: tuple[ServedModel, ...] = ()
    slots: int | None = None
    slot_window: int | None = None

    def has_model(self, name: str) -> bool:
        """Tell whether a model of this name is served."""
        return any(model.name == name for model in self.models)

    def window_of(self, name: str) -> int | None:
        """Return the window of a model; llama.cpp answers with the one that it has, whatever name it is asked for."""
        if self.slot_window is not None:
            return self.slot_window
        return next((model.window for model in self.models if model.name == name), None)


@dataclass(frozen=True)
class Access:
    """How to ask a server: the address, and what it is shown, which no text shows."""

    base: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    timeout: float = TIMEOUT_SECONDS


def chosen_address(model: str, given: str | None, env: Mapping[str, str] | None = None) -> str | None:
    """Return the address that the user gave: the option's, else that of a variable such as ``OPENAI_API_BASE``."""
    env = os.environ if env is None else env
    names = (f"{_variable_stem(model)}_API_BASE", f"{_variable_stem(model)}_BASE_URL")
    found = given or next(filter(None, map(env.get, names)), "")
    return found.strip() or None


def key_variable(model: str) -> str:
    """Return the variable that holds the key of a model's server."""
    return f"{_variable_stem(model)}_API_KEY"


def access_to(
    model: str, given: str | None, key: str | None = None, headers: Mapping[str, str] | None = None
) -> Access | None:
    """Return how to ask the server of a model what it is, or None if it is not the user's own."""
    base = chosen_address(model, given)
    if base is None or not may_be_asked(model, base):
        return None
    return Access(base, key or os.environ.get(key_variable(model), "").strip() or None, headers)


def may_be_asked(model: str, base: str) -> bool:
    """Tell whether a server is the user's own.

    With ``openai/`` its host must be this machine's, a private address, or a name that only a local network knows;
    with a prefix that names a kind of server, it must only be none of the cloud's.
    """
    try:
        host = (urlsplit(base).hostname or "").rstrip(".")
    except ValueError:
        return False
    if not host or urlsplit(base).scheme not in ("http", "https"):
        return False
    if model.startswith(SELF_HOSTED):
        return not any(host == cloud or host.endswith(f".{cloud}") for cloud in CLOUDS)
    return (model.startswith(OPENAI) or "/" not in model) and _is_private(host)


def window_of(access: Access | None, name: str) -> int | None:
    """Return the window that a server gives a model, or None if it does not tell."""
    server = server_at(access)
    return None if server is None else server.window_of(name)


def server_at(access: Access | None) -> LocalServer | None:
    """Return what is known of a server, which is asked once; None if it does not answer."""
    if access is None:
        return None
    with _asking:
        asked_at, server = _asked.get(access.base, (None, None))
        # LM Studio's user loads and unloads models while it runs.
        may_change = server is None or server.kind == "LM Studio"
        if asked_at is None or (may_change and time.monotonic() - asked_at > ASK_AGAIN):
            try:
                server = ask_server(access)
            except ServerUnreachableError:
                server = None
            _asked[access.base] = time.monotonic(), server
        return server


def forget_server(base: str | None) -> None:
    """Have a server asked again: what it said of its window was not so."""
    with _asking:
        _asked.pop(base or "", None)


_asked: dict[str, tuple[float, LocalServer | None]] = {}
_asking = threading.Lock()


def ask_server(access: Access) -> LocalServer:
    """Ask a server what it is.

    Raises:
        ServerUnreachableError: nothing answers there, or not with a list of models.
    """
    shown = shown_address(access.base)
    base = shown.rstrip("/")
    listed = _fetch_json(f"{base}/models", access)
    rows = listed.get("data")
    if not isinstance(rows, list):
        raise ServerUnreachableError(f"{base}/models does not list models as OpenAI does", has_answered=True)
    rows = [row for row in rows[:MOST_MODELS] if isinstance(row, dict) and is_shown(row.get("id"))]
    owners = {row["owned_by"] for row in rows if isinstance(row.get("owned_by"), str)}
    if "llamacpp" in owners:
        return _llama_cpp(shown, rows, _asked_beside(access, "/props"))
    if "vllm" in owners:
        return LocalServer(shown, "vLLM", tuple(_served_model(row, "id", "max_model_len") for row in rows))
    known = _asked_beside(access, "/api/v0/models").get("data")
    if isinstance(known, list) and any(_is_of_lm_studio(row) for row in known):
        return _lm_studio(shown, known)
    return LocalServer(shown, OTHER, tuple(_served_model(row, "id", "max_model_len") for row in rows))


def shown_address(base: str) -> str:
    """Return an address without the name and password that may be in it."""
    parts = urlsplit(base)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _llama_cpp(base: str, rows: list[dict[str, Any]], props: dict[str, Any]) -> LocalServer:
    """Read a llama-server: its window is that of a slot, the same for all."""
    settings = props.get("default_generation_settings")
    window = _positive_count(settings.get("n_ctx")) if isinstance(settings, dict) else None
    models = []
    for row in rows:
        meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
        models.append(
            ServedModel(
                row["id"], window or _positive_count(meta.get("n_ctx")), _positive_count(meta.get("n_ctx_train"))
            )
        )
    return LocalServer(base, "llama.cpp", tuple(models), _positive_count(props.get("total_slots")), window)


def _lm_studio(base: str, rows: list[Any]) -> LocalServer:
    """Read LM Studio's own list: only of a loaded model is the window known."""
    models = []
    for row in rows[:MOST_MODELS]:
        if _is_of_lm_studio(row) and row.get("type") != "embeddings":
            served = _served_model(row, "id", "loaded_context_length")
            window = served.window if row.get("state") == "loaded" else None
            models.append(ServedModel(served.name, window, _positive_count(row.get("max_context_length"))))
    return LocalServer(base, "LM Studio", tuple(models))


def _is_of_lm_studio(row: Any) -> bool:
    return isinstance(row, dict) and is_shown(row.get("id")) and "state" in row and "max_context_length" in row


def _served_model(row: dict[str, Any], name: str, window: str) -> ServedModel:
    return ServedModel(row[name], _positive_count(row.get(window)))


def is_shown(value: Any) -> bool:
    """Tell whether a model's name can be shown and sent."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _positive_count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= MOST_TOKENS else None


def _asked_beside(access: Access, path: str) -> dict[str, Any]:
    """Return what is told at a path beside ``/v1``; empty if nothing is."""
    root = shown_address(access.base).rstrip("/").removesuffix("/v1")
    try:
        return _fetch_json(root + path, access)
    except ServerUnreachableError:
        return {}


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Opens an address and nothing that it redirects to."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: a key is sent only where the user said."""


def _fetch_json(url: str, access: Access) -> dict[str, Any]:
    headers = dict(access.headers or {})
    if access.key:
        headers.setdefault("Authorization", f"Bearer {access.key}")
    handlers: list[Any] = [NoRedirects]
    if _is_private(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's own servers
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=access.timeout) as reply:
            answer = json.loads(read_bounded(reply, time.monotonic() + access.timeout))
    except urllib.error.HTTPError as error:
        with error:
            raise ServerUnreachableError(f"{url} answered with HTTP {error.code}", has_answered=True) from None
    except urllib.error.URLError as error:
        name = type(error.reason).__name__ if isinstance(error.reason, Exception) else "no connection"
        raise ServerUnreachableError(f"nothing answers at {url} ({name})", has_answered=False) from None
    except (TimeoutError, ConnectionError):
        raise ServerUnreachableError(f"{url} did not answer within {access.timeout:g} s", has_answered=False) from None
    except (OSError, HTTPException, ValueError, RecursionError):
        # Why is not told: the server's text and our headers may stand in the exception.
        raise ServerUnreachableError(f"{url} did not answer with JSON", has_answered=True) from None
    if not isinstance(answer, dict):
        raise ServerUnreachableError(f"{url} did not answer with a JSON object", has_answered=True)
    return answer


def read_bounded(reply: Any, until: float) -> bytes:
    """Read an answer that is neither too long nor too slow.

    Raises:
        ValueError: it is too long.
        TimeoutError: it is too slow.
    """
    parts = []
    left = MOST_BYTES
    while part := reply.read1(min(left + 1, 65_536)):
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise ValueError("too long")
        if time.monotonic() > until:
            raise TimeoutError
    return b"".join(parts)


def is_loopback(address: str) -> bool:
    """Tell whether an address (``http://127.0.0.1:11434``, ``localhost:8000``) is one of this machine's own."""
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback or host in ("0.0.0.0", "::")
    except ValueError:
        return False


def _is_private(host: str) -> bool:
    """Tell whether a host is this machine, or one that only a local network knows."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.lower().endswith(_LOCAL_NAMES)


def _variable_stem(model: str) -> str:
    return model.partition("/")[0].upper() if "/" in model else "OPENAI"
