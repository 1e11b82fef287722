"""The package's folders, in the platform's usual place and closed to other users."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder that only the user can read; close an existing one to others.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):  # another user's folder, or a file system without modes
            folder.chmod(0o700)


def protect_dspy_cache() -> None:
    """Close DSPy's folder of cached replies to other users, unless it is shared (writable by others) on purpose."""
    with contextlib.suppress(OSError, RuntimeError):  # no such folder, or no home
        folder = Path(os.environ.get("DSPY_CACHEDIR") or Path.home() / ".dspy_cache")
        mode = folder.stat().st_mode
        if mode & 0o077 and not mode & 0o022:
            folder.chmod(0o700)


def cache_folder() -> Path:
    """Return ``$RLM_DSPY_HOME``, or ``rlm-dspy`` in the platform's cache folder."""
    if home := os.environ.get("RLM_DSPY_HOME"):
        return Path(home).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "rlm-dspy"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "rlm-dspy" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rlm-dspy"
    return Path.home() / ".cache" / "rlm-dspy"
