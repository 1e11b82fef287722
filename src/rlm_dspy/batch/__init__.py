"""Ask many questions about one corpus: any executor, one budget, and an answers file that survives a kill.

Example:
    >>> job = Job("context, question -> answer", paths=("docs",), model="offline")
    >>> report = Batch(job, out=Answers(Path("answers.jsonl")), concurrency=8).run(["What is X?", "Who wrote Y?"])
    >>> report.success_rate
    1.0
"""

from rlm_dspy.batch.answers_file import Answers
from rlm_dspy.batch.job import Job, Program
from rlm_dspy.batch.run import Answering, Batch, Progress, Report

__all__ = ["Answering", "Answers", "Batch", "Job", "Program", "Progress", "Report"]
