"""Translate LiteLLM's failures into errors by who must act, for any provider.

LiteLLM blurs statuses (401 arrives as a bad request, 413 as a rate limit, an unreachable server as an internal
error, a stream that ends early as HTTP 500) and drops headers, but keeps the HTTP error among the causes; this module
reads that. If no server answered, the exception classes show what happened. Only the server's own text is searched for
words, because LiteLLM's messages change from version to version.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

from dspy import lm15

from rlm_dspy import local_servers
from rlm_dspy._dspy import retry_after_seconds
from rlm_dspy.dspy_errors import bad_sample, error_chain, says_too_long
from rlm_dspy.lms import ollama
from rlm_dspy.lms.providers import OFFLINE, PROVIDERS, Route
from rlm_dspy.lms.rate_limits import LONGEST_WAIT
from rlm_dspy.lms.transport import MAX_REPLY_BYTES, WrittenError

_MEMORY = re.compile(r"more system memory|out of memory|insufficient memory", re.I)
_REFUSED = re.compile(r"content[ _](?:policy|filter|management)|safety (?:system|policy)|moderation", re.I)

_WINDOW_ADVICE = {
    "llama.cpp": "Start llama-server with a larger -c or fewer slots (-np), or shorten the input.",
    "vLLM": "Start vLLM with a larger --max-model-len, or shorten the input.",
    "LM Studio": "Load the model with a larger context length, or shorten the input.",
}

# Exceptions that libraries raise for malformed replies.
_UNREADABLE = {
    "JSONDecodeError", "AttributeError", "IndexError", "KeyError", "TypeError", "ValidationError",
    "APIResponseValidationError",
}  # fmt: skip
# What is wrong with a reply, by the class of the HTTP client's exception (aiohttp, httpx).
_BROKEN = {
    "ReplyTooLargeError": f"is longer than {MAX_REPLY_BYTES >> 20} MB or has too many parts, and was not read whole",
    "TooManyRedirects": "redirects in a circle",
    "DecodingError": "is not compressed as it says",
    "ContentEncodingError": "is not compressed as it says",
    "LineTooLong": "has headers that are too long",
    "UnicodeDecodeError": "is not valid UTF-8",
    "RecursionError": "is nested too deeply",
}
_TLS = re.compile(r"\\x1[456]\\x03")  # the beginning of a TLS record, in the text of an exception
_PAGE = "an HTML page"
_CUT = {"RemoteProtocolError", "ReadError", "WriteError", "IncompleteRead"}
_UNREACHED = {"ConnectError", "ConnectTimeout", "ConnectionRefusedError", "gaierror"}


def translate_error(error: Exception, route: Route, *, has_answered: bool = True) -> Exception:
    """Return an lm15 error that says in one line what happened and what to do; DSPy retries by its class.

    Args:
        error: what LiteLLM or the HTTP client raised.
        route: the model that was asked.
        has_answered: any reply has arrived.
    """
    if isinstance(error, lm15.LM15Error) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # DSPy's own translation; the HTTP error is its cause
    if type(error) is lm15.ProviderError and not hasattr(error, "model"):  # lm15 could not parse LiteLLM's result
        return invalid_reply(route, f"cannot be read ({_shorten_text(str(error), route)})")
    if isinstance(error, (lm15.LM15Error, Warning, ImportError)):
        return error
    chain = error_chain(error)
    names = {type(step).__name__ for step in chain}
    reply = next((step.response for step in reversed(chain) if _is_reply(step)), None)
    if sample := bad_sample(error):
        return _unreadable_sample(route, *sample, None if reply is None else reply.status_code)
    if reply is not None and "LocalProtocolError" not in names:
        if 300 <= reply.status_code < 400:
            return _redirect_error(route, reply)
        return _status_error(
            route, reply.status_code, _reply_text(reply, error, route), _retry_wait(reply.headers, error)
        )
    return _no_reply_error(error, chain, route, has_answered)


def _no_reply_error(error: Exception, chain: list[BaseException], route: Route, has_answered: bool) -> Exception:
    """The error for an attempt without an error status from a server."""
    names = {type(step).__name__ for step in chain}
    if names & _UNREACHED:
        return mark_final(
            _make_error(lm15.TransportError, route, f"cannot be reached{_address_suffix(route)}", _start_advice(route))
        )
    if "Timeout" in names or any(isinstance(step, TimeoutError) for step in chain):
        return _timeout_error(route)
    if broken := _describe_broken(chain):
        return invalid_reply(route, broken)
    if names & _CUT:
        return cut_reply(route)
    if "LocalProtocolError" in names:
        return bad_key(route)
    if stated := next(filter(None, (_error_in_body(step, route) for step in chain)), None):
        return stated
    if names & _UNREADABLE or any(map(_is_no_completion, chain)):
        if not has_answered:
            return _not_sent_error(route, chain[-1])
        return invalid_reply(route, "is not a chat completion in JSON")
    if isinstance(error, (ValueError, OverflowError)):
        return invalid_reply(route, f"cannot be read ({_shorten_text(str(error), route)})")
    return _error_without_reply(route, error)


def _not_sent_error(route: Route, error: BaseException) -> Exception:
    """The error for a request that failed before any reply arrived, though a server may be there."""
    said = f"could not be asked ({_shorten_text(str(error) or type(error).__name__, route)})"
    return _make_error(lm15.InvalidRequestError, route, said, "Check the options.")


def _describe_broken(chain: list[BaseException]) -> str | None:
    """Describe what is wrong with a reply that is malformed HTTP or contradicts its headers; None if unknown."""
    names, text = [type(step).__name__ for step in chain], " ".join(map(str, chain))
    if "BadStatusLine" in names or "illegal status line" in text:
        if _TLS.search(text):
            return "is TLS, not HTTP (should the address begin with https?)"
        if "SSH-" in text:
            return "is that of an SSH server"
        return "is not HTTP"
    if what := next((_BROKEN[name] for name in names if name in _BROKEN), None):
        return what
    if "BadHttpMessage" in names or "HttpProcessingError" in names:
        if "oo many headers" in text:
            return "has too many headers"
        return "is not valid HTTP"
    if any(type(step).__name__ == "ValidationError" and "for Usage" in str(step) for step in chain):
        return "reports its usage in a form that cannot be read"
    return None


def _redirect_error(route: Route, reply: Any) -> Exception:
    """The error for a redirect; following it would send the prompt to an address that the user did not choose."""
    place = _shorten_text(str(reply.headers.get("location") or "nowhere"), route)
    said = f"redirects to {place} (HTTP {reply.status_code}); redirects are not followed"
    return _make_error(
        lm15.InvalidRequestError, route, said, "If that is the server, set its address.", reply.status_code
    )


def mark_final(error: Exception) -> Exception:
    """Mark an error as permanent although its class is usually temporary."""
    error.final = True  # type: ignore[attr-defined]
    return error


def missing_key(route: Route) -> Exception:
    """The error for a key that is not set."""
    name = route.provider.key
    advice = f"Set {name}, or keep it with `rlm-dspy keys set {name}`."
    return _make_error(lm15.NotConfiguredError, route, "needs a key", advice)


def bad_key(route: Route) -> Exception:
    """The error for a key that cannot be sent."""
    wrong = f"Correct the key ({_key_source(route)}): it contains a line break, a blank or a non-ASCII character."
    return _make_error(lm15.AuthError, route, "was not asked", wrong)


def quoted_key(route: Route) -> Exception:
    """The error for a key in quotes, which some shells and files leave around a value."""
    return _make_error(
        lm15.AuthError, route, "was not asked", f"Remove the quotes from the key ({_key_source(route)})."
    )


def unknown_provider(route: Route) -> Exception:
    """The error for a name whose provider LiteLLM does not know, or that names none."""
    if "/" not in route.model:
        advice = f"Did you mean {_with_provider(route)}? `rlm-dspy models` lists the models."
        return _make_error(lm15.UnsupportedModelError, route, "does not name its provider", advice)
    prefixes = [row.prefix for row in PROVIDERS]
    prefix, _, name = route.model.partition("/")
    advice = f"Model names begin with {', '.join(prefixes[:5])}…"
    if close := difflib.get_close_matches(f"{prefix}/", prefixes, n=1):
        advice = f"Did you mean {close[0]}{name}?"
    return _make_error(lm15.UnsupportedModelError, route, "is not a known provider", advice)


def invalid_reply(route: Route, what: str) -> Exception:
    """The error for an unusable reply."""
    error = _make_error(
        lm15.ProviderError,
        route,
        f"answered, but the reply {what}",
        f"Check the address{_address_suffix(route)} and the model.",
    )
    error.garbled = True  # type: ignore[attr-defined]
    return error


def no_batches(route: Route, status: int | None) -> Exception:
    """The error for a server without batches; ``status`` is what it answered, None if it was not asked."""
    if status is None:
        said = "has no batches"
    else:
        said = f"serves no batches at this address (HTTP {status})"
    advice = f"Make ordinary calls, or check the address{_address_suffix(route)}."
    return _make_error(lm15.UnsupportedModelError, route, said, advice, status)


def row_error(route: Route, status: int, body: Any) -> Exception:
    """The error for one request of a batch that failed with this status and body of an error."""
    return _status_error(route, status, _error_detail(body, route), None, f"HTTP {status} in a batch")


def no_result(route: Route, why: str) -> Exception:
    """The error for one request of a batch that has ended without a result for it."""
    return _make_error(lm15.ServerError, route, f"has no result for this request: {why}", "Resume to ask again.")


def no_tokens_left(route: Route, wait: float) -> Exception:
    """The error for a request that would wait too long for tokens, according to the provider's headers."""
    said = f"has no tokens left in your quota for {_duration_text(wait)}"
    return _make_error(lm15.BillingError, route, said, "Try then.", None, wait)


