"""Caches on disk of which nothing is ever unpickled, and the one of fetched objects.

What was used least recently goes first. An object's key is its address and etag, so that only what changed is fetched
again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from typing import Any

import diskcache

from rlm_dspy import folders

logger = logging.getLogger(__name__)

MOST_OBJECT_BYTES = 2 << 30
FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)

_DIGEST_BYTES = 32


def is_turned_off() -> bool:
    """Return whether ``RLM_DSPY_NO_CACHE`` turns the caches off; 0, false and no leave them on."""
    return os.environ.get("RLM_DSPY_NO_CACHE", "").strip().lower() not in ("", "0", "false", "no")


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


class ObjectCache:
    """The cache for one read; without a usable folder, or with ``RLM_DSPY_NO_CACHE``, it does nothing."""

    def __init__(self) -> None:
        self._cache: diskcache.Cache | None = None
        if is_turned_off():
            return
        try:
            self._cache = open_cache("objects", BytesDisk, MOST_OBJECT_BYTES)
        except FAILURES as error:
            logger.debug("no cache of objects: %s", error)

    def stored_bytes(self, key: str) -> bytes | None:
        """Return the bytes kept under a key, or None if there are none or they are damaged."""
        if self._cache is None:
            return None
        try:
            value = self._cache.get(key, retry=False)
        except (*FAILURES, ValueError, TypeError) as error:
            logger.debug("a cached object could not be read: %s", error)
            return None
        if not isinstance(value, bytes):
            return None
        data = value[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == value[:_DIGEST_BYTES] else None

    def keep_bytes(self, key: str, data: bytes) -> None:
        """Keep the bytes of an object, unless it would fill much of the cache."""
        if self._cache is None or len(data) > MOST_OBJECT_BYTES // 8:
            return
        try:
            self._cache.set(key, hashlib.sha256(data).digest() + data, retry=False)
        except FAILURES as error:
            logger.debug("an object could not be cached: %s", error)

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache is not None:
            self._cache.close()
