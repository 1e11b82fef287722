"""A cache of fetched objects, keyed by their address and etag, so that only what changed is fetched again."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from typing import Any

import diskcache

from rlm_dspy import folders

logger = logging.getLogger(__name__)

MOST_BYTES = 2 << 30

_DIGEST_BYTES = 32
_FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Store bytes only; nothing in the folder is ever unpickled."""

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode == diskcache.core.MODE_PICKLE:
            raise ValueError("a pickle, which this cache never stores")
        return super().fetch(mode, filename, value, read)


class ObjectCache:
    """The cache for one read; without a usable folder, or with ``RLM_DSPY_NO_CACHE``, it does nothing."""

    def __init__(self) -> None:
        self._cache: diskcache.Cache | None = None
        if os.environ.get("RLM_DSPY_NO_CACHE"):
            return
        try:
            folder = folders.cache_folder() / "objects"
            folders.make_private(folder)
            self._cache = diskcache.Cache(
                str(folder), disk=_BytesDisk, size_limit=MOST_BYTES, eviction_policy="least-recently-used"
            )
        except _FAILURES as error:
            logger.debug("no cache of objects: %s", error)

    def stored_bytes(self, key: str) -> bytes | None:
        """Return the bytes kept under a key, or None if there are none or they are damaged."""
        if self._cache is None:
            return None
        try:
            value = self._cache.get(key, retry=False)
        except (*_FAILURES, ValueError, TypeError) as error:
            logger.debug("a cached object could not be read: %s", error)
            return None
        if not isinstance(value, bytes):
            return None
        data = value[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == value[:_DIGEST_BYTES] else None

    def keep_bytes(self, key: str, data: bytes) -> None:
        """Keep the bytes of an object, unless it would fill much of the cache."""
        if self._cache is None or len(data) > MOST_BYTES // 8:
            return
        try:
            self._cache.set(key, hashlib.sha256(data).digest() + data, retry=False)
        except _FAILURES as error:
            logger.debug("an object could not be cached: %s", error)

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache is not None:
            self._cache.close()
