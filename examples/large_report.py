"""Analyse a report of 1,000 pages in PDF: sums over all pages, and the page that stands out.

    python examples/large_report.py [MODEL]

Without MODEL a scripted model writes the code that a model would write; the answer is what that code computes. The
report is written by make_report.py, which needs fpdf2, a development dependency of this project.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys
import tempfile
from pathlib import Path

import dspy
from make_report import make_stations, write_report

import rlm_dspy
from rlm_dspy.testing import action, scripted

QUESTION = "On which river did the stations stand still for most hours in all, and which station was worst? Quote it."
LOOK = """
name = context.files[0].name
print(context[name][:1_500], grep("stood still"))
"""
ADD_UP = r"""
import re
from collections import Counter

hours, worst = Counter(), (0, "")
river = ""
for line in context[name].splitlines():
    if header := re.search(r"station \d+ on the (\w+)", line):
        river = header[1]
    if figure := re.search(r"stood still for (\d+) hours", line):
        hours[river] += int(figure[1])
        worst = max(worst, (int(figure[1]), line))
print(hours, worst)
"""
ANSWER = """river, total = hours.most_common(1)[0]
SUBMIT(river=river, hours=total, evidence=[{"quote": worst[1], "source": name}])
"""


def main(model: str = "") -> str:
    """Return the river, its hours, and the line of the worst station with its page."""
    if model:
        lm = rlm_dspy.lm(model)
    else:
        lm, _ = scripted(action(LOOK), action(ADD_UP), action(ANSWER))
    rlm = rlm_dspy.RLM("context, question -> river, hours: int, evidence: list[rlm_dspy.Evidence]")
    with tempfile.TemporaryDirectory() as folder, dspy.context(lm=lm):
        path = Path(folder, "report.pdf")
        write_report(path, make_stations())
        result = rlm(context=rlm_dspy.read([path]), question=QUESTION)
    quotes = "\n".join(f"{item.where}: {item.quote}" for item in result.evidence)
    return f"{result.river}: {result.hours:,} hours\n{quotes}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
