"""List the available models and check the chosen one: data for ``models`` and ``doctor``."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import dspy
from dspy.utils.exceptions import LMError

from rlm_dspy import local_servers
from rlm_dspy._dspy import get_litellm, model_table
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import LMUnavailableError
from rlm_dspy.lms import ollama, windows
from rlm_dspy.lms.engine import AsyncRoutedEngine, RoutedEngine
from rlm_dspy.lms.errors import unknown_provider
from rlm_dspy.lms.offline import MODEL as OFFLINE_NAME
from rlm_dspy.lms.providers import OFFLINE, PROVIDERS, ModelChoice, Provider, Route, choose
from rlm_dspy.local_servers import Access, LocalServer, ServerUnreachableError
from rlm_dspy.metering import metadata

_CANARY = "The word to remember is heliotrope. "
SLOW_REPLY_SECONDS = 15.0  # a reply of a few words that takes longer is worth a warning
MIN_WINDOW_TOKENS = 8_192  # tokens of a window with room for the instructions and a few steps
_FILLER = "This line only takes up room in the prompt. "


@dataclass(frozen=True)
class ModelRow:
    """An available model; prices are US dollars per million tokens, None if unknown."""

    name: str
    provider: str
    window: int | None = None
    bytes: int | None = None
    input_price: float | None = None
    output_price: float | None = None


@dataclass(frozen=True)
class DiagnosisLine:
    """One line of a diagnosis: the finding, and how to fix it if it is not ok."""

    status: Literal["ok", "warning", "failure"]
    what: str
    fix: str = ""


@dataclass(frozen=True)
class ModelListing:
    """The models that can be reached now, and the default one."""

    rows: tuple[ModelRow, ...]
    choice: ModelChoice
    notes: tuple[str, ...] = ()


def list_models(env: Mapping[str, str] | None = None, *, everything: bool = False) -> ModelListing:
    """List the models of Ollama and own servers, Groq's with a key, and on request LiteLLM's whole table."""
    env = os.environ if env is None else env
    base = ollama.base_url(env)
    rows: list[ModelRow] = []
    notes: list[str] = []
    try:
        for model in ollama.models(base):
            name = f"ollama_chat/{model.name}"
            rows.append(ModelRow(name, "Ollama", ollama.trained_window(base, model.name), model.size, 0.0, 0.0))
    except ollama.OllamaUnreachableError:
        notes.append(f"no Ollama answers at {base}")
    for provider in PROVIDERS:
        found, note = _own_models(provider, env)
        rows += found
        if note:
            notes.append(note)
        if provider.key and env.get(provider.key, "").strip():
            rows += [_row_of_entry(name, provider.name, metadata(name)) for name in provider.models]
            if not provider.models:
                notes.append(f"{provider.key} is set: {provider.prefix}… models can be used")
    if not env.get("GROQ_API_KEY", "").strip():
        notes.append("GROQ_API_KEY is not set")
    if everything:
        known = {row.name for row in rows}
        rows += [row for row in _litellm_rows() if row.name not in known]
    return ModelListing(tuple(rows), choose(None, env), tuple(notes))


def probe_provider(model: str, **options: Any) -> tuple[DiagnosisLine, ...]:
    """Diagnose a model: key, server, name, window (tested with a long prompt on Ollama), and a short round trip."""
    route = Route(model, retries=0, **options)
    checks = [*_check_key(route), *_check_server(route)]
    if any(check.status == "failure" for check in checks):
        return tuple(checks)
    lm = dspy.LM(
        route.model, engine=RoutedEngine(route), async_engine=AsyncRoutedEngine(route), cache=False, num_retries=0
    )
    checks += _round_trip(lm)
    if route.is_ollama and checks[-1].status == "ok":
        checks += [_check_slots(route), *_check_window(lm, route)]
    return tuple(checks)


def check_name(model: str) -> None:
    """Refuse a model's name that LiteLLM cannot route; LiteLLM is imported only for one that no table has.

    Raises:
        ConfigurationError: it is not a model name.
        LMUnavailableError: it names no provider, or one that LiteLLM does not know.
    """
    route = Route(model)
    if model in (OFFLINE, OFFLINE_NAME) or route.provider in PROVIDERS:
        return
    prefix, slash, _ = model.partition("/")
    table = model_table()
    if model in table or (slash and any(name.startswith(f"{prefix}/") for name in table)):
        return
    litellm = get_litellm(feature="rlm_dspy.lm")
    if slash and prefix in litellm.provider_list:
        return  # LiteLLM would start a login for some of them
    try:
        litellm.get_llm_provider(route.wire_model, api_base=route.base)
    except litellm.exceptions.BadRequestError as error:
        raise LMUnavailableError(unknown_provider(route).args[0]) from error


def served_models(env: Mapping[str, str]) -> Iterator[tuple[str, LocalServer]]:
    """Yield the models of the user's own servers that answer, each with its server."""
    for provider in PROVIDERS:
        access = _own_access(provider, env)
        server = local_servers.server_at(access)
        if server is None:
            continue
        for model in server.models:
            yield f"{provider.prefix}{model.name}", server


