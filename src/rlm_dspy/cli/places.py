"""Folders that the command uses, by the platform's custom."""

from __future__ import annotations

from pathlib import Path

import click


def user_toml() -> Path:
    """Return the user's settings file (``$XDG_CONFIG_HOME/rlm-dspy/config.toml`` on Linux)."""
    return Path(click.get_app_dir("rlm-dspy")) / "config.toml"
