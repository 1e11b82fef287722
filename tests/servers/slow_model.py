"""The command with a scripted model that takes its time, as a program for a process of its own."""

from __future__ import annotations

PROGRAM = """
import sys, time
from pathlib import Path
from rlm_dspy.testing import action, fields, scripted
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.commands import main

def slow(message):
    if "[[ ## trajectory" in message:
        time.sleep(EXTRACT)
        return fields(answer="best so far", evidence="[]")
    Path("asked").touch()
    time.sleep(SECONDS)
    return action("SUBMIT(answer='4711', evidence=['the code is 4711'])")

lm, script = scripted(action("print(context[:30])", "Look at it."), slow)
model_choice.choose = lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None)
PATCH
main()
"""


def slow_program(*, seconds: float = 0, extract: float = 0, patch: str = "") -> str:
    """Return its source: ``seconds`` for the second reply, ``extract`` for the best answer of a run that is stopped.

    The file ``asked`` exists from the second call of the model on; ``patch`` is source that runs before the command.
    """
    return PROGRAM.replace("SECONDS", str(seconds)).replace("EXTRACT", str(extract)).replace("PATCH", patch)
