"""A cache of converted texts, keyed by file content, so that each file is converted once; and the memory available."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlm_dspy.corpus.disk_cache import DiskCache, JsonDisk
from rlm_dspy.corpus.readers.reader import Converted, Outcome, Reader

MOST_BYTES = 1 << 30


class ConversionCache(DiskCache):
    """The cache of converted texts for one read."""

    def __init__(self) -> None:
        super().__init__("documents", JsonDisk, MOST_BYTES)

    def converted(self, reader: Reader, data: bytes, make: Callable[[], Outcome]) -> Outcome:
        """Return the cached conversion of these bytes, or convert them now; only a single complete text is cached."""
        if not reader.version:
            return make()
        key = f"{reader.name}/{reader.version}/{hashlib.sha256(data).hexdigest()}"
        kept = _as_converted(self.get(key))
        if kept is not None:
            return kept
        result = make()
        if isinstance(result, Converted) and not result.late:
            self.set(key, [result.text, result.marks, result.note])
        return result


def _as_converted(stored: Any) -> Converted | None:
    try:
        text, marks, note = stored
        return Converted(text, tuple((line, what, counted) for line, what, counted in marks), note)
    except (ValueError, TypeError):  # nothing is stored, or something else
        return None


_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes of memory available in this system and container, or None if unknown."""
    known = [size for size in (_of_system(), _of_group()) if size is not None]
    return min(known, default=None)


def _of_system() -> int | None:
    kilobytes = _numbers_by_name(_SYSTEM).get("MemAvailable:")
    if kilobytes is None:
        return None
    return kilobytes * 1024


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
