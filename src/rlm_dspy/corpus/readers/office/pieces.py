"""The pieces a reader yields, and the errors for documents it refuses or cuts off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Piece = tuple[str, str, bool]  # a text, what it is ("page 3"), and whether its lines are counted
Notes = list[str]  # remarks on a document, shown beside its text
Reading = Callable[[bytes, Notes], Iterator[Piece]]

MOST_CHARS = 50_000_000  # of one document


class RefusedError(Exception):
    """The document cannot be read; the message says why."""


class CutError(Exception):
    """The rest of the document is not read; the message says where it was cut and why."""


def joined_with_and(words: list[str]) -> str:
    """Return "3", "3 and 7" or "3, 7 and 9"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
