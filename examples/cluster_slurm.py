"""Many questions on a Slurm cluster: jobs that start when the queue lets them, and may be preempted.

Shared by all: the addresses of the files (a folder that all nodes see, or s3://…), the Python environment, the keys,
which the job script reads from a file that only you can read. Not shared: the texts (each process reads them and checks
their digest), converted files and replies (on the disk of each node), the answers (this process's).

Needs dask-jobqueue. Run it on a login node, or as a small job of its own; repeat it to go on after it was ended.

python examples/cluster_slurm.py QUESTIONS ANSWERS PATH [MODEL]

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Client

from rlm_dspy.batch import Answers, Batch, Job
from rlm_dspy.batch.dask_pace import share_pace

MOST_JOBS = 16
PROCESSES = 8  # of a job, each with one question at a time


def main(questions: str, answers: str, path: str, model: str = "openai/gpt-4o-mini") -> str:
    """Ask the questions, one a line, about the files at the path."""
    cluster = SLURMCluster(
        cores=PROCESSES,
        processes=PROCESSES,
        memory="16GB",
        walltime="02:00:00",
        job_extra_directives=["--requeue"],
        job_script_prologue=[
            "source ~/.model_keys",
            # The caches of replies and of converted files, on the node's own disk.
            "export DSPY_CACHEDIR=${TMPDIR:-/tmp}/$USER-dspy RLM_DSPY_HOME=${TMPDIR:-/tmp}/$USER-rlm",
        ],
        # Workers get questions when they have imported the package, and leave before the walltime ends the job.
        worker_extra_args=["--preload", "rlm_dspy.batch", "--lifetime", "110m", "--lifetime-stagger", "5m"],
    )
    with cluster, Client(cluster) as client:
        cluster.adapt(minimum_jobs=1, maximum_jobs=MOST_JOBS)
        job = Job("context, question -> answer", (path,), model, pace=share_pace(client))
        # Enough in flight that the jobs which start late find work.
        at_once = MOST_JOBS * PROCESSES
        out = Answers(Path(answers), resume=True)
        batch = Batch(job, out=out, executor=client.get_executor(), concurrency=at_once, max_cost=100.0)
        report = batch.run(Path(questions).read_text().splitlines())
    return f"{report.success_rate:.0%} answered, {report.reused} of them before"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
