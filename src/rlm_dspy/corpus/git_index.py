"""What git tracks, read from its index: running git in a folder of strangers would run what its settings name.

The format is that of gitformat-index(5), versions 2 to 4.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MOST_BYTES = 500_000_000
_FIXED = 62  # bytes of an entry before its name, with SHA-1
_EXTENDED = 0x4000


@dataclass(frozen=True)
class Tracked:
    """The files that git tracks below a repository's root, by absolute path, and the folders that hold any."""

    files: frozenset[str] = frozenset()
    folders: frozenset[str] = field(default=frozenset(), repr=False)


def tracked_below(top: Path | None, git: Path | None) -> Tracked:
    """Return what the index in a ``.git`` folder lists; nothing if there is none or it cannot be read."""
    if top is None or git is None:
        return Tracked()
    try:
        index = git / "index"
        if not index.is_file() or index.stat().st_size > MOST_BYTES:
            return Tracked()
        names = list(_names(index.read_bytes()))
    except (OSError, ValueError, struct.error, IndexError):
        return Tracked()
    files = frozenset(os.path.join(top, name) for name in names)
    folders: set[str] = set()
    for path in files:
        folder = os.path.dirname(path)
        while folder not in folders and len(folder) >= len(str(top)):
            folders.add(folder)
            folder = os.path.dirname(folder)
    return Tracked(files, frozenset(folders))


def _names(data: bytes) -> Iterator[str]:
    """Yield the names of an index.

    Raises:
        ValueError, struct.error, IndexError: it is no index, or a cut one.
    """
    magic, version, count = struct.unpack_from(">4sII", data)
    if magic != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("no index of git")
    at, before = 12, b""
    for _ in range(count):
        (flags,) = struct.unpack_from(">H", data, at + _FIXED - 2)
        start = at + _FIXED + (2 if flags & _EXTENDED else 0)
        cut = 0
        if version == 4:
            cut, start = _offset(data, start)
        end = data.index(b"\0", start)
        name = before[: len(before) - cut] + data[start:end] if version == 4 else data[start:end]
        before = name
        yield os.fsdecode(name)
        # Entries of versions 2 and 3 are padded with NULs to a multiple of eight bytes.
        at = end + 1 if version == 4 else at + (end - at + 8) // 8 * 8


def _offset(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, as git writes it, and where it ends."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 0x7F)
    return value, at + 1
