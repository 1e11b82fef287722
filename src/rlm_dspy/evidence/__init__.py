"""Host-side checks of the quotes that back an answer, and of numbers in it that nothing backs."""

from rlm_dspy.evidence.evidence import Evidence, is_weak, printed_quotes, short_answers, weak_advice
from rlm_dspy.evidence.locate import MAX_QUOTE, MIN_QUOTE, check
from rlm_dspy.evidence.numbers import unseen_numbers, unshown_answers

__all__ = [
    "MAX_QUOTE",
    "MIN_QUOTE",
    "Evidence",
    "check",
    "is_weak",
    "printed_quotes",
    "short_answers",
    "unseen_numbers",
    "unshown_answers",
    "weak_advice",
]
