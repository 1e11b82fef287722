"""Pages, PDF and office files to text: a program of its own, started by ``converter``.

Its readers parse hostile input, partly in C, so they run in a process that may die, hang or be killed without harm. The
folder stands alone (``python -I office/__main__.py``) and imports nothing of this package.
"""

from .process import answer, main

__all__ = ["answer", "main"]
