"""A cache of fetched objects, keyed by their address and etag, so that only what changed is fetched again."""

from __future__ import annotations

import hashlib
import logging
import os

import diskcache

from rlm_dspy.corpus import disk_cache

logger = logging.getLogger(__name__)

MOST_BYTES = 2 << 30

_DIGEST_BYTES = 32


class ObjectCache:
    """The cache for one read; without a usable folder, or with ``RLM_DSPY_NO_CACHE``, it does nothing."""

    def __init__(self) -> None:
        self._cache: diskcache.Cache | None = None
        if os.environ.get("RLM_DSPY_NO_CACHE"):
            return
        try:
            self._cache = disk_cache.open_cache("objects", disk_cache.BytesDisk, MOST_BYTES)
        except disk_cache.FAILURES as error:
            logger.debug("no cache of objects: %s", error)

    def stored_bytes(self, key: str) -> bytes | None:
        """Return the bytes kept under a key, or None if there are none or they are damaged."""
        if self._cache is None:
            return None
        try:
            value = self._cache.get(key, retry=False)
        except (*disk_cache.FAILURES, ValueError, TypeError) as error:
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
        except disk_cache.FAILURES as error:
            logger.debug("an object could not be cached: %s", error)

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache is not None:
            self._cache.close()
