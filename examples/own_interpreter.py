"""Your own interpreter: any class with DSPy's CodeInterpreter protocol, here DSPy's own local one.

python examples/own_interpreter.py [MODEL]

Cost: $0.0021–$0.0174 with groq/openai/gpt-oss-20b (2 questions, 19,500–182,000 prompt tokens).
"""

import sys

import dspy

import rlm_dspy

TEXT = "The station opened in 1931.\n" + "Nothing else happened.\n" * 1000


def main(model: str = "offline") -> str:
    """Run a program in our sandbox with tighter limits, and in dspy.LocalInterpreter, which is not a sandbox."""
    rlm = rlm_dspy.RLM("context, question -> answer")
    question = "When did the station open?"
    with dspy.context(lm=rlm_dspy.lm(model)):
        confined = rlm(
            context=TEXT,
            question=question,
            interpreter_factory=lambda: rlm_dspy.Sandbox(timeout=5, memory_mb=128),
        )
        local = rlm(context=TEXT, question=question, interpreter_factory=dspy.LocalInterpreter)
    return f"sandbox: {confined.answer}\nlocal:   {local.answer}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
