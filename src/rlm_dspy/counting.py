"""Counts in words, and estimates of tokens."""

from __future__ import annotations

CHARS_PER_TOKEN = 4


def counted_noun(number: int, noun: str) -> str:
    """Return ``1 file``, ``2,345 files``; nouns in -y and -h are not needed here."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def estimate_tokens(chars: int) -> int:
    """Return about how many tokens a text of this length has."""
    return -(-chars // CHARS_PER_TOKEN)
