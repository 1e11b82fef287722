"""Models: the offline extractive engine, LiteLLM routing, and the choice between them."""

from rlm_dspy.lms.offline import offline_lm

__all__ = ["offline_lm"]
