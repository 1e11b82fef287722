"""Numbers with their nouns."""

from __future__ import annotations


def counted_noun(number: int, noun: str) -> str:
    """Return ``1 file``, ``2,345 files``; nouns in -y and -h are not needed here."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