def cut_prompt(route: Route, read: int, sent: int) -> Exception:
    """The error for a prompt whose beginning the server dropped silently."""
    said = f"read only {read:,} of about {sent:,} tokens: it cut the prompt without an error"
    return _make_error(lm15.ContextLengthError, route, said, "Raise num_ctx= or the server's window.")


def _unreadable_sample(route: Route, code: str, wrote: str, status: int | None) -> Exception:
    """The error for a bad sample, which the provider could not parse; it keeps the model's text."""
    said = f"wrote a reply that its provider could not parse ({code})"
    error = _make_error(lm15.ProviderError, route, said, "Ask again, or use another model.", status)
    error.provider_code = code  # type: ignore[attr-defined]
    error.failed_generation = _without_secrets(wrote, route)  # type: ignore[attr-defined]
    return error


def _timeout_error(route: Route) -> Exception:
    late = f"did not answer within {route.timeout:g} s"
    error = _make_error(lm15.TimeoutError, route, late, "Raise timeout= or try later.")
    # a local model is not faster the second time
    if route.provider.local:
        return mark_final(error)
    return error


def cut_reply(route: Route) -> Exception:
    """The error for a reply that ends too early."""
    return _make_error(lm15.TransportError, route, "cut the connection in the middle of its reply", "Try again.")


