"""Find the cause of failed orders in the logs of three services, 150,000 lines, by the number of a request.

    python examples/logs.py [MODEL]

Without MODEL a scripted model writes the code that a model would write; the answer is what that code finds.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import random
import sys

import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted

QUESTION = "Orders failed in the shop. How many, and what was the first cause of it in the services behind it?"
LOOK = """
for file in context.files:
    print(file, context[file.name][:200], grep("ERROR", source=file.name))
"""
FOLLOW = r"""import re

failed = [re.search(r"request (\w+)", hit.text)[1] for hit in grep("ERROR order failed", source="shop.log")]
trail = grep("|".join(failed))
causes = [hit for hit in trail if hit.source != "shop.log" and "WARN" in hit.text]
first = min(causes, key=lambda hit: hit.text)
print(len(failed), trail, first)
"""
ANSWER = """cause = re.search("WARN (.*), request", first.text)[1]
SUBMIT(failed=len(failed), cause=cause, evidence=[first])
"""


def make_logs(seed: int = 3, requests: int = 50_000) -> dict[str, str]:
    """Return three logs; from one moment on, the connections of the database run out for each 400th request."""
    chance, lines = random.Random(seed), {"shop.log": [], "payment.log": [], "database.log": []}
    for number in range(requests):
        second, request = number * 1.5, f"{chance.getrandbits(48):012x}"
        time = f"{int(second // 3600):02}:{int(second // 60) % 60:02}:{second % 60:04.1f}"
        fails = number > 31_000 and number % 400 == 0
        told = "WARN no free connection: pool of 20 is exhausted" if fails else "INFO connection taken"
        lines["database.log"].append(f"{time} {told}, request {request}")
        lines["payment.log"].append(f"{time} {'WARN slow reply' if fails else 'INFO paid'}, request {request}")
        lines["shop.log"].append(f"{time} {'ERROR order failed' if fails else 'INFO order placed'}, request {request}")
    return {name: "\n".join(rows) for name, rows in lines.items()}


def main(model: str = "") -> str:
    """Return the number of failed orders, the cause, and its line."""
    lm = rlm_dspy.lm(model) if model else scripted(action(LOOK), action(FOLLOW), action(ANSWER))[0]
    rlm = rlm_dspy.RLM("context, question -> failed: int, cause, evidence: list[rlm_dspy.Evidence]")
    with dspy.context(lm=lm):
        result = rlm(context=rlm_dspy.Corpus.from_texts(make_logs()), question=QUESTION)
    quotes = "\n".join(f"{item.where}: {item.quote}" for item in result.evidence)
    return f"{result.failed} orders: {result.cause}\n{quotes}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
