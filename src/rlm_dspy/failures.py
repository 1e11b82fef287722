"""DSPy's provider and interpreter errors, made ours as well so that they carry the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy import errors


@contextmanager
def translated() -> Iterator[None]:
    """Give DSPy's provider and interpreter errors our classes as well, so that they carry the run."""
    try:
        yield
    except DSPyLMError as error:
        raise both(_provider_error(error), error) from error
    except CodeInterpreterError as error:
        raise both(errors.SandboxError, error) from error


def _provider_error(error: DSPyLMError) -> type[errors.LMError]:
    kinds: list[tuple[type[BaseException], type[errors.LMError]]] = [
        (dspy.ContextWindowExceededError, errors.LMContextWindowError),
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


def both(ours: type[BaseException], error: BaseException) -> BaseException:
    """Make ``error`` also one of ours, so that a program that catches DSPy's own class still does."""
    if isinstance(error, ours):
        return error
    twin = _twin(ours, type(error), error.args, error.__dict__)
    if isinstance(twin, errors.LMRateLimitError):
        twin.wait = getattr(error, "retry_after", None)
    return twin


def _twin(ours: type[BaseException], theirs: type[BaseException], args: Any, state: dict[str, Any]) -> BaseException:
    """Make an error of both classes, which can be copied and pickled as any other."""

    def reduce(self: BaseException) -> Any:
        plain = {name: dict(v) if isinstance(v, MappingProxyType) else v for name, v in self.__dict__.items()}
        return _twin, (ours, theirs, self.args, plain)

    made = {"__module__": ours.__module__, "__init__": BaseException.__init__, "__reduce__": reduce}
    twin: BaseException = type(ours.__name__, (ours, theirs), made)(*args)
    twin.__dict__.update(state)
    return twin

