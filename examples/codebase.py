"""Ask about a codebase: all Python files of the installed package dspy.

    python examples/codebase.py [MODEL]

Without MODEL a scripted model writes the code that a model would write; the answer is what that code finds.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys
from pathlib import Path

import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted

QUESTION = "What is the default of max_iters in ReAct, and which tool ends its loop? Quote the line of each."
LOOK = "print(grep(r'^class ReAct\\b'))"
READ = """
import ast

found = grep(r"^class ReAct\\b")[0]
tree = ast.parse(context[found.source])
for node in ast.walk(tree):
    if isinstance(node, ast.ClassDef) and node.name == "ReAct":
        react = node
start = next(node for node in react.body if getattr(node, "name", "") == "__init__")
names = [argument.arg for argument in start.args.args]
defaults = dict(zip(reversed(names), reversed(start.args.defaults)))
max_iters = ast.literal_eval(defaults["max_iters"])
print(max_iters, grep("break", source=found.source, context=1))
"""
ANSWER = """
import re

lines = context[found.source].splitlines()
condition = next(line.strip() for line in lines if "next_tool_name ==" in line)
tool = re.search(r'"(\\w+)"', condition)[1]
header = next(line.strip() for line in lines if "max_iters" in line and re.search(rf"= *{max_iters}\\b", line))
evidence = [{"quote": header, "source": found.source}, {"quote": condition, "source": found.source}]
SUBMIT(max_iters=max_iters, tool=tool, evidence=evidence)
"""


def main(model: str = "") -> str:
    """Return both answers and the lines that prove them."""
    if model:
        lm = rlm_dspy.lm(model)
    else:
        lm, _ = scripted(action(LOOK), action(READ), action(ANSWER))
    corpus = rlm_dspy.read([Path(dspy.__file__).parent], include=["*.py"])
    rlm = rlm_dspy.RLM("context, question -> max_iters: int, tool, evidence: list[rlm_dspy.Evidence]")
    with dspy.context(lm=lm):
        result = rlm(context=corpus, question=QUESTION)
    quotes = "\n".join(f"  {item.source}: {item.quote}" for item in result.evidence)
    return f"{result.max_iters} iterations, ended by {result.tool!r}\n{quotes}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
