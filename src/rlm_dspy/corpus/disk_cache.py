"""Disk caches that never unpickle data, among them the cache of fetched objects.

The least recently used entries are evicted first. An object's key is its address and etag, so that only changed objects
are fetched again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import zlib
from typing import Any

import diskcache

from rlm_dspy import safe_files

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


class DiskCache:
    """A cache in a folder of its own; without a usable folder, or with ``RLM_DSPY_NO_CACHE``, it does nothing.

    Args:
        name: The name of the folder.
        disk: How values are stored.
        most_bytes: The size above which the least recently used entries are evicted.
    """

    def __init__(self, name: str, disk: type[BytesDisk | JsonDisk], most_bytes: int) -> None:
        self._name = name
        self._disk = disk
        self._most_bytes = most_bytes
        self._off = is_turned_off()
        self._cache: diskcache.Cache | None = None

    def get(self, key: str) -> Any:
        """Return what is stored under a key, or None if there is nothing or it cannot be read."""
        try:
            if not self._off:
                return self._opened().get(key, retry=False)
            return None
        except (*FAILURES, ValueError, TypeError, zlib.error) as error:
            logger.debug("the cache of %s cannot be read: %s", self._name, error)
            return None

    def set(self, key: str, value: Any) -> None:
        """Store a value, if possible."""
        try:
            if not self._off:
                self._opened().set(key, value, retry=False)
        except FAILURES as error:
            logger.debug("the cache of %s cannot be written: %s", self._name, error)

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def _opened(self) -> diskcache.Cache:
        if self._cache is None:
            folder = safe_files.cache_folder() / self._name
            try:
                safe_files.make_private(folder)
                options = {"size_limit": self._most_bytes, "eviction_policy": "least-recently-used"}
                self._cache = diskcache.Cache(str(folder), disk=self._disk, **options)
            except FAILURES:
                self._off = True
                raise
        return self._cache


class ObjectCache(DiskCache):
    """The cache of fetched objects for one read."""

    def __init__(self) -> None:
        super().__init__("objects", BytesDisk, MOST_OBJECT_BYTES)

    def stored_bytes(self, key: str) -> bytes | None:
        """Return the bytes kept under a key, or None if there are none or they are damaged."""
        value = self.get(key)
        if not isinstance(value, bytes):
            return None
        data = value[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() == value[:_DIGEST_BYTES]:
            return data
        return None

    def keep_bytes(self, key: str, data: bytes) -> None:
        """Keep the bytes of an object, unless it would fill much of the cache."""
        if len(data) <= MOST_OBJECT_BYTES // 8:
            self.set(key, hashlib.sha256(data).digest() + data)
