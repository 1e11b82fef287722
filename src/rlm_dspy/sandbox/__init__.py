"""A native CPython that confines untrusted code, starts in milliseconds and keeps its state."""

from .execution import Execution
from .interpreter import Sandbox, default_factory
from .pool import prewarm
from .selftest import ProbeResult, report, selftest
from .variables import Mapped

__all__ = ["Execution", "Mapped", "ProbeResult", "Sandbox", "default_factory", "prewarm", "report", "selftest"]
