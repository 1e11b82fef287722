"""Read files as bytes without blocking, splitting large ones into parts at line ends."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Any

from rlm_dspy.corpus.corpus import NO_MEMORY, Corpus, Document, LineMark, Skipped
from rlm_dspy.corpus.decoding import bom_and_line_end, decode_declared, joined_notes, why_binary, with_line_feeds
from rlm_dspy.corpus.document_cache import ConversionCache, available
from rlm_dspy.corpus.readers import UnreadableError, find, kind_of
from rlm_dspy.corpus.readers.archives import room_for
from rlm_dspy.corpus.readers.choosing import unreadable_on_error
from rlm_dspy.corpus.readers.reader import Converted, Member, Outcome, Reader, SkippedMember, UnpackAllowance, Unpacker
from rlm_dspy.corpus.screening import has_private_key, is_secret
from rlm_dspy.corpus.store import Store, read_at
from rlm_dspy.corpus.walking import printable_name
from rlm_dspy.counting import counted_noun

PART_BYTES = 32_000_000

_HEAD_BYTES = 65_536
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


class NotReadError(Exception):
    """A file was not read; the message is the reason."""


class File:
    """A regular file open for reading; ``size`` is its size in bytes when it was opened.

    Raises:
        NotReadError: It is not a regular file.
        OSError: It cannot be opened.
    """

    def __init__(self, path: str, *, follow: bool) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotReadError("not a regular file")
        except BaseException:
            os.close(self._descriptor)
            raise
        self.size = status.st_size
        self._bytes_read = 0

    def __enter__(self) -> File:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def head(self) -> bytes:
        """Return the first bytes without consuming them."""
        return read_at(self._descriptor, _HEAD_BYTES, 0)

    def read(self, most: int) -> bytes:
        """Return the next bytes, fewer than ``most`` only at the end; some files are longer than their stated size."""
        data = os.read(self._descriptor, min(most, self.size or _HEAD_BYTES))
        if len(data) not in (0, self.size, most):
            pieces = [data]
            missing = most - len(data)
            while missing and (data := os.read(self._descriptor, min(missing, 1 << 20))):
                pieces.append(data)
                missing -= len(data)
            data = b"".join(pieces)
        self._bytes_read += len(data)
        return data

    def change_note(self) -> str:
        """Return how much was read if the file's size has changed since it was opened, else ""."""
        size = os.fstat(self._descriptor).st_size
        longest = max(size, self.size)
        if size == self.size or self._bytes_read >= longest:
            return ""
        return f"changed while it was read: {self._bytes_read:,} of {longest:,} bytes"

    def parts(self) -> Iterator[bytes]:
        """Yield the whole file in pieces of about ``PART_BYTES`` bytes, split at line ends where possible."""
        mark, end = bom_and_line_end(self.head())
        rest, left = b"", self.size
        while left > 0 and (data := self.read(min(PART_BYTES, left))):
            left -= len(data)
            data = rest + data
            cut = _line_end(data, end)
            yield data[:cut] if data.startswith(mark) else mark + data[:cut]
            rest = data[cut:]
        if rest:
            yield mark + rest


def _line_end(data: bytes, end: bytes) -> int:
    """Return where the last complete line ends, or the last complete character if there is only one line."""
    offset = data.rfind(end)
    while offset >= 0 and offset % len(end):  # bytes of two characters that look like a line end
        offset = data.rfind(end, 0, offset + len(end) - 1)
    if offset >= 0:
        return offset + len(end)
    cut = len(data) - len(data) % len(end)
    if len(end) == 2:
        high = data[cut - 1 if end[0] else cut - 2]
        # half of a surrogate pair
        if 0xD8 <= high < 0xDC:
            return cut - 2
        return cut
    if len(end) == 1:
        for start in range(cut - 1, max(cut - 4, 0), -1):
            if data[start] & 0xC0 != 0x80:  # a character's first byte
                if data[start] >= 0xC0:
                    return start
                return cut
    return cut


