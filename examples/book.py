"""Follow a letter through a novel of 616,536 characters, about 154,000 tokens: more than many models can be shown.

    python examples/book.py [MODEL]

Without MODEL a scripted model writes the code that a model would write; the answer is what that code finds in the book.

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys

import dspy
from make_novel import make_novel

import rlm_dspy
from rlm_dspy.testing import action, scripted

QUESTION = "Through whose hands did the letter go up to the end of chapter 60, in order, and where does it say so?"
LOOK = "print(grep('the letter'))"
FOLLOW = r"""
import re

story = context.split("\nChapter 61\n")[0]
name = r"[A-Z]\w+ [A-Z]\w+"
forms = [
    rf"(?P<taker>{name}) found the letter",
    rf"put the letter into the hands of (?P<taker>{name})",
    rf"gave the letter to (?P<taker>{name})",
    rf"slept, (?P<taker>{name}) took the letter",
]
moves = sorted((found.start(), found["taker"], found[0]) for form in forms for found in re.finditer(form, story))
for start, taker, words in moves:
    print(start, words)
"""
ANSWER = """
SUBMIT(holders=[taker for start, taker, words in moves], evidence=[{"quote": moves[-1][2]}])
"""


def main(model: str = "") -> str:
    """Return the holders in order, and the sentence in which the last one gets the letter."""
    if model:
        lm = rlm_dspy.lm(model)
    else:
        lm, _ = scripted(action(LOOK), action(FOLLOW), action(ANSWER))
    novel = make_novel().text
    rlm = rlm_dspy.RLM("context, question -> holders: list[str], evidence: list[rlm_dspy.Evidence]")
    with dspy.context(lm=lm):
        result = rlm(context=novel, question=QUESTION)
    quotes = "\n".join(f"{item.where}: {item.quote}" for item in result.evidence)
    return f"{len(novel):,} characters\n{', then '.join(result.holders)}\n{quotes}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
