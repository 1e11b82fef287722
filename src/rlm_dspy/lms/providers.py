"""The default model, the table of providers, and the route to a model."""

from __future__ import annotations

import math
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from rlm_dspy import local_servers
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import ollama
from rlm_dspy.lms.rate_limits import SharedPace

OFFLINE = "offline"
GROQ_MODEL = "groq/openai/gpt-oss-20b"


@dataclass(frozen=True)
class ModelChoice:
    """A model, and the reason for choosing it."""

    model: str
    reason: str

    @property
    def offline(self) -> bool:
        """Whether the model is the offline engine."""
        return self.model == OFFLINE


def choose(explicit: str | None, env: Mapping[str, str], by: str = "the caller") -> ModelChoice:
    """Choose a model: the given one, ``RLM_DSPY_MODEL``, Groq with a key, Ollama's newest, or the offline engine.

    Args:
        explicit: a model's name, if one is given.
        env: the environment variables.
        by: who gave the name, for the reason.
    """
    if explicit and explicit.strip():
        return ModelChoice(explicit.strip(), f"named by {by}")
    if named := env.get("RLM_DSPY_MODEL", "").strip():
        return ModelChoice(named, "named by RLM_DSPY_MODEL")
    if env.get("GROQ_API_KEY", "").strip():
        return ModelChoice(GROQ_MODEL, "GROQ_API_KEY is set")
    base = ollama.base_url(env)
    try:
        models = [model for model in ollama.models(base) if model.chats]
    except ollama.OllamaUnreachableError:
        return ModelChoice(OFFLINE, f"no model is set, GROQ_API_KEY is not set, and no Ollama answers at {base}")
    if not models:
        return ModelChoice(OFFLINE, f"the Ollama at {base} has no chat model (ollama pull qwen3:8b)")
    return ModelChoice(f"ollama_chat/{models[0].name}", f"the newest model of the Ollama at {base}")


NUM_CTX_LIMIT = 32_768  # a window costs memory on the server; raise it with num_ctx=


@dataclass(frozen=True)
class Provider:
    """One row of the table of provider defaults."""

    name: str
    prefix: str
    key: str | None = None  # the environment variable that holds the key
    per_minute: int | None = None  # requests allowed by the smallest plan
    local: bool = False
    base: str | None = None  # the provider's server, if not left to LiteLLM
    models: tuple[str, ...] = ()  # names for "did you mean"
    batches: str | None = None  # the protocol of its batches: "openai", "together" or "anthropic"; None: it has none
    batch_base: str | None = None  # where they are, if ``base`` is left to LiteLLM


PROVIDERS: tuple[Provider, ...] = (
    Provider("Ollama", "ollama_chat/", local=True),
    Provider(
        "Groq",
        "groq/",
        key="GROQ_API_KEY",
        per_minute=30,
        base="https://api.groq.com/openai/v1",
        models=("groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-120b"),
        batches="openai",
    ),
    Provider("OpenAI", "openai/", key="OPENAI_API_KEY", batches="openai", batch_base="https://api.openai.com/v1"),
    Provider(
        "Anthropic",
        "anthropic/",
        key="ANTHROPIC_API_KEY",
        batches="anthropic",
        batch_base="https://api.anthropic.com/v1",
    ),
    Provider(
        "OpenRouter",
        "openrouter/",
        key="OPENROUTER_API_KEY",
        batches="openai",
        batch_base="https://openrouter.ai/api/v1",
    ),
    Provider("Gemini", "gemini/", key="GEMINI_API_KEY"),
    Provider("Mistral", "mistral/", key="MISTRAL_API_KEY"),
    Provider("DeepSeek", "deepseek/", key="DEEPSEEK_API_KEY"),
    Provider("vLLM", "hosted_vllm/", local=True, batches="openai"),
    Provider("LM Studio", "lm_studio/", local=True),
    Provider("llama.cpp", "llamafile/", local=True, batches="openai"),
    # Without ``key``, since LiteLLM also knows other variables for it.
    Provider("Together", "together_ai/", batches="together", batch_base="https://api.together.xyz/v1"),
)


