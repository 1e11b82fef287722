"""Store the texts of a corpus one after the other as UTF-8, in memory that the sandbox can map directly."""

from __future__ import annotations

import hashlib
import mmap
import os

from rlm_dspy.safe_files import anonymous_file, seal_file, write_all


def read_at(descriptor: int, size: int, start: int) -> bytes:
    """Return the bytes of an open file from a place, and keep its position."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, start)
    before = os.lseek(descriptor, 0, os.SEEK_CUR)  # Windows
    os.lseek(descriptor, start, os.SEEK_SET)
    try:
        return os.read(descriptor, size)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def _map_file(descriptor: int, size: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)  # Windows


class Store:
    """An anonymous file to which texts are appended until it is sealed."""

    def __init__(self) -> None:
        self.size = 0
        self._map: mmap.mmap | None = None
        self.descriptor = anonymous_file("corpus")

    def add(self, data: bytes) -> StoredText:
        """Append a text."""
        start = self.size
        write_all(self.descriptor, data)
        self.size = start + len(data)
        return StoredText(self, start, self.size)

    def seal(self) -> None:
        """Make the stored bytes immutable for every process, including this one."""
        seal_file(self.descriptor)
        if self.size:
            self._map = _map_file(self.descriptor, self.size)

    def view(self, start: int, stop: int) -> memoryview:
        """Return stored bytes, without a copy once the store is sealed."""
        if self._map is None:
            return memoryview(read_at(self.descriptor, stop - start, start))
        return memoryview(self._map)[start:stop]

    def __del__(self) -> None:
        if (descriptor := getattr(self, "descriptor", -1)) >= 0:
            os.close(descriptor)


class StoredText:
    """One text in a store, or on its own."""

    __slots__ = ("_digest", "_home", "start", "stop")

    def __init__(self, home: Store | bytes, start: int, stop: int) -> None:
        self._home = home
        self.start = start
        self.stop = stop
        self._digest = b""

    @classmethod
    def of(cls, data: bytes) -> StoredText:
        """Hold a text outside any store."""
        return cls(data, 0, len(data))

    @property
    def store(self) -> Store | None:
        """The store that holds the text, or None."""
        if isinstance(self._home, Store):
            return self._home
        return None

    def view(self) -> memoryview:
        """Return the bytes without a copy."""
        home = self._home
        if isinstance(home, Store):
            return home.view(self.start, self.stop)
        return memoryview(home)[self.start : self.stop]

    def text(self) -> str:
        """Decode the text."""
        return str(self.view(), "utf-8", "surrogatepass")

    def digest(self) -> bytes:
        """SHA-256 of the bytes."""
        if not self._digest:
            self._digest = hashlib.sha256(self.view()).digest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredText):
            return NotImplemented
        return self is other or (self.stop - self.start == other.stop - other.start and self.digest() == other.digest())

    def __hash__(self) -> int:
        return hash(self.digest())

    def __reduce__(self) -> tuple[object, ...]:
        return StoredText.of, (bytes(self.view()),)
