"""Tuning: datasets, metrics with feedback, programs that optimizers can compile, evaluation."""

from rlm_dspy.tuning import data, metrics
from rlm_dspy.tuning.program import Tunable, ran

__all__ = ["Tunable", "data", "metrics", "ran"]
