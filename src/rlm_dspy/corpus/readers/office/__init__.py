"""Convert HTML, PDF and office files to text, as a separate program started by ``converter``.

Its readers parse hostile input, partly in C, so they run in a process that may crash, hang or be killed without harm.
The folder is self-contained (``python -I office/__main__.py``) and imports nothing else from this package.
"""

from .request_loop import answer, main

__all__ = ["answer", "main"]
