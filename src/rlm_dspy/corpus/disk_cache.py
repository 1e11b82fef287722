"""Caches on disk of which nothing is ever unpickled, least recently used first to go."""

from __future__ import annotations

import sqlite3
from typing import Any

import diskcache

from rlm_dspy import folders

FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)


class _WithoutPickles:
    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode == diskcache.core.MODE_PICKLE:
            raise ValueError("a pickle, which this cache never stores")
        return super().fetch(mode, filename, value, read)  # type: ignore[misc]  # diskcache's method


class BytesDisk(_WithoutPickles, diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Stores bytes only."""


class JsonDisk(_WithoutPickles, diskcache.JSONDisk):  # type: ignore[misc]  # diskcache has no types
    """Stores JSON only."""


def open_cache(name: str, disk: type[BytesDisk | JsonDisk], most_bytes: int) -> diskcache.Cache:
    """Open the cache in the folder of this name.

    Raises:
        OSError, sqlite3.Error, diskcache.Timeout: it cannot be used; see ``FAILURES``.
    """
    folder = folders.cache_folder() / name
    folders.make_private(folder)
    return diskcache.Cache(str(folder), disk=disk, size_limit=most_bytes, eviction_policy="least-recently-used")
