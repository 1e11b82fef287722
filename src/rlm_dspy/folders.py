"""The folder that this package keeps things in, by the platform's custom."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache() -> Path:
    """Return ``$RLM_DSPY_HOME``, or else ``rlm-dspy`` in the platform's cache folder."""
    if home := os.environ.get("RLM_DSPY_HOME"):
        return Path(home).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "rlm-dspy"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "rlm-dspy" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rlm-dspy"
    return Path.home() / ".cache" / "rlm-dspy"
