"""Many questions on the workers of a Dask cluster: one pace for all of them, and workers that may die or come late.

Shared by all: the addresses of the files (the same folder, or s3://…), the versions of the packages, the keys in the
environment. Not shared: the texts (each process reads them and checks their digest), converted files and replies
(each machine has its caches; a question that a dead worker had begun replays them), the answers (this process's).

python examples/cluster_dask.py [MODEL [SCHEDULER]]

Cost: $0.0084–$0.0697 with groq/openai/gpt-oss-20b (8 questions, 78,000–728,000 prompt tokens).
"""

import sys
import tempfile
from pathlib import Path

from distributed import Client, LocalCluster

from rlm_dspy.batch import Answers, Batch, Job
from rlm_dspy.batch.dask_pace import share_pace

TOWNS = ["Ulm", "Bonn", "Trier", "Worms", "Mainz", "Speyer", "Aachen", "Kiel"]
WORKERS = 4


def ask_all(client: Client, model: str, folder: Path) -> str:
    """Ask about every town, twice as many questions at once as there are workers."""
    text = folder / "towns.txt"
    text.write_text("".join(f"The gate of {town} opens at {hour} hours.\n" for hour, town in enumerate(TOWNS, 4)))
    job = Job("context, question -> answer", (str(text),), model, pace=share_pace(client))
    out = Answers(folder / "answers.jsonl")  # after a crash: Answers(path, resume=True)
    batch = Batch(job, out=out, executor=client.get_executor(), concurrency=2 * WORKERS)
    report = batch.run(f"When does the gate of {town} open?" for town in TOWNS)
    return f"{report.rows[0]['answer']}\n{report.success_rate:.0%} answered"


def main(model: str = "offline", scheduler: str | None = None) -> str:
    """Answer the questions on a running cluster, or on four processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        if scheduler:
            with Client(scheduler) as client:
                return ask_all(client, model, Path(folder))
        # One thread each: Python 3.11 cannot parse code in two threads reliably.
        cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=50)
        with cluster, Client(cluster) as client:
            return ask_all(client, model, Path(folder))


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
