"""Every exception this package raises on purpose.

    RLMError
    ├── ConfigurationError (also ValueError)   the caller can fix it: a bad signature, limit, name or setting
    ├── BudgetExceededError                    a limit of the run was reached
    │   └── DepthExceededError                 a recursive sub-call went deeper than allowed
    ├── SandboxError (also DSPy's CodeInterpreterError, mixed in by rlm_dspy.sandbox)
    │   ├── SandboxUnavailableError            the isolation that was asked for cannot be had here
    │   └── SandboxDiedError                   the worker is gone and its state with it
    ├── ActionError                            the model never wrote anything that could be run
    ├── LMError                                the model's provider failed for good
    │   ├── LMAuthError                        no or bad credentials
    │   ├── LMRateLimitError                   quota, with the wait
    │   ├── LMContextWindowError               the prompt does not fit
    │   ├── LMUnavailableError                 no server, no such model, a timeout
    │   └── BatchStoppedError                  a provider batch without a waiting caller
    ├── CorpusError                            inputs are unreadable or empty
    └── McpToolError                           a tool of an MCP server failed; in a cell the code can catch it

Messages name what happened and what to do. An error that ends a run has the partial run as ``.run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_dspy.run import Run


class RLMError(Exception):
    """Root of this package's exceptions; ``run`` is the partial run if one had started."""

    run: Run | None = None


class ConfigurationError(RLMError, ValueError):
    """The caller passed something invalid: a signature, a name, a limit, a setting."""


class _LimitError(RLMError):
    def __init__(self, message: str, *, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class BudgetExceededError(_LimitError):
    """A limit was reached; ``limit`` names it (``max_llm_calls``, ``max_tokens``, …)."""


class DepthExceededError(BudgetExceededError):
    """A recursive sub-call at ``depth`` went beyond ``max_depth``."""

    def __init__(self, depth: int, max_depth: int) -> None:
        super().__init__(f"Depth {depth} exceeds max {max_depth}", limit="max_depth")
        self.depth = depth
        self.max_depth = max_depth

    def __reduce__(self) -> tuple[Any, ...]:
        return DepthExceededError, (self.depth, self.max_depth), self.__dict__


class SandboxError(RLMError):
    """The sandbox failed in a way that the submitted code cannot repair."""


class SandboxUnavailableError(SandboxError):
    """The requested isolation is not available on this machine."""


class SandboxDiedError(SandboxError):
    """The worker process is gone, and the session's state with it."""


class ActionError(_LimitError):
    """The model never wrote code that could be run, or no answer; ``limit`` names what ended its steps, if known."""


class LMError(RLMError):
    """The model's provider failed after retries."""


class LMAuthError(LMError):
    """Credentials are missing or were refused; the message names the variable, never the value."""


class LMRateLimitError(LMError):
    """The provider's quota is used up; ``wait`` is the provider's estimate in seconds, if it gave one."""

    def __init__(self, message: str, *, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class LMContextWindowError(LMError):
    """The prompt is longer than the model's window."""


class LMUnavailableError(LMError):
    """The server cannot be reached, timed out, or does not have the model."""


class BatchStoppedError(LMError):
    """The wait for a provider batch was stopped; the batch was left running, or it was cancelled."""


class CorpusError(RLMError):
    """The inputs are missing, unreadable or empty."""


class McpToolError(RLMError):
    """An MCP server refused a call, did not answer in time, or has ended."""
