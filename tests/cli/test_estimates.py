"""The estimates of a dry run."""

from __future__ import annotations

from rlm_dspy.cli import question
from rlm_dspy.corpus import Corpus

CORPUS = Corpus.from_texts({"a.md": "x" * 40_000})


def test_a_direct_answer_is_one_call_of_the_whole_text() -> None:
    facts = question.estimated_facts(CORPUS, "direct", "offline/extractive", max_iters=20, max_calls=50)
    assert facts["calls"] == [1, 1]
    assert facts["prompt_tokens"] == [12_000, 12_000]
    assert question.estimate_text(facts).endswith("estimated: 1 model calls, 12,000 prompt tokens, $0.0000")


def test_an_exploration_is_a_range_within_the_limits() -> None:
    facts = question.estimated_facts(CORPUS, "rlm", "groq/openai/gpt-oss-20b", max_iters=5, max_calls=2)
    assert facts["calls"] == [3, 7]
    low, high = facts["cost"]
    assert 0 < low < high < 0.1
    assert "3–7 model calls" in question.estimate_text(facts)


def test_an_unknown_price_is_said_to_be_unknown() -> None:
    facts = question.estimated_facts(CORPUS, "rlm", "nobody/knows", max_iters=20, max_calls=50)
    assert facts["cost"] is None
    assert "cost unknown" in question.estimate_text(facts)
