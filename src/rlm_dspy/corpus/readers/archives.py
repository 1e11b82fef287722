"""Compressed files: what is inside is read in its turn, as long as it stays within limits."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any

from rlm_dspy.corpus.readers.shapes import Left, Member, UnreadableError

MOST_BYTES = 200_000_000  # of all that one archive holds
MOST_MEMBERS = 10_000
_RATIO = 250  # beyond this, and beyond the bytes below, an archive was made to harm
_HARMLESS = 20_000_000

_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, NotImplementedError)


def read_gzip(data: bytes, name: str) -> Iterator[Member]:
    """Yield the one file of a gzip file."""
    yield _single(gzip.open, data, name, "gz")


def read_bzip2(data: bytes, name: str) -> Iterator[Member]:
    """Yield the one file of a bzip2 file."""
    yield _single(bz2.open, data, name, "bz2")


def read_xz(data: bytes, name: str) -> Iterator[Member]:
    """Yield the one file of an xz file."""
    yield _single(lzma.open, data, name, "xz")


def read_zip(data: bytes, name: str) -> Iterator[Member | Left]:
    """Yield the files of a ZIP archive, and what could not be read of it."""
    left = MOST_BYTES
    with zipfile.ZipFile(BytesIO(data)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        for info in infos[:MOST_MEMBERS]:
            if info.flag_bits & 1:
                yield Left(info.filename, "encrypted")
                continue
            try:
                with archive.open(info) as file:
                    content = _within(file, info.compress_size, left)
            except UnreadableError as error:
                yield Left(info.filename, str(error))
            except (*_BROKEN, RuntimeError) as error:
                yield Left(info.filename, f"broken: {error}")
            else:
                left -= len(content)
                yield Member(info.filename, content)
        if len(infos) > MOST_MEMBERS:
            yield Left("…", f"{len(infos) - MOST_MEMBERS:,} more files in the archive, the limit is {MOST_MEMBERS:,}")


def _single(opened: Callable[[IO[bytes]], Any], data: bytes, name: str, ending: str) -> Member:
    try:
        with opened(BytesIO(data)) as file:
            content = _within(file, len(data), MOST_BYTES)
    except _BROKEN as error:
        raise UnreadableError(f"broken: {error}") from None
    plain = name.rpartition("/")[2]
    return Member(plain[: -len(ending) - 1] if plain.lower().endswith("." + ending) else plain, content)


def _within(file: IO[bytes], packed: int, most: int) -> bytes:
    """Decompress piece by piece, and stop at what cannot be honest."""
    pieces, size = [], 0
    while piece := file.read(1 << 20):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise UnreadableError(f"unpacks to more than {most / 1e6:,.0f} MB")
        if size > max(_HARMLESS, packed * _RATIO):
            raise UnreadableError(f"unpacks to more than {_RATIO} times its size, as a zip bomb does")
    return b"".join(pieces)
