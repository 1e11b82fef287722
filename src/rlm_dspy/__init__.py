"""Recursive Language Models for DSPy: answer from contexts far larger than a window, by code in a confined REPL."""

from rlm_dspy._version import __version__

__all__ = [
    "RLM",
    "Budget",
    "Context",
    "Corpus",
    "Evidence",
    "RLMError",
    "Run",
    "Sandbox",
    "__version__",
    "data",
    "lm",
    "metrics",
    "read",
]

_HOMES = {
    "RLM": "module",
    "Budget": "budget",
    "Context": "context",
    "Corpus": "corpus",
    "Evidence": "evidence",
    "RLMError": "errors",
    "Run": "record",
    "Sandbox": "sandbox",
    "data": "tuning",
    "lm": "lms",
    "metrics": "tuning",
    "read": "corpus",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that the command line starts without DSPy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
