"""The package's files: private folders, files written whole, journals of rows, locks.

The system releases a lock when its file is closed or its process ends, however it ends. Windows has other calls for
locks: that half is written from documentation and was only run against a stand-in.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rlm_dspy.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RAISE_FILE_LIMIT = "raise this process's limit on the size of files (ulimit -f)"

_ADD_SEALS, _ALL_SEALS = 1033, 0x0F
_BEYOND = (1 << 31) - 2  # the byte that is locked on Windows, where other processes cannot read a locked byte
_POLL_SECONDS = 0.05

Row = TypeVar("Row")


class _OpenFile(Protocol):
    def fileno(self) -> int: ...


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


def entry_error(folder: Path) -> str | None:
    """Return which folder on the way to this one cannot be entered, and why; None if it can, or does not exist yet."""
    for place in (*reversed(folder.parents), folder):
        try:
            os.stat(os.path.join(place, "."))
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{place} cannot be entered: {error.strerror}"
    return None


def protect_dspy_cache() -> None:
    """Close DSPy's folder of cached replies to other users, unless it is shared (writable by others) on purpose."""
    with contextlib.suppress(OSError):  # no such folder
        folder = Path(os.environ.get("DSPY_CACHEDIR") or user_folder() / ".dspy_cache")
        mode = folder.stat().st_mode
        if mode & 0o077 and not mode & 0o022:
            folder.chmod(0o700)


def user_folder() -> Path:
    """Return the user's home folder, or ``/`` if the system knows none, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def cache_folder() -> Path:
    """Return ``$RLM_DSPY_HOME``, or ``rlm-dspy`` in the platform's cache folder."""
    if home := os.environ.get("RLM_DSPY_HOME"):
        return Path(os.path.expanduser(home))
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "rlm-dspy"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user_folder()) / "rlm-dspy" / "cache"
    if sys.platform == "darwin":
        return user_folder() / "Library" / "Caches" / "rlm-dspy"
    return user_folder() / ".cache" / "rlm-dspy"


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write data to an open file.

    Raises:
        OSError: it cannot be written; if a limit of this process forbids files of its size, the message names it.
    """
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise OSError(errno.EFBIG, f"{error.strerror}; {RAISE_FILE_LIMIT}") from error
        raise


def anonymous_file(name: str) -> int:
    """Return the descriptor of a file without a path; on Linux it is in memory, and can be sealed."""
    if sys.platform == "linux":
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def seal_file(descriptor: int) -> None:
    """Make the content of an anonymous file immutable for every process, where the system can."""
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, _ADD_SEALS, _ALL_SEALS)


def write_private(path: Path, text: str) -> Path:
    """Write a file that only the user can read, whole or not at all, and return its path.

    Raises:
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        # A pipe or a device cannot be replaced, and must not be.
        path.write_text(text, encoding="utf-8")
        return path
    path = path.resolve()  # write to a link's target and keep the link
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [text.encode()], mode=0o600)
    return path


def replace_file(path: Path, parts: Iterable[bytes], *, mode: int = 0o666) -> None:
    """Write these parts to ``path``, whole or not at all; a new file gets ``mode`` (less the umask).

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:80]}.{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def append_row(path: Path, row: str) -> None:
    """Append a row to a journal.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(row + "\n")


def append_line(descriptor: int, line: bytes, *, sync: bool = True) -> None:
    """Append a line to an open file, on disk if ``sync``; one that cannot be written whole is removed again.

    Raises:
        OSError: the disk is full, or the file cannot be written for another reason.
    """
    size = os.fstat(descriptor).st_size
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if sync:
            os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def read_rows(path: Path, read: Callable[[bytes], Row], *, repair: bool = False) -> list[Row]:
    """Return the rows of a journal, one per line; an incomplete last line is ignored.

    Args:
        path: the journal; a missing file has no rows.
        read: parses a line to a row, or raises a ``ValueError``.
        repair: remove an incomplete last line from the file, so that rows can be appended.

    Raises:
        ConfigurationError: the file cannot be read, or a line is not a row; the file is left unchanged.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. Choose another file.") from error
    # An incomplete row is not valid JSON. A last line that is valid must be a row, or the file is not a journal.
    torn = b'{"'.startswith(rest[:2]) and not _is_json(rest)
    rows = []
    for number, line in enumerate(lines if torn else [*lines, rest], 1):
        try:
            rows.append(read(line))
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path}:{number} is not a row of this journal; choose another file") from error
    if rest and repair:
        os.truncate(path, path.stat().st_size - len(rest))
    return rows[: len(lines)]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def try_lock(file: _OpenFile | int, *, shared: bool = False) -> bool:
    """Lock an open file if nobody else has it, and return whether it is locked now; ``shared`` is for readers."""
    descriptor = file if isinstance(file, int) else file.fileno()
    try:
        if fcntl is None:
            _lock_byte(descriptor)
        else:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # how Linux and Windows report that another process has it
        return False
    return True


def lock(file: _OpenFile | int) -> None:
    """Wait until nobody else has an open file locked, and lock it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while not try_lock(file):
        time.sleep(_POLL_SECONDS)


def _lock_byte(descriptor: int) -> None:
    import msvcrt

    windows: Any = msvcrt  # its functions are unknown to a type checker on Linux
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        windows.locking(descriptor, windows.LK_NBLCK, 1)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
