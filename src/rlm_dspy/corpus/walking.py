"""Choose the files of a folder to read, in a stable order, and explain why others are skipped."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pathspec import GitIgnoreSpec

from rlm_dspy.corpus.corpus import Skipped
from rlm_dspy.corpus.ignore_rules import (
    Layer,
    Rule,
    Tracked,
    Unread,
    everything_in,
    is_ignored,
    layer_in,
    layers_above,
    tracked_around,
    verdict,
)
from rlm_dspy.corpus.screening import is_secret, noise_folder, noise_reason

IGNORED = "ignored by .gitignore"

_BACKSLASH_SEPARATES = os.sep == "\\"  # then it is in no name, and in every path
_ESCAPE = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


@dataclass(frozen=True)
class FileSelection:
    """The user's choice of files to read and to skip."""

    include: GitIgnoreSpec | None
    exclude: tuple[Rule, ...]
    hidden: bool
    ignore: bool
    secrets: bool


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to read: its path on the host, and its name in the corpus."""

    path: str
    name: str


@dataclass(frozen=True)
class _Folder:
    path: str
    prefix: str
    layers: tuple[Layer, ...] = ()
    tracked: Tracked = field(default_factory=Tracked)


def printable_name(name: str) -> str:
    """Render a file name as one line of valid text, with invalid bytes and control characters escaped.

    No two names look the same: where a part of a name has such an escape already, its backslashes are doubled.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "/".join(map(_printable_part, name.split("/")))


def _printable_part(part: str) -> str:
    if part.isprintable() and (_BACKSLASH_SEPARATES or not _ESCAPE.search(part)):
        return part
    return "".join(map(_escaped_letter, part))


def _escaped_letter(letter: str) -> str:
    code = ord(letter)
    if letter == "\\":
        if _BACKSLASH_SEPARATES:
            return letter
        return "\\\\"
    if letter.isprintable():
        return letter
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:  # a character, not such a byte
        return f"\\u{code:04x}"
    return letter.encode("unicode_escape").decode()


def split_glob(path: str) -> tuple[str, str]:
    """Split a glob into the folder before its first pattern and the rest."""
    parts = path.replace(os.sep, "/").split("/")
    for position, part in enumerate(parts):
        if glob.has_magic(part):
            return "/".join(parts[:position]) or ("/" if path.startswith("/") else "."), "/".join(parts[position:])
    return path, ""


def walk_folder(root: str, choice: FileSelection, only: GitIgnoreSpec | None = None) -> Iterator[FoundFile | Skipped]:
    """Yield the files to read below a folder, and the skipped ones; ``only`` restricts them to a glob."""
    unread: Unread = {}
    first = _Folder(root, "")
    if choice.ignore:
        first = _Folder(root, "", layers_above(root, unread), tracked_around(root, unread))
    pending = [first]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder.path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(printable_name(folder.prefix) or ".", f"unreadable: {error.strerror}")
            continue
        reason = noise_folder(os.path.basename(folder.path), frozenset(entry.name for entry in entries))
        if reason and folder.prefix:
            yield Skipped(printable_name(folder.prefix), reason)
            continue
        layers, tracked = folder.layers, folder.tracked
        is_repository = any(entry.name == ".git" for entry in entries)
        if choice.ignore and folder.prefix and is_repository:
            layers, tracked = layers_above(folder.path, unread), tracked_around(folder.path, unread)
        layers += layer_in(folder.path, unread) if choice.ignore else ()
        yield from _skipped_rules(root, unread)
        below: list[_Folder] = []
        for entry in entries:
            classified = _classify_entry(entry, folder.prefix, layers, choice, only, tracked)
            if isinstance(classified, _Folder):
                below.append(classified)
            elif classified is not None:
                yield classified
        pending.extend(reversed(below))


def _skipped_rules(root: str, unread: Unread) -> Iterator[Skipped]:
    """Yield git's files that could not be read, and forget them."""
    for path, reason in unread.items():
        yield Skipped(printable_name(_relative_name(path, root)), reason)
    unread.clear()


def _relative_name(path: str, root: str) -> str:
    try:
        return os.path.relpath(path, root).replace(os.sep, "/")
    except ValueError:  # another drive of Windows
        return path


def _classify_entry(
    entry: os.DirEntry[str],
    prefix: str,
    layers: tuple[Layer, ...],
    choice: FileSelection,
    only: GitIgnoreSpec | None,
    tracked: Tracked,
) -> FoundFile | Skipped | _Folder | None:
    name = prefix + entry.name
    try:  # from the directory listing, without a stat call for each
        is_folder = entry.is_dir(follow_symlinks=False)
        is_file = entry.is_file(follow_symlinks=False)
    except OSError as error:
        return Skipped(printable_name(name), f"unreadable: {error.strerror}")
    if not is_folder and not is_wanted(name, choice, only) and not _is_linked_folder(entry):
        return None
    reason: str | None = "not a regular file"
    if is_folder or is_file:
        reason = reason_to_skip(entry.path, name, layers, choice, is_folder=is_folder)
    elif entry.is_symlink():
        reason = "a symbolic link: name it to read what it points to"
    if reason == IGNORED and entry.path in tracked.files:
        if choice.include is not None:
            reason = None
        else:
            reason = noise_reason(entry.name)
    if reason == IGNORED and is_folder and entry.path in tracked.folders:
        return _Folder(entry.path, name + "/", (*layers, everything_in(entry.path)), tracked)
    if reason:
        return Skipped(printable_name(name + "/" if is_folder else name), reason)
    if is_folder:
        return _Folder(entry.path, name + "/", layers, tracked)
    return FoundFile(entry.path, printable_name(name))


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a symbolic link to a folder, which may hold wanted files."""
    return entry.is_symlink() and os.path.isdir(entry.path)


def is_wanted(name: str, choice: FileSelection, only: GitIgnoreSpec | None) -> bool:
    """Return whether the patterns to include, and a glob, let a file through."""
    if choice.include is None and only is None:
        return True
    # The matcher takes only valid text: invalid bytes are matched as they are displayed, such as \xe9.
    valid = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return all(spec.match_file(valid) for spec in (choice.include, only) if spec is not None)


def reason_to_skip(
    path: str, name: str, layers: tuple[Layer, ...], choice: FileSelection, *, is_folder: bool
) -> str | None:
    """Return why a file or folder is not read, judging by its path and its name below the root, or None."""
    above, _, last = path.replace(os.sep, "/").rpartition("/")
    secret = not is_folder and is_secret(last, above)
    if secret and not choice.secrets:
        return "looks like a secret"
    if last == ".git" or (last.startswith(".") and not choice.hidden and not secret):
        return "hidden"
    if is_ignored(layers, path, is_folder):
        return IGNORED
    if choice.exclude and verdict(choice.exclude, name.split("/"), is_folder):
        return "excluded"
    if choice.include is None and not is_folder:
        return noise_reason(last)
    return None
