"""This package's sandbox errors, which are DSPy's interpreter errors as well.

Kept here and not in ``rlm_dspy.errors``, because importing DSPy takes seconds.
"""

from __future__ import annotations

from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

from rlm_dspy.errors import ConfigurationError, SandboxDiedError, SandboxError, SandboxUnavailableError


class InterpreterDiedError(SandboxDiedError, CodeInterpreterError):  # type: ignore[misc]
    """The worker is gone, and the session's state with it."""


class InterpreterUnavailableError(SandboxUnavailableError, CodeInterpreterError):  # type: ignore[misc]
    """The isolation that was asked for cannot be had on this machine."""


class InterpreterFailedError(SandboxError, CodeInterpreterError):  # type: ignore[misc]
    """The sandbox cannot do what was asked: it was shut down, or is busy with this very call."""


class HandoverError(ConfigurationError, CodeInterpreterError):  # type: ignore[misc]
    """A variable cannot cross into the sandbox; the message names it."""


__all__ = [
    "CodeExecutionError",
    "CodeInterpreterError",
    "HandoverError",
    "InterpreterDiedError",
    "InterpreterFailedError",
    "InterpreterUnavailableError",
]
