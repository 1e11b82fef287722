"""How our classes show themselves to people: values in a line, tables in notebooks, arguments in editors."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterable
from typing import Any

SHOWN_CHARS = 200  # of each value


def one_line(value: Any) -> str:
    """Return a value as one line, cut where it is long."""
    text = " ".join(str(value)[: 10 * SHOWN_CHARS].split())
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def html_table(rows: Iterable[tuple[str, Any]]) -> str:
    """Return rows of a name and a value as an HTML table."""
    cells = ((html.escape(one_line(name)), html.escape(one_line(value))) for name, value in rows)
    lines = (f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in cells)
    return f"<table>{''.join(lines)}</table>"


class ConstructorSignature:
    """Shows ``inspect``, ``help`` and notebooks the arguments of a module, which DSPy's metaclass hides.

    Example:
        >>> class Program(dspy.Module):
        ...     __signature__ = ConstructorSignature()
    """

    def __get__(self, program: object, kind: type) -> inspect.Signature:
        """Return the arguments that making a ``kind`` takes; a program that is made has those of its call."""
        if program is not None:
            raise AttributeError("__signature__")
        whole = inspect.signature(kind.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])
