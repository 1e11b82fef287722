"""DSPy's provider and interpreter errors: made ours as well so that they carry the run, and read for bad samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import errors

# The codes with which Groq refuses, as a bad request, what its own model wrote: a call of a tool that there is not, a
# reply not in the model's own format, text that is not JSON.
BAD_SAMPLES = frozenset({"tool_use_failed", "output_parse_failed", "json_validate_failed"})


# What servers say, each in its own words, of a prompt that does not fit the window.
WINDOW_WORDS = re.compile(
    r"context[ _](?:length|window|size)|maximum context|prompt is too long|input length exceeds|reduce the length", re.I
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Give DSPy's errors our classes as well, so that they carry the run, and ours the one that DSPy has."""
    try:
        yield
    except errors.ActionError as error:
        raise UnreadableReplyError(*error.args) from error
    except DSPyLMError as error:
        raise with_our_class(_provider_error(error), error) from error
    except CodeInterpreterError as error:
        raise with_our_class(errors.SandboxError, error) from error


def _provider_error(error: DSPyLMError) -> type[errors.LMError]:
    if is_overflow(error):
        return errors.LMContextWindowError
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
    """Make ``error`` also one of ours, so that a program that catches DSPy's own class still does."""
    if isinstance(error, ours):
        return error
    twin = _combined_error(ours, type(error), error.args, error.__dict__)
    if isinstance(twin, errors.LMRateLimitError):
        twin.wait = getattr(error, "retry_after", None)
    return twin


def _combined_error(
    ours: type[BaseException], theirs: type[BaseException], args: Any, state: dict[str, Any]
) -> BaseException:
    """Make an error of both classes, which can be copied and pickled as any other."""

    def reduce(self: BaseException) -> Any:
        plain = {name: dict(v) if isinstance(v, MappingProxyType) else v for name, v in self.__dict__.items()}
        return _combined_error, (ours, theirs, self.args, plain)

    made = {"__module__": ours.__module__, "__init__": BaseException.__init__, "__reduce__": reduce}
    twin: BaseException = type(ours.__name__, (ours, theirs), made)(*args)
    twin.__dict__.update(state)
    return twin


class NoModelError(dspy.LMNotConfiguredError, ValueError):  # type: ignore[misc]
    """No LM is configured; DSPy's own predictors raise a ``ValueError`` then."""


class UnreadableReplyError(errors.ActionError, AdapterParseError):  # type: ignore[misc]
    """No reply of the model could be used; a program that catches DSPy's class for that catches this one."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)
        self.adapter_name, self.signature, self.lm_response, self.parsed_result = "", None, "", None

    def __reduce__(self) -> tuple[Any, ...]:
        return _unreadable_reply_error, self.args, self.__dict__


def _unreadable_reply_error(message: str) -> UnreadableReplyError:
    return UnreadableReplyError(message)


# Shown, logged and recorded under the name that errors.py documents.
UnreadableReplyError.__name__ = UnreadableReplyError.__qualname__ = "ActionError"


class BadSampleError(AdapterParseError):  # type: ignore[misc]
    """A reply that the provider itself could not read; ``lm_response`` is its text, as far as it was kept."""


def is_overflow(error: BaseException) -> bool:
    """Tell whether a prompt was refused as too long; DSPy's own engine knows llama.cpp's words for it as no class."""
    if isinstance(error, dspy.ContextWindowExceededError):
        return True
    status = getattr(error, "status", None)
    return isinstance(error, dspy.LMInvalidRequestError) and status == 400 and bool(WINDOW_WORDS.search(str(error)))


def failed_generation(error: BaseException) -> str | None:
    """Return what a model wrote where its provider refused to hand that on; ``""`` if its text was not kept.

    It is a bad sample and not a bad request: the next attempt may succeed. None if ``error`` is anything else.

    Args:
        error: what a call of an LM raised, by this package's engine or any of DSPy's.
    """
    sample = bad_sample(error)
    return None if sample is None else sample[1]


def bad_sample(error: BaseException) -> tuple[str, str] | None:
    """Return the provider's code for a bad sample and what the model wrote, as far as its causes tell; else None."""
    code, text = "", ""
    for cause in error_chain(error):
        found, wrote = _refused_sample(cause)
        code, text = code or found, text or wrote
    return (code, text) if code else None


def error_chain(error: BaseException) -> list[Any]:
    """Return an error and what led to it, the first cause last."""
    found: list[Any] = []
    step: BaseException | None = error
    while step is not None and step not in found and len(found) < 12:
        found.append(step)
        step = step.__cause__ or step.__context__
    return found


def _refused_sample(cause: Any) -> tuple[str, str]:
    """Return the code of a bad sample and its text as one exception has them; empty where it has not."""
    body = _error_body(cause)
    codes = [body.get("code"), *(getattr(cause, name, None) for name in ("provider_code", "code", "status_code"))]
    code = next((code for code in codes if isinstance(code, str) and code in BAD_SAMPLES), "")
    kept = getattr(cause, "failed_generation", None) or body.get("failed_generation")
    return code, kept if code and isinstance(kept, str) else ""


def _error_body(cause: Any) -> dict[str, Any]:
    """Return the error that a server described, from an SDK's exception or the reply that it holds."""
    body = getattr(cause, "body", None)
    if body is None:
        try:
            body = json.loads(cause.response.text)
        except (AttributeError, RuntimeError, ValueError):  # no reply, one that nobody read, or no JSON
            return {}
    detail = body.get("error", body) if isinstance(body, dict) else None
    return detail if isinstance(detail, dict) else {}
