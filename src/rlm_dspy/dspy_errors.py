"""Make DSPy's provider and interpreter errors ours as well, so that they carry the run; detect bad samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import errors
from rlm_dspy.redact import Redactor

# Groq's codes for rejecting, as a bad request, the output of its own model: a call of an unknown tool, a reply that is
# not in the model's own format, text that is not JSON.
BAD_SAMPLES = frozenset({"tool_use_failed", "output_parse_failed", "json_validate_failed"})


MAX_READ_CHARS = 4_000  # of a server's message
# The messages of various servers for a prompt that does not fit the window, but not for a limit of the reply.
_WINDOW_WORDS = re.compile(
    r"\A(?!.*(?:max_(?:completion_|output_)?tokens[`'\"]? (?:is too large|must be less)|max_tokens: \d+ >))"
    r".*?(?:context[ _-]?(?:length|window|size|limit)|maximum context|max_model_len|model token limit|reduce the length"
    r"|\b(?:prompt|input|request|messages?) (?:is|are) too (?:long|large)|too many (?:input )?tokens"
    r"|\b(?:prompt|input|inputs|tokens?|length)\b.{0,60}\b(?:exceeds?|exceeded|longer than|larger than)\b.{0,60}\bmax"
    r"|max\w* prompt length|input length (?:exceeds|should be)|tokens`? \+ `?max_new_tokens`? must be)",
    re.IGNORECASE | re.DOTALL,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Add our classes to DSPy's errors, so that they carry the run, and DSPy's class to ours."""
    try:
        yield
    except errors.ActionError as error:
        raise UnreadableReplyError(*error.args, limit=error.limit) from error
    except DSPyLMError as error:
        raise with_our_class(_provider_error(error), error) from error
    except CodeInterpreterError as error:
        raise with_our_class(errors.SandboxError, error) from error


def _provider_error(error: DSPyLMError) -> type[errors.RLMError]:
    if isinstance(error, NoModelError):
        return errors.ConfigurationError
    if is_overflow(error):
        return errors.LMContextWindowError
    for ours in (errors.BatchStoppedError, errors.ConfigurationError):
        if any(isinstance(step, ours) for step in error_chain(error)):
            return ours  # DSPy's own LM reports it as an unexpected error
    kinds: list[tuple[type[BaseException], type[errors.LMError]]] = [
        (dspy.LMAuthError, errors.LMAuthError),
        (dspy.LMNotConfiguredError, errors.LMAuthError),
        (dspy.LMRateLimitError, errors.LMRateLimitError),
        (dspy.LMBillingError, errors.LMRateLimitError),
        (dspy.LMTransportError, errors.LMUnavailableError),
        (dspy.LMTimeoutError, errors.LMUnavailableError),
        (dspy.LMServerError, errors.LMUnavailableError),
        (dspy.LMUnsupportedModelError, errors.LMUnavailableError),
    ]
    return next((ours for theirs, ours in kinds if isinstance(error, theirs)), errors.LMError)


def with_our_class(ours: type[BaseException], error: BaseException) -> BaseException:
    """Make ``error`` an instance of our class too; programs that catch DSPy's class still work."""
    if isinstance(error, ours):
        return error
    twin = _combined_error(ours, type(error), _without_prefix(error), error.__dict__)
    if isinstance(twin, errors.LMRateLimitError):
        twin.wait = getattr(error, "retry_after", None)
    return twin


def _without_prefix(error: BaseException) -> tuple[Any, ...]:
    """Return the arguments of an error without DSPy's "[model] " before a message that names the model itself."""
    message, model = getattr(error, "message", None), getattr(error, "model", None)
    if message and model and (f"({model})" in message or message.startswith(f"{model} ")):
        return (message,)
    return error.args


def _combined_error(
    ours: type[BaseException], theirs: type[BaseException], args: Any, state: dict[str, Any]
) -> BaseException:
    """Make an error of both classes that can be copied and pickled."""

    def reduce(self: BaseException) -> Any:
        plain = dict(self.__dict__)
        for name, value in plain.items():
            if isinstance(value, MappingProxyType):
                plain[name] = dict(value)
        return _combined_error, (ours, theirs, self.args, plain)

    members = {"__module__": ours.__module__, "__init__": BaseException.__init__, "__reduce__": reduce}
    twin: BaseException = type(ours.__name__, (ours, theirs), members)(*args)
    twin.__dict__.update(state)
    return twin


