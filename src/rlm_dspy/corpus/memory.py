"""How much memory there is for a corpus, where the system tells it."""

from __future__ import annotations

from pathlib import Path

_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes that can be had without ending other programs, in this container too; None if unknown."""
    known = [size for size in (_of_system(), _of_group()) if size is not None]
    return min(known, default=None)


def _of_system() -> int | None:
    kilobytes = _figures(_SYSTEM).get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _of_group() -> int | None:
    most, used = _figure(_GROUP / "memory.max"), _figure(_GROUP / "memory.current")
    if most is None or used is None:
        return None
    return most - used + _figures(_GROUP / "memory.stat").get("inactive_file", 0)


def _figure(file: Path) -> int | None:
    """Read a file that holds one number; one of another kind ("max") tells nothing."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _figures(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for line in lines if len(words := line.split()) > 1 and words[1].isdigit()}
