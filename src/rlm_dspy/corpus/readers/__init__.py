"""Readers: plain callables that turn the bytes of a file into text, built in or from third parties."""

from rlm_dspy.corpus.readers.choosing import find, kind_of
from rlm_dspy.corpus.readers.reader import Converted, Member, UnreadableError

__all__ = ["Converted", "Member", "UnreadableError", "find", "kind_of"]