def _own_access(provider: Provider, env: Mapping[str, str]) -> Access | None:
    """Return how to reach the user's own server named by a variable, None if there is none."""
    base = local_servers.chosen_address(provider.prefix, None, env)
    if base is None or not local_servers.may_be_asked(provider.prefix, base):
        return None
    return Access(base, env.get(local_servers.key_variable(provider.prefix)))


def _own_models(provider: Provider, env: Mapping[str, str]) -> tuple[list[ModelRow], str]:
    """Return the models of the user's own server named by a variable, or a note if it lists none."""
    access = _own_access(provider, env)
    if access is None:
        return [], ""
    try:
        server = local_servers.ask_server(access)
    except ServerUnreachableError as error:
        return [], f"{provider.prefix}… models are not listed: {error}"
    named = server.kind if server.kind != local_servers.OTHER else provider.name
    price = 0.0 if provider.local else None
    rows = [ModelRow(f"{provider.prefix}{m.name}", named, m.window, None, price, price) for m in server.models]
    if rows:
        return rows, ""
    return [], f"the server at {server.base} lists no models"


def _litellm_rows() -> list[ModelRow]:
    rows = []
    for name, entry in model_table().items():
        if isinstance(entry, dict) and entry.get("mode") == "chat" and "litellm_provider" in entry:
            provider = str(entry["litellm_provider"])
            if name.startswith(f"{provider}/"):
                full = name
            else:
                full = f"{provider}/{name}"
            rows.append(_row_of_entry(full, provider, entry))
    return sorted(rows, key=lambda row: row.name)


def _row_of_entry(name: str, provider: str, entry: Mapping[str, Any]) -> ModelRow:
    """Return the row of a model from its entry in LiteLLM's table."""
    return ModelRow(
        name,
        provider,
        window=entry.get("max_input_tokens"),
        input_price=_price_per_million(entry.get("input_cost_per_token")),
        output_price=_price_per_million(entry.get("output_cost_per_token")),
    )


def _price_per_million(price: Any) -> float | None:
    if isinstance(price, (int, float)):
        return round(float(price) * 1e6, 6)
    return None


def _check_key(route: Route) -> list[DiagnosisLine]:
    variable = route.provider.key
    if not variable or route.provider.local:
        return []
    if route.key:
        return [DiagnosisLine("ok", f"{variable} is set")]
    if route.keyless:
        return [DiagnosisLine("warning", f"{variable} is not set", "Set it if the server requires a key.")]
    advice = f"Set {variable}, or keep it with `rlm-dspy keys set {variable}`."
    return [DiagnosisLine("failure", f"{variable} is not set", advice)]


def _check_server(route: Route) -> list[DiagnosisLine]:
    if not route.is_ollama:
        if route.access is None:
            return []
        return _own_server(route, route.access)
    base, name = route.base or "", route.model.partition("/")[2]
    try:
        checks = [DiagnosisLine("ok", f"Ollama {ollama.version(base)} answers at {base}")]
        names = {model.name for model in ollama.models(base)}
    except ollama.OllamaUnreachableError as error:
        return [DiagnosisLine("failure", str(error), "Start it (ollama serve) or set OLLAMA_HOST.")]
    if name not in names and f"{name}:latest" not in names:
        fix = f"Pull it: ollama pull {name}; available: {', '.join(sorted(names)) or 'none'}."
        return [*checks, DiagnosisLine("failure", f"{name} is not among the server's models", fix)]
    window = ollama.trained_window(base, name)
    requested = f"{route.window():,} are requested"
    if window:
        return [*checks, DiagnosisLine("ok", f"{name} has a window of {window:,} tokens; {requested}")]
    return [*checks, DiagnosisLine("warning", f"{name} does not report its window; {requested}")]


