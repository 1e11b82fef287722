"""Four documents disagree about a notice period: find every statement, and say which one holds and why.

    python examples/conflicting_documents.py [MODEL]

Without MODEL a scripted model writes the code that a model would write; the answer is what that code finds.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys

import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted

ROUTINE = "The tenant keeps the stairs clean. Bicycles stand in the yard.\n" * 300
DOCUMENTS = {
    "amendment.txt": f"Signed: 2025-02-01\n{ROUTINE}Clause 9 is replaced: the notice period is six months.\n",
    "contract.txt": f"Signed: 2021-05-12\n{ROUTINE}Clause 9. The notice period is three months.\n",
    "draft.txt": f"Not signed. Written: 2026-01-15\n{ROUTINE}Clause 9: the notice period is one month.\n",
    "letter.txt": f"From the caretaker, 2025-11-20\n{ROUTINE}As far as I know the notice period is four weeks.\n",
}
LOOK = """
for file in context.files:
    print(file.name, "|", context[file.name].splitlines()[0])
print(grep("notice period"))
"""
COMPARE = r"""
import re

claims = {hit.source: re.search(r"notice period is ([\w ]+)", hit.text)[1] for hit in grep("notice period")}
signed = {}
for name in claims:
    if date := re.match(r"Signed: (\S+)", context[name]):
        signed[name] = date[1]
valid = max(signed, key=signed.get)
print(claims, signed, valid)
"""
ANSWER = """
evidence = [{"quote": hit.text, "source": hit.source} for hit in grep("notice period")]
SUBMIT(answer=claims[valid], reason=f"{valid}: signed last, on {signed[valid]}", evidence=evidence)
"""


def main(model: str = "") -> str:
    """Return the period that holds, the reason, and every statement with its place."""
    if model:
        lm = rlm_dspy.lm(model)
    else:
        lm, _ = scripted(action(LOOK), action(COMPARE), action(ANSWER))
    rlm = rlm_dspy.RLM("context, question -> answer, reason, evidence: list[rlm_dspy.Evidence]")
    question = "Which notice period holds today? Quote every statement about it, also those that do not hold."
    with dspy.context(lm=lm):
        result = rlm(context=rlm_dspy.Corpus.from_texts(DOCUMENTS), question=question)
    quotes = "\n".join(f"  {item.where}: {item.quote}" for item in result.evidence)
    return f"{result.answer} ({result.reason})\n{quotes}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
