"""An RLM inside a larger DSPy program: it finds the passage, a predictor writes the note.

python examples/composed.py [MODEL]

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys

import dspy

import rlm_dspy

HANDBOOK = "\n\n".join(
    [f"Section {n}. Routine matter number {n}." for n in range(400)]
    + ["Section 400. A refund is paid within 14 days of the return of the goods."]
)


class Support(dspy.Module):
    """Answer a customer from a handbook."""

    def __init__(self) -> None:
        super().__init__()
        self.find = rlm_dspy.RLM("context, question -> passage", max_iters=8)
        self.write = dspy.Predict("question, passage -> reply")

    def forward(self, context: str, question: str) -> dspy.Prediction:
        found = self.find(context=context, question=question)
        written = self.write(question=question, passage=found.passage)
        return dspy.Prediction(reply=written.reply, passage=found.passage, run=found.run)


def main(model: str = "offline") -> str:
    """Reply to one question."""
    with dspy.context(lm=rlm_dspy.lm(model)):
        return str(Support()(context=HANDBOOK, question="Within how many days is a refund paid?").reply)


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
