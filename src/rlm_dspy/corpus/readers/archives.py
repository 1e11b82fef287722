"""Compressed files, unpacked within limits; the files inside are read in turn."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any

from rlm_dspy.corpus.decoding import guess_encoding
from rlm_dspy.corpus.readers.reader import Member, SkippedMember, UnpackAllowance, UnreadableError
from rlm_dspy.counting import counted_noun

MOST_BYTES = 200_000_000  # of everything in one file, nested archives included
MOST_MEMBERS = 10_000
_PIECE_BYTES = 64 << 10
_UTF8 = 0x800  # the ZIP flag for names in UTF-8
_MAX_RATIO = 250  # an archive above this and above the bytes below is hostile
_HARMLESS_BYTES = 20_000_000
_FULL = (
    f"no file may unpack to more than {MOST_BYTES / 1e6:,.0f} MB, {_MAX_RATIO} times its size or {MOST_MEMBERS:,} files"
)

# What the libraries raise over a damaged archive.
DAMAGED_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, NotImplementedError)


def room_for(size: int) -> UnpackAllowance:
    """Return the allowance for unpacking a file of this size in bytes, nested files included."""
    return UnpackAllowance(min(MOST_BYTES, max(_HARMLESS_BYTES, size * _MAX_RATIO)), MOST_MEMBERS)


def read_zip(data: bytes, name: str, room: UnpackAllowance) -> Iterator[Member | SkippedMember]:
    """Yield the files of a ZIP archive, and those that could not be read."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        for position, info in enumerate(infos):
            if room.bytes <= 0 or room.files <= 0:
                yield SkippedMember("…", f"{counted_noun(len(infos) - position, 'more file')} in the archive: {_FULL}")
                return
            room.files -= 1
            name = _member_name(info)
            if info.flag_bits & 1:
                yield SkippedMember(name, "encrypted")
                continue
            try:
                with archive.open(info) as file:
                    content = _within(file, info.compress_size, room, [])
            except UnreadableError as error:
                yield SkippedMember(name, str(error))
            except (*DAMAGED_ERRORS, RuntimeError) as error:
                yield SkippedMember(name, f"broken: {error}")
            else:
                yield Member(name, content)


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return a file's name, guessing the encoding unless the archive declares UTF-8."""
    if info.flag_bits & _UTF8 or info.filename.isascii():
        return info.filename
    try:
        raw = info.filename.encode("cp437")
    except UnicodeEncodeError:
        return info.filename
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(guess_encoding(raw, dos=True), "replace")


def read_compressed(
    opened: Callable[[IO[bytes]], Any], ending: str, data: bytes, name: str, room: UnpackAllowance
) -> Iterator[Member]:
    """Yield the file in a compressed one.

    Args:
        opened: opens the compressed file.
        ending: its usual extension, which is cut from its name.
        data: its bytes.
        name: its name.
        room: what it may still unpack to.
    """
    if room.bytes <= 0:
        raise UnreadableError(_FULL)
    note = ""
    pieces: list[bytes] = []
    with opened(BytesIO(data)) as file:
        try:
            _within(file, len(data), room, pieces)
        except DAMAGED_ERRORS as error:
            if not any(pieces):
                raise UnreadableError(f"broken: {error}") from None
            note = f"the archive is cut off or damaged ({error}): only the part before that was read"
    plain = name.rpartition("/")[2]
    if plain.lower().endswith("." + ending):
        inside = plain[: -len(ending) - 1]
    else:
        inside = plain
    yield Member(inside, b"".join(pieces), note)


def _within(file: IO[bytes], packed: int, room: UnpackAllowance, pieces: list[bytes]) -> bytes:
    """Decompress into ``pieces`` and stop at a zip bomb; discarded bytes count too."""
    size = 0
    while piece := file.read1(_PIECE_BYTES) if hasattr(file, "read1") else file.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        room.bytes -= len(piece)
        if size > max(_HARMLESS_BYTES, packed * _MAX_RATIO):
            raise UnreadableError(f"unpacks to more than {_MAX_RATIO} times its size, as a zip bomb does")
        if room.bytes < 0:
            raise UnreadableError(_FULL)
    return b"".join(pieces)
