"""This package's sandbox errors, which are also DSPy interpreter errors.

They are not in ``rlm_dspy.errors`` because importing DSPy takes seconds.
"""

from __future__ import annotations

from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

from rlm_dspy.errors import ConfigurationError, SandboxDiedError, SandboxError, SandboxUnavailableError


class InterpreterDiedError(SandboxDiedError, CodeInterpreterError):  # type: ignore[misc]
    """The worker ended, and the session's state is lost."""


class InterpreterUnavailableError(SandboxUnavailableError, CodeInterpreterError):  # type: ignore[misc]
    """The requested isolation is not available on this machine."""


class InterpreterFailedError(SandboxError, CodeInterpreterError):  # type: ignore[misc]
    """The sandbox cannot serve the call: it was shut down, or is busy with this same call."""


class HandoverError(ConfigurationError, CodeInterpreterError):  # type: ignore[misc]
    """A variable cannot be passed to the sandbox; the message names it."""


__all__ = [
    "CodeExecutionError",
    "CodeInterpreterError",
    "HandoverError",
    "InterpreterDiedError",
    "InterpreterFailedError",
    "InterpreterUnavailableError",
]