class NoModelError(dspy.LMNotConfiguredError, ValueError):  # type: ignore[misc]
    """No LM is configured; also a ``ValueError``, which DSPy's own predictors raise in this case."""


class UnreadableReplyError(errors.ActionError, AdapterParseError):  # type: ignore[misc]
    """No reply of the model could be used; also DSPy's class, for programs that catch that."""

    def __init__(self, message: str, *, limit: str = "") -> None:
        Exception.__init__(self, message)
        self.limit = limit
        self.adapter_name, self.signature, self.lm_response, self.parsed_result = "", None, "", None

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle could not find the class, whose name is changed below
        return _unreadable_reply_error, self.args, self.__dict__


def _unreadable_reply_error(message: str) -> UnreadableReplyError:
    return UnreadableReplyError(message)


# Shown, logged and recorded under the name that errors.py documents.
UnreadableReplyError.__name__ = UnreadableReplyError.__qualname__ = "ActionError"


class BadSampleError(AdapterParseError):  # type: ignore[misc]
    """A reply that the provider itself could not parse; ``lm_response`` is its text, if the provider returned it."""


def mask_secrets(error: BaseException, lm: Any) -> None:
    """Mask the keys that a server sent back, in an error of an LM and in those that caused it.

    Causes whose text cannot be changed are dropped.
    """
    kwargs = getattr(lm, "kwargs", None) or {}
    headers = kwargs.get("headers") or kwargs.get("extra_headers") or {}
    redactor = Redactor()
    redactor.learn(str(value) for value in (kwargs.get("api_key") or "", *dict(headers).values()))
    for step in error_chain(error):
        step.args = tuple(redactor.text(item) if isinstance(item, str) else item for item in step.args)
        if isinstance(message := getattr(step, "message", None), str):
            with suppress(AttributeError):  # a read-only property made from the arguments
                step.message = redactor.text(message)
    if any(redactor.text(str(step)) != str(step) for step in error_chain(error)):
        error.__cause__, error.__suppress_context__ = None, True


def is_overflow(error: BaseException) -> bool:
    """Return whether a prompt was refused as too long; DSPy's own engine has no class for llama.cpp's message."""
    if isinstance(error, dspy.ContextWindowExceededError):
        return True
    status = getattr(error, "status", None)
    return isinstance(error, dspy.LMInvalidRequestError) and status == 400 and says_too_long(str(error))


def says_too_long(text: str) -> bool:
    """Return whether a server says in these words that a prompt does not fit the window."""
    return bool(_WINDOW_WORDS.search(text[:MAX_READ_CHARS]))


def failed_generation(error: BaseException) -> str | None:
    """Return the text of a reply that its provider rejected; ``""`` if the text was not returned.

    This is a bad sample, not a bad request: the next attempt may succeed. None for any other error.

    Args:
        error: the error raised by an LM call, from this package's engine or DSPy's.
    """
    sample = bad_sample(error)
    if sample is None:
        return None
    return sample[1]


def bad_sample(error: BaseException) -> tuple[str, str] | None:
    """Return the provider's code for a bad sample and the model's text, found among the error's causes, or None."""
    code, text = "", ""
    for cause in error_chain(error):
        cause_code, cause_text = _refused_sample(cause)
        code = code or cause_code
        text = text or cause_text
    if code:
        return code, text
    return None


def error_chain(error: BaseException) -> list[Any]:
    """Return an error and its chain of causes, the first cause last."""
    chain: list[Any] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain and len(chain) < 12:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _refused_sample(cause: Any) -> tuple[str, str]:
    """Return the code and text of a bad sample from one exception; empty strings if it has none."""
    body = _error_body(cause)
    codes = [body.get("code"), *(getattr(cause, name, None) for name in ("provider_code", "code", "status_code"))]
    code = next((code for code in codes if isinstance(code, str) and code in BAD_SAMPLES), "")
    text = getattr(cause, "failed_generation", None) or body.get("failed_generation")
    if code and isinstance(text, str):
        return code, text
    return code, ""


def _error_body(cause: Any) -> dict[str, Any]:
    """Return the server's error object from an SDK exception or the reply attached to it."""
    body = getattr(cause, "body", None)
    if body is None:
        try:
            body = json.loads(cause.response.text)
        except (AttributeError, RuntimeError, ValueError):  # no reply, an unread one, or not JSON
            return {}
    detail = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(detail, dict):
        return detail
    return {}