MAX_VALUE_BYTES = 200_000_000  # bytes of one text; a larger one is split into parts
SPARE_MEMORY_BYTES = 500_000_000  # bytes of memory left free for the rest of the machine
_MEMORY_CHECK_BYTES = 200_000_000  # bytes stored between two checks of free memory
MAX_CONVERSION_SECONDS = 1_800.0  # seconds for all conversions of one read
_MAX_NESTING = 3  # levels of nested archives


@dataclass(frozen=True)
class Limits:
    """Limits per file, on the number of files and on the total; what exceeds them is reported, not read."""

    file_bytes: int = MAX_VALUE_BYTES
    files: int = 500_000
    bytes: int = 8_000_000_000


@dataclass(frozen=True)
class _Source:
    """The outermost file of nested ones: its name, its path, and how much it may still unpack to."""

    name: str
    path: str
    room: UnpackAllowance


class Collector:
    """Collects the documents of one corpus."""

    def __init__(self, limits: Limits, *, secrets: bool, encoding: str | None = None) -> None:
        self.limits = limits
        self._encoding = encoding
        self._named: set[str] = set()  # files the user named directly, not by their folder
        self._roots: dict[str, str] = {}  # paths of named files and folders, by name prefix
        self._secrets = secrets
        self._checked_size = 0  # bytes stored when free memory was last checked
        self._conversion_seconds = 0.0
        self._store = Store()
        self._cache = ConversionCache()
        self._documents: dict[str, Document] = {}
        self._skipped: list[Skipped] = []
        self._blank = True

    @property
    def full(self) -> str | None:
        """Why nothing more can be read, or None."""
        limits = self.limits
        if len(self._documents) >= limits.files:
            return f"beyond the limit of {counted_noun(limits.files, 'file')} (max_files raises it)"
        if self._store.size >= limits.bytes:
            return f"beyond the limit of {limits.bytes / 1e9:,.6g} GB in all (max_bytes raises it)"
        if self._store.size < self._checked_size + _MEMORY_CHECK_BYTES:
            return None
        free = available()
        if free is not None and free < SPARE_MEMORY_BYTES:
            return f"{NO_MEMORY} ({free / 1e6:,.0f} MB)"
        self._checked_size = self._store.size
        return None

    def skip(self, name: str, reason: str) -> None:
        """Record a file that was not read, and why."""
        self._skipped.append(Skipped(name, reason))

    def finish(self, origin: str = "") -> tuple[Corpus, bool]:
        """Return the corpus, and whether it holds nothing but white space."""
        self._cache.close()
        self._store.seal()
        skipped = sorted(self._skipped, key=lambda one: one.name)
        documents, roots = self._documents.values(), self._roots
        return Corpus(documents, skipped, origin=origin, given=self._named, roots=roots), self._blank

    def note_named_file(self, name: str, path: str = "") -> None:
        """Record that the user named a file: if an encoding was given, it is read as text whatever it looks like."""
        self._named.add(name)
        if path:
            self.note_root(name, path)

    def note_root(self, begins: str, path: str) -> None:
        """Record the path of the files whose names start with a prefix."""
        self._roots.setdefault(begins, path)

    def take(self, file: File, name: str, path: str) -> None:
        """Read an open file: whole, or in parts if it is a text too large for one value."""
        if file.size > self.limits.file_bytes:
            self.skip(name, too_large(self.limits.file_bytes))
        elif file.size > MAX_VALUE_BYTES and _is_text(head := file.head(), name):
            if foreign := why_binary(head):
                self.skip(name, foreign)
            else:
                try:
                    self._add_parts(file, _Source(name, path, room_for(0)))
                except UnreadableError as error:
                    self.skip(name, str(error))
        else:
            data = file.read(self.limits.file_bytes + 1)
            note = file.change_note()
            if note and not data:
                self.skip(name, note)
            else:
                self.add(data, name, path, note)

    def add(self, data: bytes, name: str, path: str = "", note: str = "", charset: str | None = None) -> None:
        """Read the bytes of a file and of the files inside it; ``charset`` is the encoding declared for it."""
        self._add_bytes(data, name, _Source(name, path, room_for(len(data))), 0, note, charset)

    def _add_bytes(
        self, data: bytes, name: str, source: _Source, depth: int, note: str = "", charset: str | None = None
    ) -> None:
        if len(data) > self.limits.file_bytes:
            self.skip(name, too_large(self.limits.file_bytes))
        elif has_private_key(data[:200]) and not self._secrets:
            self.skip(name, "has a private key")
        elif not data:
            self.skip(name, "empty")
        else:
            try:
                reader = find(name, data, charset, self._encoding)
                if reader is None:
                    self._add_text(data, name, source, note, charset)
                else:
                    self._add_converted(reader, data, name, source, depth, note)
            except UnreadableError as error:
                self.skip(name, str(error))

    def _add_parts(self, file: File, source: _Source) -> None:
        """Add a text as ``name/part-001`` and so on; line numbers refer to the whole file."""
        name = source.name
        kind = kind_of(name)
        if kind in ("csv", "tsv"):  # only the first part has the header
            kind = "text"
        digits = len(str(file.size // PART_BYTES + 1))
        lines_before = 0
        number = 0
        for number, data in enumerate(file.parts(), 1):
            part = f"{name}/part-{number:0{digits}}"
            if full := self.full:
                self.skip(part, f"{full}, as is what follows line {lines_before:,} of {name}")
                return
            text, note = self._decoded(data)
            marks = ((1 - lines_before, "line", True),)
            document = self._store_document(part, source, text, kind=kind, size=len(data), note=note, marks=marks)
            if document is not None:
                lines_before += document.lines
        if changed := file.change_note():
            self.skip(f"{name}/part-{number + 1:0{digits}}", f"{name} {changed}")

    def _add_text(self, data: bytes, name: str, source: _Source, before: str, charset: str | None) -> None:
        forced = self._encoding is not None and name in self._named
        if not forced and (reason := why_binary(data)):
            self.skip(name, reason)
            return
        text, note = self._decoded(data, charset)
        self._store_document(name, source, text, kind=kind_of(name), size=len(data), note=joined_notes(before, note))

    def _decoded(self, data: bytes, charset: str | None = None) -> tuple[str | bytes, str]:
        """Return a text, as bytes if they can be stored unchanged, and a note on what was guessed."""
        if charset is None and self._is_plain(data):
            return data, ""
        text, guessed = decode_declared(data, [charset], self._encoding)
        text, changed = with_line_feeds(text)
        return text, joined_notes(guessed, changed)

    def _is_plain(self, data: bytes) -> bool:
        """Return whether a text can be stored without decoding, as most large texts can."""
        is_ascii_text = self._encoding is None and data.isascii() and b"\0" not in data and b"\x1b$" not in data
        return is_ascii_text and data.count(b"\r") == data.count(b"\r\n")

    def _add_converted(
        self, reader: Reader | Unpacker, data: bytes, name: str, source: _Source, depth: int, before: str
    ) -> None:
        kind = reader.name
        if isinstance(reader, Reader):
            outcome = self._cache.converted(reader, data, lambda: self._run_reader(reader, data, name))
        elif depth < _MAX_NESTING:
            outcome = reader.read(data, name, source.room)
        else:
            raise UnreadableError("an archive nested in two others")
        empty = True
        for part in _checked_parts(outcome):
            empty = False
            if isinstance(part, Converted):
                note = joined_notes(before, part.note)
                self._store_document(name, source, part.text, kind=kind, size=len(data), note=note, marks=part.marks)
            else:
                self._add_member(part, name, source, depth)
        if empty:
            raise UnreadableError("empty")

    def _run_reader(self, reader: Reader, data: bytes, name: str) -> Outcome:
        """Convert a file that is not in the cache, within the time limit for all conversions."""
        if self._conversion_seconds >= MAX_CONVERSION_SECONDS:
            raise UnreadableError(
                f"beyond the {MAX_CONVERSION_SECONDS:,.0f} s allowed for converting files: "
                "run again (finished conversions are cached), or name fewer files"
            )
        started = time.monotonic()
        try:
            return _read_outcome(reader, data, name)
        finally:
            self._conversion_seconds += time.monotonic() - started

    def _add_member(self, part: Member | SkippedMember, name: str, source: _Source, depth: int) -> None:
        path = part.name.replace("\\", "/").lstrip("/")
        inside = f"{name}/{printable_name(path)}"
        if isinstance(part, SkippedMember):
            self.skip(inside, part.reason)
        elif not self._secrets and is_secret(PurePath(inside).name, inside[len(name) :].rpartition("/")[0]):
            self.skip(inside, "looks like a secret")
        elif depth >= _MAX_NESTING:
            self.skip(inside, f"nested in more than {_MAX_NESTING} files")
        elif full := self.full:
            self.skip(inside, full)
        else:
            self._add_bytes(part.data, inside, source, depth + 1, part.note, part.charset)

    def _store_document(
        self,
        name: str,
        source: _Source,
        text: str | bytes,
        *,
        kind: str,
        size: int,
        note: str,
        marks: tuple[LineMark, ...] = (),
    ) -> Document | None:
        if not text:
            self.skip(name, "empty")
            return None
        self._blank = self._blank and not text.strip()
        if source.path:
            path = printable_name(source.path) + name[len(source.name) :]
        else:
            path = ""
        name = self._unique_name(name, source)
        try:
            document = Document.of(
                name, text, kind=kind, size=size, note=note, marks=marks, path=path, store=self._store
            )
        except OSError as error:
            raise UnreadableError(f"it cannot be held in memory: {error.strerror}") from error
        self._documents[name] = document
        return document

    def _unique_name(self, name: str, source: _Source) -> str:
        """Prefix a name that is taken with its parent folders, or number it if that does not help."""
        if name not in self._documents:
            return name
        parts = [printable_name(part) for part in PurePath(source.path).parts[1:]]
        inside = name[len(source.name) :]
        for depth in range(source.name.count("/") + 2, len(parts) + 1):
            longer_name = "/".join(parts[-depth:]) + inside
            if longer_name not in self._documents:
                return longer_name
        number = 2
        while f"{name}~{number}" in self._documents:
            number += 1
        return f"{name}~{number}"


def too_large(limit: int) -> str:
    """Return the reason for a file that exceeds the size limit."""
    return f"larger than the limit of {limit / 1e6:,.6g} MB (max_file_bytes raises it)"


def _is_text(head: bytes, name: str) -> bool:
    return not head.startswith(b"PK\x03\x04") and find(name, head) is None and not has_private_key(head[:200])


def _read_outcome(reader: Reader, data: bytes, name: str) -> Outcome:
    with unreadable_on_error("its reader failed"):
        outcome = reader.read(data, name)
    converted = Converted(outcome) if isinstance(outcome, str) else outcome
    if isinstance(converted, Converted):
        _check_part(converted)
    return converted


def _checked_parts(outcome: Outcome) -> Iterator[Converted | Member | SkippedMember]:
    """Yield the results of a reader until it fails."""
    with unreadable_on_error("its reader failed"):
        parts: Iterator[Any] = iter((outcome,) if isinstance(outcome, Converted) else outcome)
    while True:
        with unreadable_on_error("its reader failed"):
            try:
                part = next(parts)
            except StopIteration:
                return
        _check_part(part)
        yield part


def _check_part(part: object) -> None:
    """Raise if a reader returned something other than a valid result."""
    match part:
        case Converted(text=str(), marks=tuple() | list(), note=str()) if all(map(_is_mark, part.marks)):
            return
        case Member(name=str(), data=bytes()) | SkippedMember(name=str(), reason=str()):
            return
        case Converted() | Member() | SkippedMember():
            raise UnreadableError(f"its reader returned {type(part).__name__} without what belongs in it")
    raise UnreadableError(f"its reader returned {type(part).__name__} where a file was expected")


def _is_mark(mark: object) -> bool:
    match mark:
        case (int(), str(), bool()):
            return True
    return False
