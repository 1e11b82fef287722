"""Detect the user's own OpenAI-compatible server and its window: llama.cpp, LM Studio, vLLM, others.

Only servers at addresses the user chose are asked, never a cloud provider. Answers are not trusted: they are limited in
size and time, redirects are not followed, values of the wrong type are ignored, and no key, password or text from the
server appears in a message.
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

from rlm_dspy.daemon_threads import daemon_future

Kind = Literal["llama.cpp", "LM Studio", "vLLM", "an OpenAI-compatible server"]

OTHER: Kind = "an OpenAI-compatible server"
TIMEOUT_SECONDS = 2.0  # seconds for one answer
MOST_BYTES = 4_000_000
MOST_MODELS = 500
MOST_TOKENS = 100_000_000
LONGEST_NAME = 200
ASK_AGAIN = 30.0  # seconds before asking again a server that did not answer or whose answer may change

# Model prefixes that use OpenAI's API; for those that name a kind of server, any host may be the user's own.
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
    """No OpenAI-compatible answer; ``has_answered`` says whether anything answered."""

    def __init__(self, message: str, *, has_answered: bool) -> None:
        super().__init__(message)
        self.has_answered = has_answered


@dataclass(frozen=True)
class ServedModel:
    """A served model and its current window."""

    name: str
    window: int | None = None


@dataclass(frozen=True)
class LocalServer:
    """A server that answered; ``slots`` is the number of requests it serves at once, if it reports it."""

    base: str
    kind: Kind = OTHER
    models: tuple[ServedModel, ...] = ()
    slots: int | None = None
    slot_window: int | None = None

    def has_model(self, name: str) -> bool:
        """Return whether the server has a model of this name."""
        return any(model.name == name for model in self.models)

    def window_of(self, name: str) -> int | None:
        """Return the window of a model; llama.cpp uses its only model for any name."""
        if self.slot_window is not None:
            return self.slot_window
        return next((model.window for model in self.models if model.name == name), None)


@dataclass(frozen=True)
class Access:
    """How to reach a server: the address, and credentials, which are never shown."""

    base: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    timeout: float = TIMEOUT_SECONDS


def chosen_address(model: str, explicit: str | None, env: Mapping[str, str] | None = None) -> str | None:
    """Return the address from the option, or from a variable such as ``OPENAI_API_BASE``."""
    env = os.environ if env is None else env
    names = (f"{_variable_stem(model)}_API_BASE", f"{_variable_stem(model)}_BASE_URL")
    address = explicit or next(filter(None, map(env.get, names)), "")
    return address.strip() or None


def key_variable(model: str) -> str:
    """Return the name of the variable with the key of a model's server."""
    return f"{_variable_stem(model)}_API_KEY"


def access_to(
    model: str, explicit: str | None, key: str | None = None, headers: Mapping[str, str] | None = None
) -> Access | None:
    """Return how to reach a model's server, or None if it is not the user's own."""
    base = chosen_address(model, explicit)
    if base is None or not may_be_asked(model, base):
        return None
    return Access(base, key or os.environ.get(key_variable(model), "").strip() or None, headers)


def may_be_asked(model: str, base: str) -> bool:
    """Return whether a server is the user's own and may be queried.

    With ``openai/``, the host must be this machine, a private address, or a name known only in a local network. With a
    prefix that names a kind of server, any host except a cloud provider's will do.
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
    """Return the window that a server gives a model, or None if it does not report it."""
    server = server_at(access)
    if server is None:
        return None
    return server.window_of(name)


def server_at(access: Access | None) -> LocalServer | None:
    """Return what is known about a server, which is asked once; None if it does not answer."""
    if access is None:
        return None
    with _asking:
        asked_at, server = _asked.get(access.base, (None, None))
        # Users load and unload models in LM Studio while it runs.
        may_change = server is None or server.kind == "LM Studio"
        if asked_at is None or (may_change and time.monotonic() - asked_at > ASK_AGAIN):
            try:
                server = ask_server(access)
            except ServerUnreachableError:
                server = None
            _asked[access.base] = time.monotonic(), server
        return server


def forget_server(base: str | None) -> None:
    """Forget a server's answer, because its window was wrong; it will be asked again."""
    with _asking:
        _asked.pop(base or "", None)


_asked: dict[str, tuple[float, LocalServer | None]] = {}
_asking = threading.Lock()


