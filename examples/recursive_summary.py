"""Map and reduce: the root passes chapters to children, each with its own REPL, and joins their answers.

    python examples/recursive_summary.py [MODEL]

Without MODEL a scripted model plays both roles, so that you can see the recursion without a server.

Cost: $0.0042–$0.0349 with groq/openai/gpt-oss-20b (4 questions, 39,000–364,000 prompt tokens).
"""

import sys

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

import rlm_dspy

BOOK = "\n\n".join(f"Chapter {n}. The ship reached {port}." for n, port in enumerate(("Bergen", "Leith", "Brest"), 1))
FORM = "[[ ## reasoning ## ]]\nplan\n\n[[ ## code ## ]]\n{}\n\n[[ ## completed ## ]]"
ROOT = "parts = [select([r]) for r in chunk('paragraphs', 40)]\nports = subcall_batched(parts, 'Name the port')\n"


class Scripted:
    """Plays the root and its children."""

    def complete(self, request: Request) -> Response:
        child = "`instruction`" in (request.messages[-1].text or "")
        code = "SUBMIT(output=text.split('reached ')[1].strip('.\\n'))" if child else ROOT + "SUBMIT(', '.join(ports))"
        message = Message.assistant([TextPart(FORM.format(code))])
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=Usage())


def main(model: str = "") -> str:
    """Return the summary and the number of children."""
    lm = rlm_dspy.lm(model) if model else dspy.LM("scripted/model", engine=Scripted(), cache=False)
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> summary", max_depth=2)(context=BOOK, question="Which ports?")
    return f"{result.summary} ({len(result.run.steps[0].sub_calls)} children)"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
