"""Quotes that back an answer, and numbers in it that nothing backs, checked by the host."""

from rlm_dspy.evidence.locating import MAX_QUOTE, MIN_QUOTE, check, verified
from rlm_dspy.evidence.model import Evidence
from rlm_dspy.evidence.numbers import unseen_numbers
from rlm_dspy.evidence.shown import unshown_answers
from rlm_dspy.evidence.strength import is_weak, short_answers, weak_advice

__all__ = [
    "MAX_QUOTE",
    "MIN_QUOTE",
    "Evidence",
    "check",
    "is_weak",
    "short_answers",
    "unseen_numbers",
    "unshown_answers",
    "verified",
    "weak_advice",
]
