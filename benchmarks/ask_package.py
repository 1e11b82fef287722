"""Ask one question with another package, in that package's own environment; used by run_packages.py.

Reads a JSON object from stdin and prints one as the last line of stdout. The packages run the model's code with the
rights of this process.
"""

import json
import logging
import sys
import time
from pathlib import Path

REPLY_TOKENS = 400  # of one reply, as in run_accuracy.py --max-reply 400


def rlms_answer(asked: dict) -> dict:
    """Ask with ``rlms``: its prompt is the context, its root prompt the question."""
    from rlm import RLM

    served = {"model_name": asked["model"], "base_url": asked["base"], "api_key": "none"}
    sampling = {"temperature": 0, "max_tokens": REPLY_TOKENS}
    rlm = RLM(backend_kwargs=served, max_iterations=asked["max_iters"], sampling_args=sampling)
    done = rlm.completion(asked["context"], root_prompt=asked["question"])
    used = done.usage_summary.model_usage_summaries.values()
    return {
        "answer": done.response,
        "calls": sum(one.total_calls for one in used),
        "prompt_tokens": sum(one.total_input_tokens for one in used),
        "reply_tokens": sum(one.total_output_tokens for one in used),
    }


def predict_rlm_answer(asked: dict) -> dict:
    """Ask with predict-rlm and its local Python instead of Deno."""
    import dspy
    from predict_rlm import PredictRLM
    from predict_rlm.backends.supervisor.runner import DirectPythonBackend

    served = {"api_base": asked["base"], "api_key": "none", "cache": False}
    lm = dspy.LM(f"openai/{asked['model']}", temperature=0, max_tokens=REPLY_TOKENS, **served)
    dspy.configure(lm=lm)
    # The same task text as for our own side.
    signature = dspy.Signature("context: str, question: str -> answer: str", asked["instructions"])
    backend = DirectPythonBackend(runner_path=str(Path.cwd() / "runner.py"), workdir=str(Path.cwd()))
    own = {"interpreter": backend, "max_iterations": asked["max_iters"], "verbose": False}
    answer = str(PredictRLM(signature, **own)(context=asked["context"], question=asked["question"]).answer)
    used = [call["usage"] or {} for call in lm.history]
    return {
        "answer": answer,
        "calls": len(used),
        "prompt_tokens": sum(one.get("prompt_tokens", 0) for one in used),
        "reply_tokens": sum(one.get("completion_tokens", 0) for one in used),
    }


def main() -> None:
    """Ask, and print the answer or the error."""
    logging.disable(logging.WARNING)
    asked = json.load(sys.stdin)
    answer = {"rlms": rlms_answer, "predict-rlm": predict_rlm_answer}[asked["package"]]
    started = time.monotonic()
    try:
        told = answer(asked)
    except Exception as error:  # whatever the other package raises is its result
        told = {"error": f"{type(error).__name__}: {error}"[:300]}
    print("\n" + json.dumps({**told, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
