"""A dspy.ReAct agent with two tools: a dspy retriever (it needs numpy) finds the manual, and an RLM reads all of it.

python examples/react_agent.py [MODEL]

Without MODEL a scripted model plays the agent and the RLM; each of its replies is made from what it was shown.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import json
import re
import sys

import dspy
import numpy as np

import rlm_dspy
from rlm_dspy.testing import action, fields, scripted

MACHINES = ("pump", "crane", "winch", "boiler", "mill")
TEXTS = ["Keep it clean and dry. " * 2_000 + f"\nOil it every {hours} hours.\n" for hours in (60, 90, 120, 150, 180)]
MANUALS = dict(zip([f"Manual of the {machine}" for machine in MACHINES], TEXTS, strict=True))


def count_machines(texts: list[str]) -> np.ndarray:  # real texts deserve a dspy.Embedder
    return np.array([[text.lower().count(machine) + 0.01 for machine in MACHINES] for text in texts])


def find_manual(query: str) -> str:
    """Return the title of the manual that fits best."""
    return str(dspy.retrievers.Embeddings(list(MANUALS), count_machines, k=1)(query).passages[0])


def read_manual(title: str, question: str) -> str:
    """Return the answer of one manual, with its quote."""
    read = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
    result = read(context=MANUALS[title], question=question)
    return f"{result.answer} ({'; '.join(f'{item.where}: {item.quote}' for item in result.evidence)})"


def choose_title(shown: str) -> str:
    title = re.findall(r"Manual of the \w+", shown)[-1]
    arguments = json.dumps({"title": title, "question": "How often is it oiled?"})
    return fields(next_thought="Read it.", next_tool_name="read_manual", next_tool_args=arguments)


lm, _ = scripted(
    fields(next_thought="Which one?", next_tool_name="find_manual", next_tool_args='{"query": "oil of the crane"}'),
    choose_title,
    action(r"hit = grep(r'every \d+ hours')[0]; print(hit)"),
    action(r"import re; SUBMIT(answer=re.search(r'every \d+ hours', hit.text)[0], evidence=[hit])"),
    fields(next_thought="Done.", next_tool_name="finish", next_tool_args="{}"),
    lambda shown: fields(reasoning="It says so.", answer=re.findall(r"every \d+ hours.*\)", shown)[-1]),
)
if model := sys.argv[1:]:
    lm = rlm_dspy.lm(*model)
agent = dspy.ReAct("question -> answer", tools=[find_manual, read_manual], max_iters=5)
with dspy.context(lm=lm):
    result = agent(question="How often must the crane be oiled?")
print(result.answer)
print("tools:", ", ".join(value for name, value in result.trajectory.items() if name.startswith("tool_name")))