def _status_error(route: Route, status: int, text: str, wait: float | None, where: str = "") -> Exception:
    shown = f"{where or f'HTTP {status}'}: {text}"
    if status in (401, 403):
        own = f"the user name and password in the address ({route.address_source})"
        checked = own if route.sends_address_credentials else _key_source(route)
        return _make_error(lm15.AuthError, route, f"refused the credentials ({shown})", f"Check {checked}.", status)
    if status == 407:
        proxied = f"was not reached: a proxy requires credentials ({shown})"
        return mark_final(_make_error(lm15.TransportError, route, proxied, "Check HTTP_PROXY and HTTPS_PROXY.", status))
    if status == 413 or (status == 429 and re.search(r"request too large", text, re.I)):
        return _make_error(
            lm15.InvalidRequestError,
            route,
            f"refused the request as too large for your quota ({shown})",
            "Waiting cannot help: use a shorter context, a larger plan or another model.",
            413,
        )
    if says_too_long(text) and status in (400, 422, 500):
        return _too_long(route, shown, status)
    if status == 404 and text == _PAGE:
        said = f"serves nothing at this address ({shown})"
        return _make_error(
            lm15.UnsupportedModelError, route, said, f"Check the address{_address_suffix(route)}.", status
        )
    if status == 404:
        return _make_error(
            lm15.UnsupportedModelError, route, f"does not have this model ({shown})", _name_advice(route), status
        )
    if status == 402 or "insufficient_quota" in text:
        return _make_error(lm15.BillingError, route, f"requires payment ({shown})", "Check your plan.", status)
    if status == 429:
        return _rate_limit_error(route, shown, wait)
    if _MEMORY.search(text):
        advice = "Use a smaller model or a smaller num_ctx=."
        return _make_error(
            lm15.InvalidRequestError, route, f"has too little memory for this model ({shown})", advice, status
        )
    if status in (408, 504):
        return _temporary_error(lm15.TimeoutError, route, f"timed out ({shown})", status, wait)
    if status >= 498:
        return _temporary_error(lm15.ServerError, route, f"failed ({shown})", status, wait)
    return _bad_request_error(route, status, text, shown)


def _bad_request_error(route: Route, status: int, text: str, shown: str) -> Exception:
    if _REFUSED.search(text):
        return _refusal_error(route, shown, status)
    if "does not support chat" in text:
        return _make_error(
            lm15.UnsupportedModelError, route, f"cannot chat with this model ({shown})", _name_advice(route), status
        )
    return _make_error(lm15.InvalidRequestError, route, f"refused the request ({shown})", "Check the options.", status)


