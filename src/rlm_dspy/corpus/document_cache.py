"""A cache of converted texts, keyed by file content, so that each file is converted once; and the memory available."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import diskcache

from rlm_dspy.corpus import disk_cache
from rlm_dspy.corpus.readers.reader import Converted, Outcome, Reader

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 30


class ConversionCache:
    """The cache for one read, opened on first use; without a usable folder it does nothing."""

    def __init__(self) -> None:
        self._cache: diskcache.Cache | None = None
        self._off = disk_cache.is_turned_off()

    def converted(self, reader: Reader, data: bytes, make: Callable[[], Outcome]) -> Outcome:
        """Return the cached conversion of these bytes, or convert them now; only a single complete text is cached."""
        cache = self._opened_cache() if reader.version else None
        if cache is None:
            return make()
        key = f"{reader.name}/{reader.version}/{hashlib.sha256(data).hexdigest()}"
        found = self._cached_conversion(cache, key)
        if found is not None:
            return found
        made = make()
        if not isinstance(made, Converted) or made.late:
            return made
        try:
            cache.set(key, [made.text, made.marks, made.note], retry=False)
        except disk_cache.FAILURES as error:
            logger.debug("a converted text could not be cached: %s", error)
        return made

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def _cached_conversion(self, cache: diskcache.Cache, key: str) -> Converted | None:
        try:
            value = cache.get(key, retry=False)
            if value is None:
                return None
            text, marks, note = value
            return Converted(text, tuple((line, what, counted) for line, what, counted in marks), note)
        except (*disk_cache.FAILURES, ValueError, TypeError, zlib.error) as error:
            logger.debug("a cached text could not be read: %s", error)
            return None

    def _opened_cache(self) -> diskcache.Cache | None:
        if self._cache is None and not self._off:
            try:
                self._cache = disk_cache.open_cache("documents", disk_cache.JsonDisk, MOST_BYTES)
            except disk_cache.FAILURES as error:
                logger.debug("no cache of converted texts: %s", error)
                self._off = True
        return self._cache


_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes of memory available in this system and container, or None if unknown."""
    known = [size for size in (_of_system(), _of_group()) if size is not None]
    return min(known, default=None)


def _of_system() -> int | None:
    kilobytes = _numbers_by_name(_SYSTEM).get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _of_group() -> int | None:
    most, used = _number_in_file(_GROUP / "memory.max"), _number_in_file(_GROUP / "memory.current")
    if most is None or used is None:
        return None
    return most - used + _numbers_by_name(_GROUP / "memory.stat").get("inactive_file", 0)


def _number_in_file(file: Path) -> int | None:
    """Read a file that holds one number; return None for anything else, such as "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _numbers_by_name(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for line in lines if len(words := line.split()) > 1 and words[1].isdigit()}
