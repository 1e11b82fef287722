"""Typed outputs: SUBMIT is checked against the signature, and the model is asked to correct a wrong type.

python examples/typed_output.py [MODEL]

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys

import dspy

import rlm_dspy

NOTES = """The Aurora was launched in Hamburg in 1998 with 42 sailors.
She sank off Cape Horn in 2007; all aboard were rescued.
"""


class ShipFacts(dspy.Signature):
    """Read the ship's record."""

    context: str = dspy.InputField()
    question: str = dspy.InputField()
    year: int = dspy.OutputField(desc="the year that was asked for")
    evidence: list[rlm_dspy.Evidence] = dspy.OutputField(desc="the sentence that says so")


def main(model: str = "offline") -> str:
    """Return the year as an int, with the line that backs it."""
    with dspy.context(lm=rlm_dspy.lm(model)):
        result = rlm_dspy.RLM(ShipFacts)(context=NOTES, question="In which year was the Aurora launched?")
    assert isinstance(result.year, int)
    return f"{result.year} ({result.evidence[0].where})"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
