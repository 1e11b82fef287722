"""The optimization of the tests in a process of its own, slow enough to be killed: slow_job.py FOLDER."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlm_dspy.tuning.optimization import Optimization, plan_for
from tuning.student import Student
from tuning.test_optimizing import RATE, job


def slowly(self: Student, system: str, turns: list[tuple[str, str]], sample: int) -> str:
    time.sleep(0.03)
    return quick(self, system, turns, sample)


if __name__ == "__main__":
    quick, Student.reply = Student.reply, slowly  # type: ignore[method-assign]
    made, *_ = job(Path(sys.argv[1]))
    Optimization(made, plan_for(made, RATE)).run()
