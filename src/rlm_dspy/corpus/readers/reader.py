"""What a reader returns, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlm_dspy.corpus.corpus import LineMark


class UnreadableError(Exception):
    """A file cannot be turned into text; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Converted:
    """A text made of a file; ``marks`` tell at which lines its pages, sheets or cells begin.

    ``late`` is set where it was cut because time ran out: such a text is not kept for the next time.
    """

    text: str
    marks: tuple[LineMark, ...] = ()
    note: str = ""
    late: bool = False


@dataclass(frozen=True)
class Member:
    """A file found inside another one, to be read in its turn; ``note`` says if it is not whole."""

    name: str
    data: bytes
    note: str = ""


@dataclass(frozen=True)
class SkippedMember:
    """A file found inside another one and not read, and why."""

    name: str
    reason: str


@dataclass
class UnpackAllowance:
    """What a file may still unpack to, with all that is nested in it: less with each byte and each file."""

    bytes: int
    files: int


Outcome = str | Converted | Iterable[Converted | Member | SkippedMember]
Read = Callable[[bytes, str], Outcome]  # called with a file's bytes and its name


@dataclass(frozen=True)
class Reader:
    """A reader with its name; ``version`` is "" for one whose work is not worth keeping."""

    name: str
    read: Read
    version: str = ""


@dataclass(frozen=True)
class Unpacker:
    """A reader of archives, with its name: what it unpacks it takes from the room there is."""

    name: str
    read: Callable[[bytes, str, UnpackAllowance], Iterable[Member | SkippedMember]]
