"""How our classes show themselves to people: arguments to editors."""

from __future__ import annotations

import inspect


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
