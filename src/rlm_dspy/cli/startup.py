"""Faster start of a question, without heavy imports."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import click

from rlm_dspy.errors import RLMError


def warm_sandbox() -> None:
    """Start the sandbox during the imports; its first user waits for it and gets any error again."""
    from rlm_dspy.sandbox import Sandbox, default_factory, prewarm

    def start() -> None:
        with contextlib.suppress(RLMError, OSError):
            prewarm()

    if default_factory() is Sandbox:
        threading.Thread(target=start, name="sandbox-start", daemon=True).start()


def user_toml() -> Path:
    """Return the user's settings file (``$XDG_CONFIG_HOME/rlm-dspy/config.toml`` on Linux)."""
    return Path(click.get_app_dir("rlm-dspy")) / "config.toml"