def _own_server(route: Route, access: Access) -> list[DiagnosisLine]:
    """Check the user's own server: what answers, whether it has the model, and the model's window and slots."""
    try:
        server = local_servers.ask_server(access)
    except ServerUnreachableError as error:
        if error.has_answered:  # it may still be able to chat
            return [DiagnosisLine("warning", str(error), "Check that the address ends in /v1, and the key.")]
        return [DiagnosisLine("failure", str(error), "Start the server or correct its address.")]
    return [
        DiagnosisLine("ok", f"{server.kind} answers at {server.base}"),
        _served_name(server, route.name),
        _served_window(server, route.name),
        *_served_slots(server, route),
    ]


def _served_name(server: LocalServer, name: str) -> DiagnosisLine:
    names = [model.name for model in server.models]
    if server.has_model(name):
        if len(names) > 1:
            place = f"is among its {len(names)} models"
        else:
            place = "is its model"
        return DiagnosisLine("ok", f"{name} {place}")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
    if near:
        fix = f"Use one of its models: {', '.join(near)}."
    else:
        fix = "Load a model there."
    if server.kind == "llama.cpp":
        answers = " (it answers with its only model)"
    else:
        answers = ""
    return DiagnosisLine("warning", f"{name} is not among the server's models{answers}", fix)


def _served_window(server: LocalServer, name: str) -> DiagnosisLine:
    window = server.window_of(name)
    if window is None:
        if server.kind == "LM Studio" and server.has_model(name):
            fix = f"Load it with a context of {MIN_WINDOW_TOKENS:,} tokens or more."
            return DiagnosisLine("warning", f"{name} is not loaded, so its window is unknown", fix)
        fix = f"The published window or {windows.DEFAULT_WINDOW_TOKENS:,} tokens are assumed."
        return DiagnosisLine("warning", f"the window of {name} is unknown", fix)
    each = " for each slot" if server.slots else ""
    if window >= MIN_WINDOW_TOKENS:
        return DiagnosisLine("ok", f"{name} has a window of {window:,} tokens{each}")
    said = f"the window is only {window:,} tokens{each}"
    return DiagnosisLine("warning", said, f"A run needs {MIN_WINDOW_TOKENS:,} or more: {_larger_window(server, name)}.")


def _larger_window(server: LocalServer, name: str) -> str:
    """Return how to give a server a larger window."""
    slots = server.slots or 1
    match server.kind:
        case "llama.cpp":
            if slots > 1:
                shared = f", which its {slots} slots share, or with fewer slots (-np)"
            else:
                shared = ""
            return f"start llama-server with -c {MIN_WINDOW_TOKENS * slots}{shared}"
        case "LM Studio":
            return f"load it with a larger context length (lms load {name} --context-length {MIN_WINDOW_TOKENS})"
        case "vLLM":
            return f"start vLLM with --max-model-len {MIN_WINDOW_TOKENS}"
        case _:
            return "see the server's documentation"


def _served_slots(server: LocalServer, route: Route) -> list[DiagnosisLine]:
    """Compare the number of requests llama.cpp serves at once with the number it is sent."""
    if server.slots is None:
        return []
    served, sent = counted_noun(server.slots, "slot"), route.concurrency or server.slots
    if sent > server.slots:
        what = f"{served}, but {sent} requests are sent at once and wait for each other"
        return [
            DiagnosisLine("warning", what, f"Set concurrency={server.slots}, or start llama-server with -np {sent}.")
        ]
    if sent == server.slots:
        used = "as many requests are sent at once"
    else:
        used = f"{sent} used"
    return [DiagnosisLine("ok", f"{served}, {used}")]


