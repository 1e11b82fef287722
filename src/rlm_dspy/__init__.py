"""Recursive Language Models for DSPy: answer from contexts larger than any window, by code in a sandboxed REPL."""

import os
from typing import TYPE_CHECKING

from rlm_dspy._version import __version__

# LiteLLM reads these on import. Prices and windows come from its packaged table, not from the network. It also does not
# load a .env file from the current folder, which could send keys and documents to a foreign address.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_MODE", "PRODUCTION")

if TYPE_CHECKING:  # imported lazily below; listed for type checkers and editors
    from rlm_dspy.budget import Budget
    from rlm_dspy.context import Context
    from rlm_dspy.corpus import Corpus, read
    from rlm_dspy.errors import RLMError
    from rlm_dspy.evidence import Evidence
    from rlm_dspy.lms import lm
    from rlm_dspy.report.notebook import LiveCell
    from rlm_dspy.rlm.mcp_tools import mcp_tools
    from rlm_dspy.rlm.module import RLM
    from rlm_dspy.run import Run
    from rlm_dspy.sandbox import Sandbox
    from rlm_dspy.telemetry import trace
    from rlm_dspy.tuning import data, metrics

__all__ = [
    "RLM",
    "Budget",
    "Context",
    "Corpus",
    "Evidence",
    "LiveCell",
    "RLMError",
    "Run",
    "Sandbox",
    "__version__",
    "data",
    "lm",
    "mcp_tools",
    "metrics",
    "read",
    "trace",
]

_HOMES = {
    "RLM": "rlm.module",
    "Budget": "budget",
    "Context": "context",
    "Corpus": "corpus",
    "Evidence": "evidence",
    "LiveCell": "report.notebook",
    "RLMError": "errors",
    "Run": "run",
    "Sandbox": "sandbox",
    "data": "tuning",
    "lm": "lms",
    "mcp_tools": "rlm.mcp_tools",
    "metrics": "tuning",
    "read": "corpus",
    "trace": "telemetry",
}


if not TYPE_CHECKING:  # else type checkers would accept any name

    def __getattr__(name: str) -> object:
        """Import a public name on first use, so that the command line starts without DSPy."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
