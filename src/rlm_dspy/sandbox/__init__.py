"""A native CPython that untrusted code cannot leave, ready in milliseconds, with state that survives."""

from .execution import Execution
from .handover import Mapped
from .interpreter import Sandbox

__all__ = ["Execution", "Mapped", "Sandbox"]
