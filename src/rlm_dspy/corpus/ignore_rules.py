"""Git's ignore rules, and the files git tracks according to its index.

The files are parsed here because running git could execute commands from an untrusted configuration. The index format
is that of gitformat-index(5), versions 2 to 4.

Patterns are matched here, too: no pattern of an unknown folder can backtrack for long. Those of pathspec can, so they
match only what the user asks to include.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm_dspy.safe_files import entry_error, user_folder

MAX_INDEX_BYTES = 500_000_000
NOT_HONOURED = "its rules are not honoured"

Unread = dict[str, str]  # why git's files could not be used, by path
_FIXED = 62  # bytes of an entry before its name, for SHA-1
_EXTENDED = 0x4000


@dataclass(frozen=True)
class Tracked:
    """Absolute paths of the files git tracks in a repository, and of the folders that contain them."""

    files: frozenset[str] = frozenset()
    folders: frozenset[str] = field(default=frozenset(), repr=False)


def _tracked_below(top: Path, index: Path, unread: Unread) -> Tracked:
    """Return the files listed in a git index; empty if it is missing or cannot be used (``unread`` says why)."""
    try:
        data = _file_bytes(index, MAX_INDEX_BYTES)
        names = list(_index_names(data)) if data is not None else []
    except (OSError, ValueError, struct.error, IndexError) as error:
        if isinstance(error, OSError):
            reason = _reason(error)
        else:
            reason = "it is damaged"
        unread[str(index)] = f"the files that it lists are not read if a rule ignores them: {reason}"
        return Tracked()
    files = frozenset(os.path.join(top, name) for name in names)
    folders: set[str] = set()
    for path in files:
        folder = os.path.dirname(path)
        while folder not in folders and len(folder) >= len(str(top)):
            folders.add(folder)
            folder = os.path.dirname(folder)
    return Tracked(files, frozenset(folders))


def _index_names(data: bytes) -> Iterator[str]:
    """Yield the names of an index.

    Raises:
        ValueError, struct.error, IndexError: It is not an index, or it is truncated.
    """
    magic, version, count = struct.unpack_from(">4sII", data)
    if magic != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("not a git index")
    at, before = 12, b""
    for _ in range(count):
        (flags,) = struct.unpack_from(">H", data, at + _FIXED - 2)
        start = at + _FIXED + (2 if flags & _EXTENDED else 0)
        cut = 0
        if version == 4:
            cut, start = _read_varint(data, start)
        end = data.index(b"\0", start)
        if version == 4:
            name = before[: len(before) - cut] + data[start:end]
        else:
            name = data[start:end]
        before = name
        yield os.fsdecode(name)
        # Versions 2 and 3 pad entries with NULs to a multiple of eight bytes.
        at = end + 1 if version == 4 else at + (end - at + 8) // 8 * 8


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a variable-length number in git's encoding, and where it ends."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 0x7F)
    return value, at + 1


_ANY = re.compile(r".*", re.DOTALL)
_NONE = re.compile(r"(?!)")  # matches nothing
_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "space": r"\s",
    "xdigit": "0-9a-fA-F", "punct": r"!-\/:-@\[-`{-~", "blank": r" \t", "word": r"\w",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One pattern; ``parts`` match the path's parts one by one, None matches any number of them."""

    parts: tuple[re.Pattern[str] | None, ...]
    negated: bool
    folders_only: bool
    anywhere: bool

    def matches(self, names: Sequence[str], is_folder: bool) -> bool:
        """Return whether the pattern matches a path, split into parts, below the folder of its file."""
        if self.folders_only and not is_folder:
            return False
        return _parts_match(self.parts, names[-1:] if self.anywhere else names)


def parse_rules(lines: Iterable[str]) -> tuple[Rule, ...]:
    """Parse the lines of a file, skipping those that git ignores as invalid."""
    return tuple(rule for line in lines if (rule := _parse_rule(line)) is not None)


def verdict(rules: Sequence[Rule], names: Sequence[str], is_folder: bool) -> bool | None:
    """Return True for ignored, False for re-included, None if no rule matches."""
    return next((not rule.negated for rule in reversed(rules) if rule.matches(names, is_folder)), None)


def _parse_rule(line: str) -> Rule | None:
    line = re.sub(r"(?<!\\) +$", "", line.removesuffix("\r"))
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    pattern = line[negated:].replace("\\/", "/")
    folders_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    anywhere = "/" not in pattern
    parts: list[re.Pattern[str] | None] = []
    try:
        for text in pattern.removeprefix("/").split("/"):
            is_any_depth = not anywhere and re.fullmatch(r"\*\*+", text)
            parts.append(None if is_any_depth else _compile_part(text))
    except (ValueError, re.error):
        return None
    if parts[-1] is None:
        parts.insert(-1, _ANY)  # "folder/**" matches the contents, not the folder
    if pattern:
        return Rule(tuple(parts), negated, folders_only, anywhere)
    return None


