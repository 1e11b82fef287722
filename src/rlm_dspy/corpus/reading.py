"""Read paths into a corpus without blocking: named files are read or explained, files below folders are filtered."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import select
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from pathspec import GitIgnoreSpec

from rlm_dspy.corpus import fetching, object_stores
from rlm_dspy.corpus.collecting import Collector, File, Limits, NotReadError
from rlm_dspy.corpus.corpus import Corpus, Skipped
from rlm_dspy.corpus.decoding import known_encoding
from rlm_dspy.corpus.ignore_rules import Rule, parse_rules
from rlm_dspy.corpus.index_pages import is_index
from rlm_dspy.corpus.object_reading import RemoteReader
from rlm_dspy.corpus.screening import is_secret
from rlm_dspy.corpus.walking import FileSelection, FoundFile, printable_name, split_glob, walk_folder
from rlm_dspy.errors import ConfigurationError, CorpusError
from rlm_dspy.redact import Redactor

WRITER_SECONDS = 3  # to wait for a writer on a named pipe

logger = logging.getLogger(__name__)

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class _Root:
    """A path the user named: as typed, where it is, and which files of it to read."""

    typed: str
    path: str
    only: GitIgnoreSpec | None = None


def read(
    paths: Sequence[_Path] | _Path,
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    hidden: bool = False,
    ignore: bool = True,
    secrets: bool = False,
    max_file_bytes: int = Limits.file_bytes,
    max_files: int = Limits.files,
    max_bytes: int = Limits.bytes,
    urls: bool = False,
    encoding: str | None = None,
    stdin: BinaryIO | None = None,
) -> Corpus:
    """Read files, folders, globs, addresses and ``-`` (standard input) into one corpus.

    Args:
        paths: What to read. A file named here is read even if it is hidden or ignored. ``s3://bucket/folder``,
            ``gs://`` and ``az://`` are read by the package for that store, with the credentials that it finds.
        include: Patterns as in ``.gitignore``; only matching files in folders are read.
        exclude: Patterns of files and folders to leave out.
        hidden: Read hidden files and folders too.
        ignore: Honour ``.gitignore``.
        secrets: Read files that look like secrets (``.env``, private keys) too.
        max_file_bytes: Skip larger files. A text of more than 200 MB is read as ``name/part-001`` and so on.
        max_files: Read no more files than this.
        max_bytes: Read no more text than this, in bytes.
        urls: Fetch paths that begin with ``https://`` or ``http://``; if one ends with a slash and its page lists a
            folder, what is below it.
        encoding: The encoding of texts that are not UTF-8, instead of a guess; named files are then read as text,
            whatever they look like. A byte order mark takes precedence.
        stdin: Where ``-`` reads from, by default standard input.

    Returns:
        The corpus; ``corpus.skipped`` lists what was left out and why.

    Raises:
        CorpusError: Something named is missing or a secret, or nothing readable remains.
    """
    typed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not typed:
        raise CorpusError("no paths were given: name files, folders, globs, or - for standard input")
    for name, value in (("max_file_bytes", max_file_bytes), ("max_files", max_files), ("max_bytes", max_bytes)):
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {value}")
    choice = FileSelection(_pattern_spec(include), _exclude_rules(exclude), hidden, ignore, secrets)
    known = known_encoding(encoding) if encoding is not None else None
    if encoding is not None and known is None:
        raise ConfigurationError(f"unknown text encoding {encoding!r}: name one such as cp1252 or cp932")
    collector = Collector(Limits(max_file_bytes, max_files, max_bytes), secrets=secrets, encoding=known)
    reader = _Reader(choice, collector, many=len(typed) > 1)
    for path in dict.fromkeys(map(_as_text, typed)):
        reader.take_path(path, stdin, urls=urls)
    return reader.corpus(typed)


class _Reader:
    """Reads named paths and the files below them."""

    def __init__(self, choice: FileSelection, collector: Collector, *, many: bool) -> None:
        self._choice = choice
        self._many = many
        self._found = collector
        self._read: set[str] = set()
        self._remote = RemoteReader(choice, collector, many=many)

    def take_path(self, path: str, stdin: BinaryIO | None, *, urls: bool) -> None:
        if path == "-":
            self.take_stdin(stdin)
        elif fetching.is_url(path):
            self.take_url(path, urls)
        elif object_stores.is_store_address(path) and not os.path.exists(path):
            self._remote.take_address(path)
        else:
            self.take(_locate_root(path))

    def take(self, root: _Root) -> None:
        if not os.path.isdir(root.path):
            self._take_named(root)
            return
        if self._many or root.only is not None:
            prefix = _name_prefix(root.typed)
        else:
            prefix = ""
        self._found.note_root(prefix, os.path.join(root.path, ""))
        for file in walk_folder(root.path, self._choice, root.only):
            if isinstance(file, Skipped):
                self._found.skip(prefix + file.name, file.reason)
            elif full := self._found.full:
                self._found.skip(prefix + file.name, f"{full}, as is what follows it in {_short_path(root.typed)}")
                return
            else:
                self._add_file(FoundFile(file.path, prefix + file.name), follow=False)

    def take_stdin(self, stdin: BinaryIO | None) -> None:
        stream = stdin or (sys.stdin.buffer if sys.stdin is not None else None)
        if stream is None:
            raise CorpusError("standard input is closed: nothing can be read from -")
        self._found.note_named_file("stdin")
        self._found.add(stream.read(self._found.limits.file_bytes + 1), "stdin")

    def take_url(self, url: str, allowed: bool) -> None:
        if not allowed:
            raise CorpusError(f"{_short_path(url)} is fetched only if URLs are allowed (urls=True)")
        page = fetching.fetch_page(url, self._found.limits.file_bytes)
        if is_index(url, page.data):
            self._remote.take_index(url, page)
        else:
            self._found.add(page.data, printable_name(page.name), Redactor().text(url), charset=page.charset)

    def corpus(self, typed: Sequence[_Path]) -> Corpus:
        corpus, blank = self._found.finish(_origin_digest([str(path) for path in typed]))
        if blank:
            skipped = [*corpus.skipped, *(Skipped(name, "only white space") for name in corpus.names)]
            raise CorpusError(_nothing_read_message(", ".join(map(_short_path, typed))[:200], skipped))
        return corpus

    def _take_named(self, root: _Root) -> None:
        folder, last = os.path.split(root.path)
        if not self._choice.secrets and (is_secret(last, folder) or is_secret(os.path.basename(root.typed))):
            raise CorpusError(
                f"{_short_path(root.typed)} looks like a secret: it is read only if secrets are allowed (secrets=True)"
            )
        name = _name_prefix(root.typed).rstrip("/") or root.path
        if _is_pipe(root.path):
            self._take_pipe(root.path, name)
            return
        if full := self._found.full:
            self._found.skip(name, full)
            return
        self._found.note_named_file(name, root.path)
        self._add_file(FoundFile(root.path, name), follow=True)

    def _take_pipe(self, path: str, name: str) -> None:
        """Read a named pipe to its end, as ``cat`` does; it cannot be reopened by path."""
        self._found.note_named_file(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as pipe:
                waiting = select.poll()
                waiting.register(descriptor, select.POLLIN)
                first: bytes | None = b""
                if not waiting.poll(1_000 * WRITER_SECONDS):
                    first = _read_byte(descriptor)
                    if first == b"":
                        self._found.skip(name, "not a regular file: a named pipe without a writer")
                        return
                    logger.warning("%s: still waiting for its first byte", name)
                os.set_blocking(descriptor, True)
                self._found.add((first or b"") + pipe.read(self._found.limits.file_bytes + 1), name)
        except OSError as error:
            self._found.skip(name, f"unreadable: {error.strerror}")

    def _add_file(self, found: FoundFile, *, follow: bool) -> None:
        if self._many:
            if found.path in self._read:
                return
            self._read.add(found.path)
        try:
            with File(found.path, follow=follow) as file:
                self._found.take(file, found.name, found.path)
        except OSError as error:
            self._found.skip(found.name, f"unreadable: {error.strerror}")
        except NotReadError as error:
            self._found.skip(found.name, str(error))


def _as_text(path: _Path) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise CorpusError(f"a path must be text, not {type(text).__name__}")
    if not text.strip():
        raise CorpusError("an empty path was given: name a file, a folder, a glob, or - for standard input")
    return text


def _locate_root(typed: str) -> _Root:
    path = os.path.expanduser(typed)
    try:
        if os.path.exists(path):
            # A pipe from the shell, as for <(command), exists only under the path as typed.
            return _Root(typed, path if _is_pipe(path) else os.path.realpath(path))
        fixed, rest = split_glob(path)
        if rest and os.path.isdir(fixed):
            only = GitIgnoreSpec.from_lines(["/" + rest])
            return _Root(fixed, os.path.realpath(fixed), only)
    except (ValueError, re.error, OSError) as error:
        raise CorpusError(f"{_short_path(typed)} is not a usable path: {error}") from None
    if object_stores.is_address(typed):
        shown = object_stores.masked_secrets(typed)
        raise CorpusError(f"{shown}: of addresses, only those of s3://, gs://, az:// and https:// are read")
    raise CorpusError(f"{_short_path(typed)}: no such file or folder")


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _read_byte(pipe: int) -> bytes | None:
    """Return the next byte of a pipe, nothing without a writer, None if its writer has written nothing yet."""
    try:
        return os.read(pipe, 1)
    except BlockingIOError:
        return None


def _name_prefix(typed: str) -> str:
    """Return the prefix of names below a root: the path as typed if it is plainly relative, else its last part."""
    path = PurePath(os.path.expanduser(typed))
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute():
        parts = [path.name]
    if ".." in parts:
        parts = [os.path.basename(os.path.realpath(path))]
    return "".join(printable_name(part) + "/" for part in parts if part)


def _pattern_lines(patterns: Iterable[str]) -> list[str]:
    """Return patterns as git reads them; ``./name``, as shells complete it, is ``/name``."""
    lines = [patterns] if isinstance(patterns, str) else list(patterns)
    return [re.sub(r"^(!?)\./", r"\1/", line) for line in lines]


def _pattern_spec(patterns: Iterable[str]) -> GitIgnoreSpec | None:
    lines = _pattern_lines(patterns)
    try:
        if lines:
            return GitIgnoreSpec.from_lines(lines)
        return None
    except (ValueError, re.error) as error:
        raise ConfigurationError(f"a pattern among {lines} is wrong: {error}") from None


def _exclude_rules(patterns: Iterable[str]) -> tuple[Rule, ...]:
    lines = _pattern_lines(patterns)
    rules = parse_rules(lines)
    if len(rules) < len(lines):
        raise ConfigurationError(f"a pattern among {lines} is wrong: see the rules of .gitignore")
    return rules


def _short_path(path: _Path) -> str:
    text = os.fspath(path)
    if isinstance(text, str) and object_stores.is_address(text):
        text = object_stores.masked_secrets(text)
    return printable_name(text)[:200]


def _nothing_read_message(typed: str, skipped: Sequence[Skipped]) -> str:
    typed = "standard input" if typed == "-" else typed
    if not skipped or (glob.has_magic(typed) and not glob.glob(typed, recursive=True)):
        return f"nothing to read in {typed}: no files there"
    reasons = []
    for reason, count in Counter(one.reason for one in skipped).most_common(4):
        reasons.append(reason if count == 1 else f"{reason} ({count} times)")
    return f"nothing to read in {typed}: {'; '.join(reasons)}"


def _origin_digest(paths: Sequence[str]) -> str:
    """Return the key of the search index: the paths read, so that a changed folder keeps its index."""
    places = []
    for path in paths:
        places.append(path if object_stores.is_address(path) else os.path.abspath(path))
    return hashlib.sha256("\0".join(places).encode("utf-8", "surrogateescape")).hexdigest()
