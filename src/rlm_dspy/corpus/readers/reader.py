"""The types a reader returns, and the error it raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlm_dspy.corpus.corpus import LineMark


class UnreadableError(Exception):
    """A file cannot be turned into text; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Converted:
    """The text of a file; ``marks`` give the lines where its pages, sheets or cells begin.

    ``late`` is set if the text was cut because time ran out; such a text is not cached.
    """

    text: str
    marks: tuple[LineMark, ...] = ()
    note: str = ""
    late: bool = False


@dataclass(frozen=True)
class Member:
    """A file inside another one, still to be read; ``note`` says if it is incomplete.

    ``charset`` is the encoding that the outer file declares for it.
    """

    name: str
    data: bytes
    note: str = ""
    charset: str | None = None


@dataclass(frozen=True)
class SkippedMember:
    """A file inside another one that was not read, and why."""

    name: str
    reason: str


@dataclass
class UnpackAllowance:
    """How many bytes and files a file may still unpack to, nested ones included."""

    bytes: int
    files: int


Outcome = str | Converted | Iterable[Converted | Member | SkippedMember]
Read = Callable[[bytes, str], Outcome]  # called with a file's bytes and its name


@dataclass(frozen=True)
class Reader:
    """A named reader; ``version`` is "" if its output is not worth caching."""

    name: str
    read: Read
    version: str = ""


@dataclass(frozen=True)
class Unpacker:
    """A named archive reader; what it unpacks is charged to the room left."""

    name: str
    read: Callable[[bytes, str, UnpackAllowance], Iterable[Member | SkippedMember]]