def _round_trip(lm: dspy.LM) -> list[DiagnosisLine]:
    get_litellm(feature="rlm_dspy.lm")  # its import is not the server's time
    began = time.perf_counter()
    try:
        lm("Reply with the word ok.", max_tokens=16)
    except LMError as error:
        return [DiagnosisLine("failure", getattr(error, "message", None) or str(error))]
    seconds = time.perf_counter() - began
    entry = lm.history[-1]
    wrote = (entry["usage"] or {}).get("completion_tokens") or 0
    checks = []
    limits = (entry["response"].provider_data or {}).get("limits") or {}
    if limits:
        shown = ", ".join(f"{name.removeprefix('x-ratelimit-')} {value}" for name, value in sorted(limits.items()))
        checks.append(DiagnosisLine("ok", f"limits: {shown}"))
    message = f"a short reply took {seconds:.1f} s ({wrote / max(seconds, 1e-6):.2g} tokens/s)"
    if seconds <= SLOW_REPLY_SECONDS:
        return [*checks, DiagnosisLine("ok", message)]
    return [
        *checks,
        DiagnosisLine("warning", message, "A question may take minutes: use a smaller or less busy model."),
    ]


def _check_window(lm: dspy.LM, route: Route) -> list[DiagnosisLine]:
    """Test the window: the server must read a whole prompt that is longer than its default window."""
    asked = route.window()
    if asked <= ollama.DEFAULT_WINDOW:
        if route.num_ctx:
            better = "raise RLM_DSPY_NUM_CTX"
        else:
            better = "use a model with a larger window"
        fix = f"A run needs {MIN_WINDOW_TOKENS:,} or more: {better}."
        if asked < ollama.DEFAULT_WINDOW:
            return [DiagnosisLine("failure", f"a window of {asked:,} tokens is too small", fix)]
        return [DiagnosisLine("warning", f"the window is only {asked:,} tokens", fix)]
    sent = min(asked - 1024, ollama.DEFAULT_WINDOW + 1500)
    prompt = _CANARY + _FILLER * (sent * 4 // len(_FILLER)) + "Which word is to be remembered?"
    try:
        lm(prompt, max_tokens=16)
    except LMError as error:
        return [DiagnosisLine("failure", getattr(error, "message", None) or str(error), "Raise the server's window.")]
    read = (lm.history[-1]["usage"] or {}).get("prompt_tokens") or 0
    if read <= ollama.DEFAULT_WINDOW * 0.9:
        fix = f"The server read {read:,} of about {len(prompt) // 4:,} tokens: raise OLLAMA_CONTEXT_LENGTH."
        return [DiagnosisLine("failure", "the server cuts long prompts silently", fix)]
    try:
        allocated = ollama.running(route.base or "").get(route.model.partition("/")[2], 0)
    except ollama.OllamaUnreachableError:
        allocated = 0  # a proxy may allow only chats
    shown = f" (the server allocated {allocated:,})" if allocated else ""
    return [DiagnosisLine("ok", f"a prompt of {read:,} tokens was read whole{shown}")]


def _check_slots(route: Route) -> DiagnosisLine:
    """Compare the number of requests the server serves at once with the number it is sent."""
    given = route.arguments()
    options = {"keep_alive": given["keep_alive"], "options": {"num_ctx": given["num_ctx"], "num_predict": 24}}
    found = ollama.measure_parallel(route.base or "", route.model.partition("/")[2], options)
    sent = route.slots or 1
    if found is None:
        return DiagnosisLine("warning", "the number of parallel requests could not be measured", "Try again later.")
    served = counted_noun(found, "parallel slot")
    if found >= ollama.MOST_PARALLEL:
        served += " or more"
    if found == sent:
        return DiagnosisLine("ok", f"{served}, all used")
    if found > sent:
        return DiagnosisLine(
            "ok",
            f"{served}, of which {sent} {'is' if sent == 1 else 'are'} used",
            f"Set OLLAMA_NUM_PARALLEL={found} here as well.",
        )
    fix = f"Set OLLAMA_NUM_PARALLEL={found} here, or start the server with OLLAMA_NUM_PARALLEL={sent}."
    return DiagnosisLine("warning", f"{served}, but {sent} requests are sent at once and wait for each other", fix)
