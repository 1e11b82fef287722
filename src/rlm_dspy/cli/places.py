"""Folders that the command uses, by the platform's custom."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


def user_toml() -> Path:
    """Return the user's settings file (``$XDG_CONFIG_HOME/rlm-dspy/config.toml`` on Linux)."""
    return Path(click.get_app_dir("rlm-dspy")) / "config.toml"


def default_home() -> Path:
    """Return the folder for runs: ``rlm-dspy`` in the platform's cache folder."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "rlm-dspy"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "rlm-dspy" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rlm-dspy"
    return Path.home() / ".cache" / "rlm-dspy"
