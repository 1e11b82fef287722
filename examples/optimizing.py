"""Optimize a program: dspy.GEPA reads why answers were wrong, and rewrites the instructions. It shows both scores.

Without MODEL a scripted model counts words as they are spelled unless its instructions say to ignore case, and another
plays the writer of instructions.   python examples/optimizing.py [MODEL]
Cost: $0.0282–$0.2353 with groq/openai/gpt-oss-20b (27 questions, 263,250–2,457,000 prompt tokens).
"""

import contextlib
import sys

import dspy

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.testing import action, scripted, texts
from rlm_dspy.tuning import Tunable, ran

TEXT = "The boat waits. A gull cries; the captain sleeps. THE END of a day. Boat and captain rest.\n" * 300
COUNTS = {"the": 900, "a": 600, "boat": 600, "end": 300, "gull": 300, "captain": 600}
EXAMPLES = [dspy.Example(context=TEXT, question=f"Count: {word}", answer=n) for word, n in COUNTS.items()]
QUESTIONS = [example.with_inputs("context", "question") for example in EXAMPLES]


def count_words(shown: str) -> str:
    text = "context.lower()" if "ignore case" in texts(script.requests[-1])[0] else "context"
    return action(f"import re; SUBMIT(answer=len(re.findall(rf'\\b{{question.split()[1]}}\\b', {text})))")


lm, script = scripted(count_words)
writer, _ = scripted('{"new_instruction": "Count the word by code, and ignore case."}')
if model := sys.argv[1:]:
    lm = writer = rlm_dspy.lm(*model)
dspy.configure(lm=lm)
judge = dspy.Evaluate(devset=QUESTIONS[1::2], metric=metrics.exact, num_threads=1, display_progress=False)
gepa = dspy.GEPA(metric=metrics.exact, max_metric_calls=20, reflection_lm=writer, component_selector=ran, num_threads=1)
rlm = Tunable("context, question -> answer: int")
with contextlib.redirect_stdout(sys.stderr):
    better = gepa.compile(rlm, trainset=QUESTIONS[::2], valset=QUESTIONS[::2])
print(f"{judge(rlm).score} -> {judge(better).score} of 100, on questions that GEPA did not see")
print(better.generate_action.signature.instructions)
