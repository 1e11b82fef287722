"""The default interpreter: our own, or DSPy's on platforms without native isolation."""

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
        return Sandbox  # if it proves unavailable, it raises instead of falling back
    warnings.warn(
        f"{choice.reason}: dspy.PythonInterpreter (WASM) is used instead of rlm_dspy.Sandbox",
        RuntimeWarning,
        stacklevel=2,
    )
    return dspy.PythonInterpreter
