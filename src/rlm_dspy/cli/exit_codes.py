"""Exit codes, and the error classes that map to them.

0  answered                      4    no or invalid credentials, or no server or model
1  failed                        5    the provider refused
2  usage: fix the command        6    the inputs are unreadable or empty
3  stopped by a limit, with the  7    nothing was found that answers the question
   best answer, if any, printed  130  interrupted (the partial run is kept)
"""

from __future__ import annotations

from rlm_dspy import errors
from rlm_dspy.errors import (
    BudgetExceededError,
    ConfigurationError,
    CorpusError,
    LMAuthError,
    LMError,
    LMUnavailableError,
    RLMError,
)

ANSWERED = 0
FAILED = 1
USAGE = 2
BUDGET = 3
NO_MODEL = 4
REFUSED = 5
INPUTS = 6
NOT_FOUND = 7
INTERRUPTED = 130

_BY_ERROR: tuple[tuple[type[RLMError], int], ...] = (
    (ConfigurationError, USAGE),
    (BudgetExceededError, BUDGET),
    (CorpusError, INPUTS),
    (LMAuthError, NO_MODEL),
    (LMUnavailableError, NO_MODEL),
    (LMError, REFUSED),
)


def code(error: RLMError) -> int:
    """Return the exit code of an error, which tells a script who can fix it."""
    return _code_of_class(type(error))


def code_of(kind: str) -> int:
    """Return the exit code of an error given the name of its class."""
    return _code_of_class(getattr(errors, kind, RLMError))


def _code_of_class(error_class: type[RLMError]) -> int:
    return next((number for kind, number in _BY_ERROR if issubclass(error_class, kind)), FAILED)
