"""Many questions about one corpus: one LM, one budget, and an answers file that survives a kill.

python examples/many_questions.py [MODEL]

Cost: $0.0021–$0.0174 with groq/openai/gpt-oss-20b (2 questions, 19,500–182,000 prompt tokens).
"""

import sys
import tempfile
from pathlib import Path

import rlm_dspy
from rlm_dspy.batch import Answers, Batch, Program

BOOK = {
    "one.txt": "Chapter one.\n" + "It rained all day. " * 200 + "\nThe captain of the first ship was Anna Holm.\n",
    "two.txt": "Chapter two.\n" + "The wind fell. " * 200 + "\nThe captain of the second ship was Piet de Boer.\n",
}
QUESTIONS = ["Who was the captain of the first ship?", "Who was the captain of the second ship?"]


def main(model: str = "offline") -> str:
    """Answer all questions about the book, each with its source."""
    corpus = rlm_dspy.Corpus.from_texts(BOOK)
    signature = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
    with tempfile.TemporaryDirectory() as folder:
        out = Answers(Path(folder) / "answers.jsonl")
        program = Program(signature, corpus, rlm_dspy.lm(model), mode="rlm")
        report = Batch(program, out=out, concurrency=2, max_cost=0.05).run(QUESTIONS)
    lines = [f"{row['answer']} ({row['evidence'][0]['path']}:{row['evidence'][0]['line']})" for row in report.rows]
    return "\n".join([*lines, f"{report.success_rate:.0%} answered"])


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
