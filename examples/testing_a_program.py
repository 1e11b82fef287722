"""Test a program without a model: replies are scripted, and prompts are recorded.

    python examples/testing_a_program.py

The functions below also run under pytest.

Cost: nothing, no model is asked.
"""

import dspy

import rlm_dspy
from rlm_dspy.testing import Reply, action, scripted, texts

LOG = "07:12 pump started\n" * 5_000 + "07:13 disk full\n"
PROGRAM = rlm_dspy.RLM("context, question -> answer", max_iters=4)


def test_the_program_finds_the_fault() -> None:
    """The model searches, reads the printed output, and answers."""
    lm, script = scripted(action("print(grep('full'))"), action("SUBMIT(answer='disk full')"))
    with dspy.context(lm=lm):
        result = PROGRAM(context=LOG, question="What went wrong?")
    assert result.answer == "disk full"
    assert "07:13 disk full" in texts(script.requests[1])[-1]  # the prompt of the second call


def test_the_program_survives_a_bad_model() -> None:
    """A truncated reply is retried; a permanent provider failure raises an error with the run so far."""
    lm, _ = scripted(Reply("Let me see", finish_reason="length"), dspy.lm15.AuthError("no key"))
    failure: rlm_dspy.RLMError | None = None
    try:
        with dspy.context(lm=lm):
            PROGRAM(context=LOG, question="What went wrong?")
    except rlm_dspy.RLMError as error:
        failure = error
    assert "no key" in str(failure)
    assert len(failure.run.steps) == 1


if __name__ == "__main__":
    test_the_program_finds_the_fault()
    test_the_program_survives_a_bad_model()
    print("both hold")
