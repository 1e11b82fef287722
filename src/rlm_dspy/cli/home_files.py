"""The user's settings file, the home folder and small JSON files in it, without heavy imports."""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import click

from rlm_dspy import safe_files


def user_toml() -> Path:
    """Return the user's settings file (``$XDG_CONFIG_HOME/rlm-dspy/config.toml`` on Linux)."""
    folder = Path(click.get_app_dir("rlm-dspy"))
    if folder.parts[0] == "~":  # the home is unknown; do not make a folder "~" in the current one
        folder = safe_files.user_folder().joinpath(*folder.parts[1:])
    return folder / "config.toml"


def home_folder() -> Path:
    """Return the setting ``home`` without loading the settings: the environment, the user's file, the default."""
    if os.environ.get("RLM_DSPY_HOME"):
        return safe_files.cache_folder()
    if not os.path.isfile(user_toml()):  # reading a named pipe would block
        return safe_files.cache_folder()
    with contextlib.suppress(OSError, ValueError):  # other commands report a broken file
        home = tomllib.loads(user_toml().read_text(encoding="utf-8-sig")).get("home")
        if isinstance(home, str) and home:
            return Path(os.path.expanduser(home))
    return safe_files.cache_folder()


def read_home_json(home: Path, name: str) -> Any:
    """Return what a JSON file in the home holds, None if it is missing or damaged."""
    try:
        return json.loads((home / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_home_json(home: Path, name: str, value: Any) -> None:
    """Write a JSON file in the home; where the home cannot be written, nothing is kept."""
    with contextlib.suppress(OSError):
        safe_files.make_private(home)
        safe_files.write_private(home / name, json.dumps(value))


def read_home_texts(name: str) -> list[str]:
    """Return the texts of a JSON list in the home, none if it is missing or damaged."""
    values = read_home_json(home_folder(), name)
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, str)]