def _temporary_error(kind: Callable[..., Any], route: Route, what: str, status: int, wait: float | None) -> Exception:
    if wait is not None and wait > LONGEST_WAIT:
        return mark_final(_make_error(kind, route, what, f"Try again in {_duration_text(wait)}.", status, wait))
    return _make_error(kind, route, what, "Try later.", status, wait)


def _rate_limit_error(route: Route, shown: str, wait: float | None) -> Exception:
    if wait is not None and wait > LONGEST_WAIT:
        return _make_error(
            lm15.BillingError, route, f"is out of quota for {_duration_text(wait)} ({shown})", "Try then.", 429, wait
        )
    if "enqueued" in shown.lower():  # the batch exceeds the provider's queue, alone or together with others
        advice = "Send smaller batches, with a lower --concurrency (concurrency=), once your others have ended."
        return _make_error(lm15.RateLimitError, route, f"takes no batch of this size ({shown})", advice, 429, wait)
    return _make_error(lm15.RateLimitError, route, f"limits your rate ({shown})", "Try later.", 429, wait)


def _too_long(route: Route, shown: str, status: int) -> Exception:
    return _make_error(
        lm15.ContextLengthError, route, f"has too small a window ({shown})", _window_advice(route), status
    )


def _refusal_error(route: Route, shown: str, status: int) -> Exception:
    return _make_error(lm15.InvalidRequestError, route, f"refused the content ({shown})", "Change the input.", status)


def _error_without_reply(route: Route, error: Exception) -> Exception:
    """Translate an exception without a server's reply: its class is reliable, its text and status may not be."""
    name = type(error).__name__
    original = getattr(error, "original_exception", None)
    if isinstance(original, Exception):
        error = original
    if name == "MidStreamFallbackError" and type(error).__name__ == "APIConnectionError":
        return cut_reply(route)  # nothing else is known about how the stream ended
    name, text = type(error).__name__, _shorten_text(_own_words(str(getattr(error, "message", "") or error)), route)
    if name == "BadRequestError" and getattr(error, "llm_provider", None) == "":
        return unknown_provider(route)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or not type(error).__module__.startswith(("litellm", "openai")):
        return error
    if name == "ContextWindowExceededError":
        return _too_long(route, f"HTTP {status}: {text}", status)
    if name == "ContentPolicyViolationError":
        return _refusal_error(route, f"HTTP {status}: {text}", status)
    return _status_error(route, status, text, None, "LiteLLM says")


def _own_words(text: str) -> str:
    """Return LiteLLM's message without leading class names and the trailing traceback."""
    return re.sub(r"^(?:[\w.]+(?:Error|Exception): )+", "", text).split("Traceback (most recent call last)")[0]


def _make_error(
    kind: Callable[..., Any],
    route: Route,
    what: str,
    advice: str,
    status: int | None = None,
    retry_after: float | None = None,
) -> Exception:
    line = _masked_text(f"{_subject(route)} {what}. {advice}", route)
    made = kind(line, provider=route.provider.name, status=status, retry_after=retry_after)
    made.message = line  # lm15 appends paragraphs of advice for its own users
    made.args = (line,)
    made.model = route.model
    error: Exception = made
    return error


def _subject(route: Route) -> str:
    """Return the subject of a message: the server and the model."""
    if route.provider not in PROVIDERS:
        return route.model
    name = route.server_name
    return f"{name[0].upper()}{name[1:]} ({route.model})"


def _with_provider(route: Route) -> str:
    """Return a name without its provider with the likely one: the user's own server, else Ollama."""
    if difflib.get_close_matches(route.model, [OFFLINE]):
        return OFFLINE
    server = local_servers.server_at(route.access)
    if server is not None and server.has_model(route.model):
        return f"{local_servers.OPENAI}{route.model}"
    return f"ollama_chat/{route.model}"


def _without_secrets(text: str, route: Route) -> str:
    for secret in route.secrets:
        text = text.replace(secret, "********")
    return text


def _masked_text(text: str, route: Route) -> str:
    text = _without_secrets(text, route)
    return re.sub(r"(?i)\b(bearer\s+|(?:sk|gsk|xai)[-_])[\w.-]{6,}", r"\1********", text)


def cause(error: BaseException, route: Route) -> BaseException | None:
    """Return the error to chain as a cause, unless its traceback would show a secret that a server sent back."""
    texts = "\n".join(f"{step}\n{step!r}" for step in error_chain(error))
    if any(secret in texts for secret in route.secrets):
        return None
    return error