def _parts_match(parts: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    """Match parts against names; after a mismatch the last "**" takes one more name."""
    part_at = name_at = resume_at = 0
    stars_at = -1  # where the last "**" is
    while name_at < len(names):
        part = parts[part_at] if part_at < len(parts) else _NONE
        if part is None:
            stars_at, resume_at, part_at = part_at, name_at, part_at + 1
        elif part.fullmatch(names[name_at]):
            part_at, name_at = part_at + 1, name_at + 1
        elif stars_at >= 0:
            resume_at += 1
            part_at, name_at = stars_at + 1, resume_at
        else:
            return False
    return all(part is None for part in parts[part_at:])


def _compile_part(text: str) -> re.Pattern[str]:
    """Compile one part of a pattern; each star but the last is atomic, so that no pattern backtracks for long."""
    chunks, place = [""], 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "*":
            chunks.append("")
        elif char == "?":
            chunks[-1] += "."
        elif char == "[":
            one, place = _translate_bracket(text, place)
            chunks[-1] += one
        elif char == "\\":
            if place == len(text):
                raise ValueError("a backslash at the end escapes nothing")
            chunks[-1] += re.escape(text[place])
            place += 1
        else:
            chunks[-1] += re.escape(char)
    middle = "".join(f"(?>.*?{chunk})" for chunk in chunks[1:-1])
    return re.compile(chunks[0] + middle + (".*" + chunks[-1] if len(chunks) > 1 else ""), re.DOTALL)


def _translate_bracket(text: str, place: int) -> tuple[str, int]:
    """Translate a bracket expression from after its bracket on; return it and where it ends."""
    negated = text[place : place + 1] in ("!", "^")
    place += negated
    items, first = [], place
    while place < len(text) and (text[place] != "]" or place == first):
        named = re.compile(r"\[:(\w+):\]").match(text, place)
        if named:
            items.append(_CLASSES.get(named[1], ""))
            place = named.end()
            continue
        low, place = _read_literal(text, place)
        high = low
        if text[place : place + 1] == "-" and text[place + 1 : place + 2] not in ("", "]"):
            high, place = _read_literal(text, place + 1)
        items.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else re.escape(low))
    if place >= len(text):
        raise ValueError("a set of characters is not closed")
    inside = "".join(items)
    if not inside:
        return ("." if negated else "(?!)"), place + 1
    return f"[{'^' if negated else ''}{inside}]", place + 1


def _read_literal(text: str, place: int) -> tuple[str, int]:
    place += text[place] == "\\" and place + 1 < len(text)
    return text[place], place + 1


MAX_PATTERN_BYTES = 10_000_000  # of a file of patterns
MAX_INCLUDES = 10  # configuration files that include one another
_SECTION = re.compile(r"\[\s*([\w.-]+)[^\]\n]*\]")
_VALUE = re.compile(r'(?:"[^"\n]*"|[^"#;\n])*')  # up to a comment


@dataclass(frozen=True)
class Layer:
    """The rules of one file; they apply to paths below ``folder``."""

    folder: str
    rules: tuple[Rule, ...]

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Return True for ignored, False for re-included, None if no rule matches."""
        names = path[len(self.folder) :].replace(os.sep, "/").strip("/").split("/")
        return verdict(self.rules, names, is_folder)


def is_ignored(layers: tuple[Layer, ...], path: str, is_folder: bool) -> bool:
    """Return whether the layers ignore a path; the deepest layer with a matching rule decides."""
    for layer in reversed(layers):
        verdict = layer.verdict(path, is_folder)
        if verdict is not None:
            return verdict
    return False


def layers_above(root: str, unread: Unread) -> tuple[Layer, ...]:
    """Collect the rules that apply to a folder from above: the repository's own and those of parent folders.

    If these rules ignore the folder itself, it was named on purpose and they do not apply. Files that exist and cannot
    be read are added to ``unread``.
    """
    top = _repository_root(Path(root))
    if top is None:
        return ()
    git = _git_folder(top, unread)
    layers = _layers_of_file(_own_excludes(git, unread), str(top), unread)
    if git is not None:
        layers += _layers_of_file(git / "info" / "exclude", str(top), unread)
    for folder in reversed(Path(root).parents):
        if folder == top or (top in folder.parents and not is_ignored(layers, str(folder), True)):
            layers += layer_in(str(folder), unread)
        elif top in folder.parents:
            return ()
    if Path(root) != top and is_ignored(layers, root, True):
        return ()
    return layers


def layer_in(folder: str, unread: Unread) -> tuple[Layer, ...]:
    """Read the rules in a folder's own ignore files; those that exist and cannot be read are added to ``unread``."""
    return _layers_of_file(Path(folder, ".gitignore"), folder, unread)


