"""What lets a question start sooner."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

from rlm_dspy.errors import RLMError


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Put garbage collection off, which finds next to nothing while modules are imported."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm_sandbox() -> None:
    """Start the sandbox beside the imports; whoever needs it then waits for it, and meets its errors anew."""
    from rlm_dspy.sandbox import Sandbox, default_factory, prewarm

    def start() -> None:
        with contextlib.suppress(RLMError, OSError):
            prewarm()

    if default_factory() is Sandbox:
        threading.Thread(target=start, name="sandbox-start", daemon=True).start()
