"""Folders that the command uses, by the platform's custom."""

from __future__ import annotations

from pathlib import Path

import click

from rlm_dspy import folders


def user_toml() -> Path:
    """Return the user's settings file (``$XDG_CONFIG_HOME/rlm-dspy/config.toml`` on Linux)."""
    return Path(click.get_app_dir("rlm-dspy")) / "config.toml"


def default_home() -> Path:
    """Return the folder for runs: ``rlm-dspy`` in the platform's cache folder, which converted texts share."""
    return folders.cache()
