"""Your own metric: right answers count, and of two right ones the shorter is better; GEPA reads its feedback.

python examples/own_metric.py [MODEL]

Cost: $0.0042–$0.0349 with groq/openai/gpt-oss-20b (4 questions, 39,000–364,000 prompt tokens).
"""

import sys

import dspy

import rlm_dspy
from rlm_dspy import metrics

TOWNS = ("Bergen", "Leith", "Brest", "Gdansk")
FILLER = "A quiet paragraph about the sea. " * 100
GUIDE = "\n".join(f"{FILLER}\nThe mayor of {town} has {cats} cats." for cats, town in enumerate(TOWNS, 3))
TESTS = []
for cats, town in enumerate(TOWNS, 3):
    example = dspy.Example(context=GUIDE, question=f"How many cats has the mayor of {town}?", answer=str(cats))
    TESTS.append(example.with_inputs("context", "question"))


def brevity(expected: str, got: str) -> float:
    """Return 0 for a wrong answer, 1 for a right one of one word, and less for more words."""
    words = got.strip(". ").split()
    if expected not in words:
        return 0.0
    return max(0.5, 1 - 0.05 * (len(words) - 1))


def main(model: str = "offline") -> str:
    """Return the score of four questions, and the feedback on one of them."""
    metric = metrics.of(brevity)
    rlm = rlm_dspy.RLM("context, question -> answer")
    with dspy.context(lm=rlm_dspy.lm(model)):
        judged = dspy.Evaluate(devset=TESTS, metric=metric, num_threads=1, display_progress=False)(rlm)
    example, prediction, _ = judged.results[0]
    feedback = metric.feedback(example, prediction).splitlines()
    return "\n".join([f"{judged.score} of 100", *feedback[:4]])


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
