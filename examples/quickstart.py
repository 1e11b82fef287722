"""Ask a question about a text far larger than a prompt. Without MODEL it runs on the offline extractive engine.

python examples/quickstart.py [MODEL]      for example ollama_chat/qwen3:8b or groq/openai/gpt-oss-20b

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys

import dspy

import rlm_dspy

JOBS = [f"2026-03-{i % 28 + 1:02d} job {i} finished in {i % 7} s" for i in range(20_000)]
JOBS[4711] = "2026-03-08 job 4711 failed: disk full"
LOG = "\n".join(JOBS)


def main(model: str = "offline") -> str:
    """Find the one failure among 20,000 lines."""
    rlm = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
    with dspy.context(lm=rlm_dspy.lm(model)):
        result = rlm(context=LOG, question="Which job failed, and why?")
    quotes = "\n".join(f"  {item.where}: {item.quote}" for item in result.evidence)
    return f"{result.answer}\n{quotes}\n{result.run.status} after {len(result.run.steps)} steps"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
