"""Faster start of a question, without heavy imports."""

from __future__ import annotations

import contextlib
import os
import threading
import tomllib
from pathlib import Path

import click

from rlm_dspy import safe_files
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


def home_folder() -> Path:
    """Return the setting ``home`` without loading the settings: the environment, the user's file, the default."""
    if os.environ.get("RLM_DSPY_HOME"):
        return safe_files.cache_folder()
    if not user_toml().is_file():  # a named pipe would be waited for
        return safe_files.cache_folder()
    with contextlib.suppress(OSError, ValueError):  # other commands report a broken file
        home = tomllib.loads(user_toml().read_text(encoding="utf-8-sig")).get("home")
        if isinstance(home, str) and home:
            return Path(home).expanduser()
    return safe_files.cache_folder()
