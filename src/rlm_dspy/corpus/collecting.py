"""Bytes with names to documents: each is read by whoever can, kept under a name of its own, or explained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from rlm_dspy.corpus.caching import ConversionCache
from rlm_dspy.corpus.decoding import decode, why_binary
from rlm_dspy.corpus.documents import Corpus, Document, Skipped
from rlm_dspy.corpus.readers import UnreadableError, find, kind_of
from rlm_dspy.corpus.readers.shapes import Converted, Left, Member, Outcome, Reader
from rlm_dspy.corpus.screening import has_private_key, is_secret
from rlm_dspy.corpus.store import Store
from rlm_dspy.corpus.walking import printable

MOST_FILES = 500_000
MOST_BYTES = 8_000_000_000
_DEPTH = 3  # archives in archives

# What a reader of a third party may raise without ending the whole reading.
_FAILURES = (
    ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError, EOFError,
    AssertionError, MemoryError,
)  # fmt: skip


class Collector:
    """Collects the documents of one corpus."""

    def __init__(self, max_file_bytes: int, *, secrets: bool) -> None:
        self._limit = max_file_bytes
        self._secrets = secrets
        self._store = Store()
        self._cache = ConversionCache()
        self._documents: dict[str, Document] = {}
        self._skipped: list[Skipped] = []
        self._blank = True

    @property
    def full(self) -> str | None:
        """Why nothing more can be taken, if so."""
        if len(self._documents) >= MOST_FILES:
            return f"beyond the limit of {MOST_FILES:,} files"
        return f"beyond the limit of {MOST_BYTES / 1e9:,.0f} GB" if self._store.size >= MOST_BYTES else None

    def skip(self, name: str, reason: str) -> None:
        """Note what was not read and why."""
        self._skipped.append(Skipped(name, reason))

    def finish(self, origin: str = "") -> tuple[Corpus, bool]:
        """Return the corpus, and whether there is nothing but white space in it."""
        self._cache.close()
        self._store.seal()
        skipped = sorted(self._skipped, key=lambda one: one.name)
        return Corpus(self._documents.values(), skipped, origin=origin), self._blank

    def add(self, data: bytes, name: str, path: str = "", depth: int = 0) -> None:
        """Read the bytes of a file, or of one inside another."""
        if len(data) > self._limit:
            self.skip(name, too_large(self._limit))
        elif has_private_key(data[:200]) and not self._secrets:
            self.skip(name, "has a private key")
        elif not data:
            self.skip(name, "empty")
        else:
            try:
                reader = find(name, data)
                if reader is None:
                    self._add_text(data, name, path)
                else:
                    self._convert(reader, data, name, path, depth)
            except UnreadableError as error:
                self.skip(name, str(error))

    def _add_text(self, data: bytes, name: str, path: str) -> None:
        if reason := why_binary(data):
            self.skip(name, reason)
            return
        # A text of ASCII needs no decoding to be stored, and most of what is large is such a text.
        plain = data.isascii()
        text, note = (data, "") if plain else decode(data)
        self._keep(name, path, text, kind=kind_of(name), size=len(data), note=note)

    def _convert(self, reader: Reader, data: bytes, name: str, path: str, depth: int) -> None:
        kind = kind_of(name) if kind_of(name) != "text" else reader.name if reader.version else "text"
        if reader.version:
            made = self._cache.converted(reader, data, lambda: _single(_read(reader, data, name)))
            self._keep(name, path, made.text, kind=kind, size=len(data), note=made.note, converted=made)
            return
        if depth >= _DEPTH:
            raise UnreadableError("an archive in an archive in an archive")
        for part in _guarded(_iterate(_read(reader, data, name))):
            if isinstance(part, Converted):
                self._keep(name, path, part.text, kind=kind, size=len(data), note=part.note, converted=part)
            else:
                self._add_member(part, name, path, depth)

    def _add_member(self, part: Member | Left, name: str, path: str, depth: int) -> None:
        inside = f"{name}/{printable(part.name.replace(chr(92), '/').lstrip('/'))}"
        if isinstance(part, Left):
            self.skip(inside, part.reason)
        elif is_secret(PurePath(inside).name) and not self._secrets:
            self.skip(inside, "looks like a secret")
        elif self.full:
            self.skip(inside, self.full)
        else:
            self.add(part.data, inside, path, depth + 1)

    def _keep(
        self,
        name: str,
        path: str,
        text: str | bytes,
        *,
        kind: str,
        size: int,
        note: str,
        converted: Converted | None = None,
    ) -> None:
        if not text:
            self.skip(name, "empty")
            return
        self._blank = self._blank and not text.strip()
        name = self._unique(name, path)
        marks = converted.marks if converted is not None else ()
        self._documents[name] = Document.of(
            name, text, kind=kind, size=size, note=note, marks=marks, store=self._store
        )

    def _unique(self, name: str, path: str) -> str:
        """Lengthen a name that is taken by the folders above it, or number it if that does not help."""
        wanted = name
        if name in self._documents:
            above = [printable(part) for part in PurePath(path).parts[1:]]
            tails = ("/".join(above[-depth:]) for depth in range(name.count("/") + 2, len(above) + 1))
            wanted = next((tail for tail in tails if tail not in self._documents), name)
        number = 2
        while wanted in self._documents:
            wanted = f"{name}~{number}"
            number += 1
        return wanted


def too_large(limit: int) -> str:
    """Say that a file is larger than may be read."""
    return f"larger than the limit of {limit / 1e6:,.6g} MB"


def _read(reader: Reader, data: bytes, name: str) -> Outcome:
    try:
        return reader.read(data, name)
    except UnreadableError:
        raise
    except _FAILURES as error:
        raise UnreadableError(f"its reader failed: {type(error).__name__}: {str(error)[:200]}") from None


def _iterate(outcome: Outcome) -> Iterable[Converted | Member | Left]:
    if isinstance(outcome, str):
        yield Converted(outcome)
    elif isinstance(outcome, Converted):
        yield outcome
    else:
        yield from outcome


def _guarded(parts: Iterable[Converted | Member | Left]) -> Iterable[Converted | Member | Left]:
    """Yield what a reader yields until it fails."""
    iterator = iter(parts)
    while True:
        try:
            part = next(iterator)
        except StopIteration:
            return
        except UnreadableError:
            raise
        except _FAILURES as error:
            raise UnreadableError(f"its reader failed: {type(error).__name__}: {str(error)[:200]}") from None
        yield part


def _single(outcome: Outcome) -> Converted:
    """Make one text of what a reader returned, for the cache."""
    parts = [part for part in _guarded(_iterate(outcome)) if isinstance(part, Converted)]
    if len(parts) == 1:
        return parts[0]
    return Converted("\n".join(part.text for part in parts))
