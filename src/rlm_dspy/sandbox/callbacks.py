"""DSPy callbacks for sandbox events: startup, execute, tool call, shutdown.

The inputs and tool arguments of a cell may be contexts of many megabytes: callbacks get a handle, never the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy
from dspy.utils.callback import with_callbacks

from rlm_dspy.counting import counted_noun

MAX_SHOWN_CHARS = 20_000


class Handle:
    """A large value as callbacks see it: its ``value``, and a short repr."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        size = ""
        if isinstance(self.value, str):
            size = f" of {len(self.value):,} characters"
        elif hasattr(self.value, "__len__"):
            size = f" of {counted_noun(len(self.value), 'item')}"
        return f"<{type(self.value).__name__}{size}>"


def callback_value(value: Any) -> Any:
    """Return a value that callbacks can render: small values unchanged, others as a handle."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and len(value) <= MAX_SHOWN_CHARS:
        return value
    return Handle(value)


def is_watched(sandbox: Any) -> bool:
    """Return whether any callback is registered."""
    return bool(dspy.settings.get("callbacks", []) or sandbox.callbacks)


def report_start(sandbox: Any, connect: Callable[[], Any]) -> Any:
    """Begin a session and report it."""
    begun: list[Any] = []

    @with_callbacks  # type: ignore[untyped-decorator]
    def start(instance: Any) -> None:
        begun.append(connect())

    start(sandbox)
    return begun[0]


def report_execute(sandbox: Any, code: str, variables: Mapping[str, Any], run: Callable[[], Any]) -> Any:
    """Run a cell and report it."""

    @with_callbacks  # type: ignore[untyped-decorator]
    def execute(instance: Any, code: str, variables: Mapping[str, Any]) -> Any:
        return run()

    return execute(sandbox, code, {name: callback_value(value) for name, value in variables.items()})


def report_tool_call(
    sandbox: Any, name: str, arguments: list[Any], keywords: Mapping[str, Any], call: Callable[[], Any]
) -> Any:
    """Call a host function for the code and report it."""

    @with_callbacks  # type: ignore[untyped-decorator]
    def invoke_tool(instance: Any, tool_name: str, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
        return call()

    named = {key: callback_value(value) for key, value in keywords.items()}
    return invoke_tool(sandbox, name, [callback_value(value) for value in arguments], named)
