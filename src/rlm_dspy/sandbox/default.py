"""The interpreter for those who chose none: our own, or DSPy's where the platform gives us nothing to confine with."""

from __future__ import annotations

import platform
import sys
import warnings
from typing import Any

import dspy

from . import policy
from .interpreter import Sandbox


def default_factory() -> Any:
    """Return ``Sandbox``, or ``dspy.PythonInterpreter`` with a warning on a platform without native isolation."""
    choice = policy.choose(sys.platform, platform.machine(), "strong")
    if choice.backend != "wasm":
        return Sandbox  # where it cannot be had after all, it says so itself rather than falling back
    warnings.warn(f"{choice.reason}, which is used instead of rlm_dspy.Sandbox", RuntimeWarning, stacklevel=2)
    return dspy.PythonInterpreter