def _layers_of_file(file: Path, folder: str, unread: Unread) -> tuple[Layer, ...]:
    text = _file_text(file, unread)
    rules = parse_rules(text.removeprefix("\ufeff").split("\n"))
    if rules:
        return (Layer(folder, rules),)
    return ()


def _file_text(file: Path, unread: Unread) -> str:
    """Return the text of a small file, empty if it is missing or cannot be used (``unread`` says why)."""
    try:
        data = _file_bytes(file, MAX_PATTERN_BYTES)
    except OSError as error:
        unread[str(file)] = f"{NOT_HONOURED}: {_reason(error)}"
        return ""
    return (data or b"").decode("utf-8", "replace").replace("\r\n", "\n")


def _file_bytes(file: Path, most: int) -> bytes | None:
    """Return the bytes of a file, None if there is no such file; a device, such as /dev/null, counts as none.

    Raises:
        OSError: it cannot be read, is too large, or is a pipe or a folder.
    """
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISCHR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > most:
        raise OSError(errno.EFBIG, "it is too large")
    return file.read_bytes()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _repository_root(root: Path) -> Path | None:
    # os.path.exists returns False for a folder without permission; Path.exists would raise.
    return next((folder for folder in (root, *root.parents) if os.path.exists(folder / ".git")), None)


def tracked_around(root: str, unread: Unread) -> Tracked:
    """Return the files git tracks in the repository around a folder; they are read even if a rule matches them."""
    top = _repository_root(Path(root))
    git = _git_folder(top, unread, shared=False) if top is not None else None
    if top is None or git is None:
        return Tracked()
    return _tracked_below(top, git / "index", unread)


def everything_in(folder: str) -> Layer:
    """Return a layer that ignores everything in a folder, so that only tracked files are read."""
    return Layer(folder, parse_rules(["*"]))


def _own_excludes(git: Path | None, unread: Unread) -> Path:
    """Return the path of the user's global patterns: ``core.excludesFile``, or git's default."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or user_folder() / ".config") / "git"
    named = None
    for file in (config / "config", user_folder() / ".gitconfig"):
        named = _excludes_in(file, {}) or named  # like git, say nothing if the user's configuration cannot be read
    if git is not None:
        named = _excludes_in(git / "config", unread) or named
    if named:
        return Path(os.path.expanduser(named))
    return config / "ignore"


def _excludes_in(file: Path, unread: Unread, depth: int = 0) -> str | None:
    """Return ``core.excludesFile`` from a git configuration file and those that it includes."""
    excludes = None
    for section, name, value in _config_values(_file_text(file, unread)):
        if (section, name) == ("core", "excludesfile"):
            excludes = value
        elif (section, name) == ("include", "path") and depth < MAX_INCLUDES:
            excludes = _excludes_in(file.parent / os.path.expanduser(value), unread, depth + 1) or excludes
    return excludes


def _config_values(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the section, the name and the value of each setting of a git configuration."""
    section = ""
    for line in text.split("\n"):
        rest = line.strip()
        if header := _SECTION.match(rest):
            section, rest = header[1].lower(), rest[header.end() :].strip()
        name, equals, value = rest.partition("=")
        if equals and not rest.startswith(("#", ";")):
            pieces = _VALUE.match(value)
            yield section, name.strip().lower(), pieces[0].strip().replace('"', "") if pieces else ""


def _git_folder(top: Path, unread: Unread, *, shared: bool = True) -> Path | None:
    """Return the folder of a repository's data, None if it cannot be entered; ``shared``: that of all worktrees."""
    git = top / ".git"
    try:
        if git.is_file():  # a worktree or submodule: the file names the real folder, which may point to a shared one
            git = top / git.read_text("utf-8", errors="replace").removeprefix("gitdir:").strip()
            common = git / "commondir"
            if shared and common.is_file():
                git = git / common.read_text("utf-8", errors="replace").strip()
    except OSError as error:
        unread[str(top / ".git")] = f"{NOT_HONOURED}: {_reason(error)}"
        return None
    if blocked := entry_error(git):
        unread[str(top / ".git")] = f"{NOT_HONOURED}: {blocked}"
        return None
    return git
