"""Reject settings and names that cannot work before a sandbox starts."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from typing import Any

from rlm_dspy.errors import ConfigurationError

from . import policy
from .errors import HandoverError
from .variables import FORBIDDEN

MAX_SECONDS = 86_400
MAX_MEMORY_MB = 1 << 24  # 16 TB
_NUMPY = ("numpy.random", "numpy.fft", "numpy.polynomial")
_PANDAS = ("pandas.io.formats.string", "pandas.io.formats.csvs", "pandas.io.formats.html")
# Submodules that these libraries load lazily, which is impossible after the lock-down.
PARTS = {"numpy": _NUMPY, "pandas": ("numpy", *_NUMPY, *_PANDAS)}
MAX_OUTPUT = 350_000  # output, errors and echo of this size fit in one frame with the largest SUBMIT, even all emoji


def check_timeout(timeout: float) -> None:
    """Reject a timeout that the clocks cannot represent."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= MAX_SECONDS:
        raise ConfigurationError(f"timeout must be a number of seconds up to {MAX_SECONDS:,}, not {timeout!r}")


def check_limits(memory_mb: int, max_output_chars: int, isolation: str, checkpoint: str) -> None:
    """Reject settings that cannot work."""
    if type(memory_mb) is not int or not 16 <= memory_mb <= MAX_MEMORY_MB:
        raise ConfigurationError(f"memory_mb must be a whole number from 16 to {MAX_MEMORY_MB:,}, not {memory_mb!r}")
    if type(max_output_chars) is not int or not 0 < max_output_chars <= MAX_OUTPUT:
        raise ConfigurationError(
            f"max_output_chars must be a whole number from 1 to {MAX_OUTPUT:,}, not {max_output_chars!r}"
        )
    if isolation not in policy.ISOLATIONS:
        raise ConfigurationError(f"isolation must be one of {', '.join(policy.ISOLATIONS)}, not {isolation!r}")
    if checkpoint not in policy.CHECKPOINTS:
        raise ConfigurationError(f"checkpoint must be one of {', '.join(policy.CHECKPOINTS)}, not {checkpoint!r}")


def with_parts(modules: Sequence[str]) -> tuple[str, ...]:
    """Return the modules and their submodules that must be preloaded."""
    parts: list[str] = []
    for name in modules:
        parts += [name, *PARTS.get(name, ())]
    return tuple(dict.fromkeys(parts))


def check_tool_names(tools: dict[str, Callable[..., Any]]) -> None:
    """Reject names that are not usable in code."""
    for name in tools:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in FORBIDDEN:
            raise ConfigurationError(f"{name!r} cannot be the name of a tool")


def check_tools_against(tools: dict[str, Callable[..., Any]], variables: dict[str, Any]) -> None:
    """Reject a name used for both a tool and a variable."""
    if both := sorted(tools.keys() & variables.keys()):
        raise HandoverError(f"{both[0]!r} is the name of both a variable and a tool")