def _is_reply(cause: Any) -> bool:
    """Whether an exception holds a real reply of a server; LiteLLM puts made-up replies in its own exceptions."""
    made_up = type(cause).__module__.startswith("litellm.exceptions")
    return not made_up and type(cause).__name__.endswith("StatusError") and hasattr(cause, "response")


def _is_no_completion(cause: Any) -> bool:
    """Whether LiteLLM reports, with its own status, that the OpenAI client's result is not a chat completion."""
    return type(cause).__name__ == "OpenAIError" and type(cause).__module__.startswith("litellm.llms.openai")


def _error_in_body(cause: Any, route: Route) -> Exception | None:
    """Return the error that a server wrote into a reply that started with status 200."""
    name, body = type(cause).__name__, getattr(cause, "body", None)
    if body and isinstance(body, (dict, str)) and (name == "APIError" or isinstance(cause, WrittenError)):
        code = body.get("code") if isinstance(body, dict) else None
        text, where = _error_detail(body, route), "in its reply"
    elif type(cause) is Exception and hasattr(cause, "status_code"):  # LiteLLM raises errors found in a reply this way
        code, text, where = cause.status_code, _shorten_text(str(getattr(cause, "message", "")), route), "in its reply"
    else:
        return None
    status = code if isinstance(code, int) and 400 <= code <= 599 else 500
    error = _status_error(route, status, text, None, where)
    error.status = None  # type: ignore[attr-defined]  # it was 200
    return error


def _reply_text(reply: Any, error: Exception, route: Route) -> str:
    try:
        text = reply.text
    except (RuntimeError, UnicodeError):  # an unread streamed body
        text = str(error)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        if "<html" in text[:500].lower():
            return _PAGE
        return _shorten_text(text, route)
    return _error_detail(body, route)


def _error_detail(body: Any, route: Route) -> str:
    detail = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(detail, dict):
        code = detail.get("code")
        return _shorten_text(f"{detail.get('message') or detail}" + (f" [{code}]" if code else ""), route)
    return _shorten_text(str(detail), route)


def _shorten_text(text: str, route: Route) -> str:
    text = _masked_text(" ".join(text.split()), route)  # before shortening, which could leave half of a secret
    if len(text) <= 300:
        return text
    return text[:300] + "…"


def _retry_wait(headers: Any, error: Exception) -> float | None:
    kept = getattr(error, "litellm_response_headers", None) or {}
    value = headers.get("retry-after") or kept.get("retry-after")
    seconds: float | None = retry_after_seconds(value)
    return seconds


def _address_suffix(route: Route) -> str:
    if not route.base or route.server_name != route.provider.name:  # the message begins with the address
        return ""
    return f" at {re.sub('//[^/@]*@', '//', route.base)}"


def _start_advice(route: Route) -> str:
    if route.is_ollama:
        return "Start it (ollama serve) or set OLLAMA_HOST."
    if route.own_base:
        return f"Start the server, or check its address ({route.address_source})."
    if route.provider.local:
        return f"Start the server, or set {route.address_variable}."
    return "Check the network."


def _window_advice(route: Route) -> str:
    if route.is_ollama:
        return "Raise num_ctx=."
    server = local_servers.server_at(route.access)
    return _WINDOW_ADVICE.get(server.kind if server else "", "Use a model with a larger window or a shorter input.")


def _key_source(route: Route) -> str:
    """Return where the key of a route was set."""
    if route.api_key and route.provider.key:
        return f"api_key, which was given in place of {route.provider.key}"
    if route.key and not route.api_key:
        return route.provider.key or local_servers.key_variable(route.model)
    return route.provider.key or "api_key="


def _name_advice(route: Route) -> str:
    names = list(route.provider.models)
    if route.is_ollama and route.base:
        try:
            names = [f"ollama_chat/{model.name}" for model in ollama.models(route.base) if model.chats]
        except ollama.OllamaUnreachableError:
            names = []
    close = difflib.get_close_matches(route.model, names, n=3, cutoff=0.3) or names[:3]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    if route.is_ollama:
        return f"Pull it: ollama pull {route.model.partition('/')[2]}."
    if route.own_base and not re.search(r"/v\d+/?$", route.own_base):
        return f"Check the name, and the address: that of most servers ends in /v1 ({route.address_source})."
    return "Check the name."


def _duration_text(seconds: float) -> str:
    if seconds > 7 * 24 * 3600:
        return "more than a week"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{round(seconds / 3600)} h"