@dataclass(frozen=True)
class Route:
    """How to reach one model; ``api_key`` and ``headers`` are never shown, and like ``pace`` never saved."""

    model: str
    api_base: str | None = field(default=None, repr=False)  # may contain a password
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    timeout: float = 120.0  # seconds for one attempt; for a stream, seconds of silence
    num_ctx: int | None = None
    keep_alive: str | int | None = "10m"
    think: bool | str | None = None
    requests_per_minute: int | None = None
    concurrency: int | None = None
    fallback: str | None = None
    retries: int = 3
    pace: SharedPace | None = field(default=None, repr=False)  # None: this process paces itself

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\S+", self.model):
            raise ConfigurationError(f"{self.model!r} is not a model name. Write provider/model, such as {_EXAMPLES}.")
        if self.model.startswith("ollama/"):
            object.__setattr__(self, "model", "ollama_chat/" + self.model.removeprefix("ollama/"))
        if type(self.timeout) not in (int, float) or not 0 < self.timeout < math.inf:
            raise ConfigurationError(f"timeout must be a number above 0, not {self.timeout!r}.")
        for name in ("num_ctx", "requests_per_minute", "concurrency"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value <= 0):
                raise ConfigurationError(f"{name} must be a whole number above 0, not {value!r}.")
        if type(self.retries) is not int or self.retries < 0:
            raise ConfigurationError(f"num_retries must be 0 or more, not {self.retries!r}.")
        if self.is_ollama:
            ollama.base_url(os.environ, self.api_base)
        elif self.own_base and not _is_address(self.own_base):
            example = "Write it like http://127.0.0.1:8000/v1."
            raise ConfigurationError(
                f"the address of {self.model} ({self.address_source}) is not a valid URL. {example}"
            )
        if self.fallback not in (None, OFFLINE):
            Route(str(self.fallback))  # report a wrong name now, not when it is needed

    @cached_property
    def provider(self) -> Provider:
        """The provider's row; for an unknown provider, it has only the name."""
        known = next((row for row in PROVIDERS if self.model.startswith(row.prefix)), None)
        if "/" in self.model:
            prefix = self.model.partition("/")[0]
        else:
            prefix = "openai"
        return known or Provider(prefix, f"{prefix}/", key=f"{prefix.upper()}_API_KEY")

    @property
    def is_ollama(self) -> bool:
        """Whether the model is served by Ollama."""
        return self.model.startswith("ollama_chat/")

    @property
    def base(self) -> str | None:
        """The server's address, if it is not the provider's public one."""
        if self.is_ollama:
            return ollama.base_url(os.environ, self.api_base)
        return self.own_base or self.provider.base

    @property
    def batch_base(self) -> str | None:
        """The address of the provider's batches, None if unknown."""
        if self.is_ollama:
            return None
        return self.own_base or self.provider.batch_base or self.provider.base

    @property
    def own_base(self) -> str | None:
        """The user's address, from the option or from a variable such as ``GROQ_API_BASE``."""
        return local_servers.chosen_address(self.provider.prefix, self.api_base)

    @property
    def access(self) -> local_servers.Access | None:
        """How to query the user's own server; None if there is none."""
        if self.is_ollama:
            return None
        return local_servers.access_to(self.model, self.api_base, self.key, self.sent_headers)

    @cached_property
    def _variable_stem(self) -> str:
        return self.provider.prefix.rstrip("/").upper()

    @property
    def address_variable(self) -> str:
        """The environment variable that names the server."""
        return f"{self._variable_stem}_API_BASE"

    @property
    def address_source(self) -> str:
        """Where the user sets the server's address: the option, or the variables and the setting."""
        if self.api_base:
            return "api_base"
        if self._variable_stem == "OPENAI":
            setting = " or the setting openai_api_base"
        else:
            setting = ""
        return f"{self.address_variable}, {self._variable_stem}_BASE_URL{setting}"

    @property
    def server_name(self) -> str:
        """How messages name the server: by its address if anybody's may be there, else by its provider."""
        if self.provider.prefix == local_servers.OPENAI and self.own_base:
            return f"the server at {local_servers.shown_address(self.own_base)}"
        return self.provider.name

    @property
    def server_key(self) -> str:
        """What the limits and slots of the server are kept under."""
        return self.base or self.provider.name

    @property
    def keyless(self) -> bool:
        """Whether no key is needed: for local servers, and OpenAI-compatible ones at an address the user gave."""
        row = self.provider
        known = row in PROVIDERS
        return row.key is None or not known or bool(self.api_base or (row.prefix == "openai/" and self.own_base))

    @property
    def wire_model(self) -> str:
        """The model string passed to LiteLLM.

        Groq is used as a generic OpenAI server: LiteLLM's own Groq path drops the rate-limit headers and fails
        if a reply has no ``service_tier``.
        """
        if self.model.startswith("groq/"):
            return f"openai/{self.model.removeprefix('groq/')}"
        return self.model

    @property
    def key(self) -> str | None:
        """The key to use now, from the option or the environment."""
        found = self.api_key or os.environ.get(self.provider.key or local_servers.key_variable(self.model), "")
        return found.strip() or None

    @property
    def sends_address_credentials(self) -> bool:
        """Whether the address has a user name and the user gives no header in place of it."""
        has_name = not self.is_ollama and urlsplit(self.own_base or "").username is not None
        return has_name and "authorization" not in map(str.lower, self.headers or ())

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers to send: the user's, and the user name and password of the address in place of a key."""
        given = dict(self.headers or {})
        if self.sends_address_credentials:
            parts = urlsplit(self.own_base or "")
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            given["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        return given

    @property
    def secrets(self) -> list[str]:
        """Values that must not be shown, longest first: key, password, headers and their last words."""
        password = (None if self.is_ollama else urlsplit(self.own_base or "").password) or ""
        headers = self.sent_headers.values()
        words = (value.split()[-1] for value in headers if value.strip())
        given = [self.key or "", password, unquote(password), *headers, *words]
        return sorted((value for value in given if len(value) >= 4), key=len, reverse=True)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for LiteLLM besides the request."""
        settings: dict[str, Any] = {"timeout": self.timeout, "max_retries": 0}
        if self.base:
            settings["api_base"] = _without_credentials(self.base)  # HTTP clients refuse them beside a key
        if self.key:
            settings["api_key"] = self.key
        elif self.own_base and not self.is_ollama:
            settings["api_key"] = "none"  # the OpenAI client insists on one; local servers ignore it
        if headers := self.sent_headers:
            settings["extra_headers"] = headers
        if self.is_ollama:
            settings |= {"num_ctx": self.window(), "keep_alive": self.keep_alive, "extra_body": {"truncate": False}}
            if self.think is not None:
                settings["think"] = self.think
        return settings

    @property
    def is_streamed(self) -> bool:
        """Whether every reply is streamed: only then does llama.cpp notice that the client has disconnected."""
        server = local_servers.server_at(self.access)
        return server is not None and server.kind == "llama.cpp"

    @property
    def slots(self) -> int | None:
        """The limit of concurrent requests to the server, or None."""
        if self.concurrency or self.is_ollama:
            return self.concurrency or _ollama_slots()
        server = local_servers.server_at(self.access)
        if server is None:
            return None
        return server.slots

    def fallback_route(self) -> Route:
        """Return the route of the fallback, with the user's settings that apply to any model."""
        kept = {name: getattr(self, name) for name in ("timeout", "num_ctx", "keep_alive", "retries", "pace")}
        return Route(str(self.fallback), **kept)

    @property
    def name(self) -> str:
        """The model's name on its server."""
        return self.model.partition("/")[2] or self.model

    def served_window(self) -> int | None:
        """Return the window that the server gives the model, or None if unknown."""
        if self.is_ollama:
            return self.window()
        return local_servers.window_of(self.access, self.name)

    def window(self) -> int:
        """Return the window to request from Ollama: the model's own, up to a limit that ``num_ctx`` overrides."""
        return self.num_ctx or _cached_window(self.base or "", self.model.partition("/")[2])

    def state(self) -> dict[str, Any]:
        """Return the state for a saved program: everything except secrets."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["api_base"] = self.api_base and _without_credentials(self.api_base)
        return {name: value for name, value in fields.items() if name not in ("api_key", "headers", "pace")}


def _without_credentials(address: str) -> str:
    """Return an address without its user name and password."""
    parts = urlsplit(address)
    if "@" in parts.netloc:
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return address


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


_EXAMPLES = "ollama_chat/qwen3:8b or groq/openai/gpt-oss-20b"
_windows: dict[tuple[str, str], int] = {}


def _cached_window(base: str, model: str) -> int:
    # Asked once: a window that changes between calls would reload the model and lose its prefix cache.
    if (base, model) not in _windows:
        found = ollama.trained_window(base, model)
        if found is None:
            return min(NUM_CTX_LIMIT, 8192)
        _windows[base, model] = min(NUM_CTX_LIMIT, found)
    return _windows[base, model]


def _ollama_slots() -> int:
    slots = os.environ.get("OLLAMA_NUM_PARALLEL", "")
    if slots.isdecimal() and int(slots) > 0:
        return int(slots)
    return 1