def ask_server(access: Access) -> LocalServer:
    """Query a server for its kind and its models.

    Raises:
        ServerUnreachableError: nothing answers there, or the answer is not a list of models.
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
        return _llama_cpp(shown, rows, _fetch_beside(access, "/props"))
    if "vllm" in owners:
        return LocalServer(shown, "vLLM", tuple(_served_model(row, "max_model_len") for row in rows))
    known = _fetch_beside(access, "/api/v0/models").get("data")
    if isinstance(known, list) and any(_is_lm_studio_row(row) for row in known):
        return _lm_studio(shown, known)
    return LocalServer(shown, OTHER, tuple(_served_model(row, "max_model_len") for row in rows))


def shown_address(base: str) -> str:
    """Return an address without its user name and password."""
    parts = urlsplit(base)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _llama_cpp(base: str, rows: list[dict[str, Any]], props: dict[str, Any]) -> LocalServer:
    """Parse the answers of a llama-server: its window is per slot, the same for all models."""
    settings = props.get("default_generation_settings")
    if isinstance(settings, dict):
        window = _positive_count(settings.get("n_ctx"))
    else:
        window = None
    models = []
    for row in rows:
        meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
        models.append(ServedModel(row["id"], window or _positive_count(meta.get("n_ctx"))))
    return LocalServer(base, "llama.cpp", tuple(models), _positive_count(props.get("total_slots")), window)


def _lm_studio(base: str, rows: list[Any]) -> LocalServer:
    """Parse LM Studio's own list: the window is known only for loaded models."""
    models = []
    for row in rows[:MOST_MODELS]:
        if _is_lm_studio_row(row) and row.get("type") != "embeddings":
            is_loaded = row.get("state") == "loaded"
            models.append(_served_model(row, "loaded_context_length") if is_loaded else ServedModel(row["id"]))
    return LocalServer(base, "LM Studio", tuple(models))


def _is_lm_studio_row(row: Any) -> bool:
    return isinstance(row, dict) and is_shown(row.get("id")) and "state" in row and "max_context_length" in row


def _served_model(row: dict[str, Any], window: str) -> ServedModel:
    return ServedModel(row["id"], _positive_count(row.get(window)))


def is_shown(value: Any) -> bool:
    """Return whether a model's name can be shown and sent."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _positive_count(value: Any) -> int | None:
    if type(value) is int and 0 < value <= MOST_TOKENS:
        return value
    return None


def _fetch_beside(access: Access, path: str) -> dict[str, Any]:
    """Return the answer at a path next to ``/v1``, or an empty dict."""
    root = shown_address(access.base).rstrip("/").removesuffix("/v1")
    try:
        return _fetch_json(root + path, access)
    except ServerUnreachableError:
        return {}


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, so that a key is sent only to the address the user chose."""


def _fetch_json(url: str, access: Access) -> dict[str, Any]:
    headers = dict(access.headers or {})
    if access.key:
        headers.setdefault("Authorization", f"Bearer {access.key}")
    handlers: list[Any] = [NoRedirects]
    if _is_private(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's own servers
    opener = urllib.request.build_opener(*handlers)

    def fetch() -> bytes:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=access.timeout) as reply:
            return read_bounded(reply, time.monotonic() + access.timeout)

    try:
        # In a thread of its own, because headers that drip have no overall timeout.
        answer = json.loads(daemon_future(fetch).result(access.timeout))
    except urllib.error.HTTPError as error:
        with error:
            raise ServerUnreachableError(f"{url} answered with HTTP {error.code}", has_answered=True) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, Exception):
            name = type(error.reason).__name__
        else:
            name = "no connection"
        raise ServerUnreachableError(f"nothing answers at {url} ({name})", has_answered=False) from None
    except (TimeoutError, ConnectionError):
        raise ServerUnreachableError(f"{url} did not answer within {access.timeout:g} s", has_answered=False) from None
    except (OSError, HTTPException, ValueError, RecursionError):
        # The reason is omitted: the exception may contain the server's text and our headers.
        raise ServerUnreachableError(f"{url} did not answer with JSON", has_answered=True) from None
    if not isinstance(answer, dict):
        raise ServerUnreachableError(f"{url} did not answer with a JSON object", has_answered=True)
    return answer


def read_bounded(reply: Any, until: float) -> bytes:
    """Read an answer within limits of size and time.

    Raises:
        ValueError: the answer is too long.
        TimeoutError: the answer is too slow.
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
    """Return whether an address (``http://127.0.0.1:11434``, ``localhost:8000``) is on this machine."""
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback or host in ("0.0.0.0", "::")
    except ValueError:
        return False


def _is_private(host: str) -> bool:
    """Return whether a host is this machine, or known only in a local network."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.lower().endswith(_LOCAL_NAMES)


def _variable_stem(model: str) -> str:
    if "/" in model:
        return model.partition("/")[0].upper()
    return "OPENAI"
