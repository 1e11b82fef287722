"""Ask many questions about one corpus: any executor, one budget, and an answers file that survives a kill.

Example:
    >>> job = Job("context, question -> answer", paths=("docs",), model="offline")
    >>> report = Batch(job, out=Answers(Path("answers.jsonl")), concurrency=8).run(["What is X?", "Who wrote Y?"])
    >>> report.success_rate
    1.0
"""

from rlm_dspy.batch.answers_file import Answers
from rlm_dspy.batch.batch_run import Answering, Batch, Progress, Report
from rlm_dspy.batch.job import Job, Program
from rlm_dspy.batch.plan import BatchPlan, make_plan
from rlm_dspy.batch.provider_batch import PredictedBatch, predict_batch, waves_path
from rlm_dspy.lms.file_pace import FilePace
from rlm_dspy.lms.provider_batches import WaveJournal, WavePace, Waves

__all__ = [
    "Answering",
    "Answers",
    "Batch",
    "BatchPlan",
    "FilePace",
    "Job",
    "PredictedBatch",
    "Program",
    "Progress",
    "Report",
    "WaveJournal",
    "WavePace",
    "Waves",
    "make_plan",
    "predict_batch",
    "waves_path",
]
