"""Tuning: datasets, metrics with feedback, programs that optimizers can compile, evaluation."""

from rlm_dspy.tuning import data, metrics
from rlm_dspy.tuning.audit import Leak, check_leaks, find_leaks
from rlm_dspy.tuning.program import Tunable, ran

__all__ = ["Leak", "Tunable", "check_leaks", "data", "find_leaks", "metrics", "ran"]
