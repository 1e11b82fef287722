"""A batch on many processes: one rate limit, workers that are killed, and what a question costs in CPU and memory.

    python benchmarks/run_cluster.py kills [QUESTIONS]   8 Dask workers, a server with 600 requests a minute, 3 kills
    python benchmarks/run_cluster.py curve               100, 1,000 and 10,000 questions in one process
    python benchmarks/run_cluster.py                     both; prints Markdown, see RESULTS.md

Needs ``distributed`` and ``psutil``. In the curve the model answers at once, so the figures measure only the machinery.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import dspy

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rlm_dspy.batch import Answers, Batch, Job, Program, Progress, Report
from rlm_dspy.corpus import Corpus
from rlm_dspy.testing import Script, fields

SIGNATURE = "context, question -> answer"
PER_MINUTE = 600
WORKERS = 8
SIZES = (100, 1_000, 10_000)


def kill_workers(questions: int) -> list[tuple[str, str]]:
    """Run a batch on a Dask cluster whose workers are killed at a quarter, a half and three quarters."""
    import distributed

    from rlm_dspy.batch.dask_pace import share_pace
    from servers.counted import CountedServer

    server = CountedServer(delay=0.5, per_minute=PER_MINUTE, same=fields(answer="six"))
    with tempfile.TemporaryDirectory() as folder, server:
        os.environ |= {"DSPY_CACHEDIR": f"{folder}/cache", "RLM_DSPY_HOME": f"{folder}/home"}
        text = Path(folder, "towns.txt")
        text.write_text("The gate of every town opens at six.\n" * 50)
        asked = [f"When does the gate of town {number} open?" for number in range(questions)]
        cluster = distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=4,
            processes=True,
            dashboard_address=None,
            silence_logs=50,
            preload=["rlm_dspy.batch", "litellm"],  # a worker that is replaced gets questions when it is ready for them
        )
        with cluster, distributed.Client(cluster) as client:
            job = Job(
                SIGNATURE,
                (str(text),),
                "openai/counted",
                connection={"api_base": f"{server.url}/v1", "api_key": "key", "requests_per_minute": PER_MINUTE},
                mode="direct",
                pace=share_pace(client),
            )
            client.run(job.program)  # so that the time to import the package is not that of the batch
            killed: list[int] = []
            in_flight: set[str] = set()
            done_at: list[float] = []

            def kill_one(progress: Progress) -> None:
                done_at.append(time.monotonic())
                if len(killed) < 3 and progress.done >= questions * (len(killed) + 1) // 4:
                    process = next(iter(set(client.run(os.getpid).values()) - set(killed)))
                    os.kill(process, signal.SIGSTOP)  # so that nothing changes while its calls are looked up
                    in_flight.update(server.calls_in_flight(process))
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

            executor = client.get_executor()
            out = Answers(Path(folder, "answers.jsonl"))
            report = Batch(job, out=out, executor=executor, concurrency=8 * WORKERS, on_progress=kill_one).run(asked)
        twice = server.paid_twice()
        minutes = report.seconds / 60
        most = int(0.95 * questions)  # the first 95 %, since the last ones wait for workers that just start
        early = PER_MINUTE * (done_at[most] - done_at[0]) / 60
        return [
            ("questions, lost", f"{len(report.rows):,}, {len(report.failed)}"),
            ("workers killed", str(len(killed))),
            ("seconds; at an even pace it would take", f"{report.seconds:.0f}; {60 * questions / PER_MINUTE:.0f}"),
            ("requests a minute, share of the limit", f"{len(server.paid) / minutes:.0f}, "
             f"{len(server.paid) / minutes / PER_MINUTE:.0%}"),
            ("share of the limit until 95 % were answered", f"{most / early:.0%}"),
            ("most requests in any minute", str(server.busiest_minute())),
            ("refused by the server (429)", str(server.refused)),
            ("paid twice, but for calls in flight at a kill", str(len(twice - in_flight))),
            ("in flight at a kill, paid twice of those", f"{len(in_flight)}, {len(twice & in_flight)}"),
        ]  # fmt: skip


class InstantScript(Script):
    """Answers at once and keeps no requests."""

    def complete(self, request: Any) -> Any:
        """Return the reply."""
        response = super().complete(request)
        self.requests.clear()
        return response


def measure_size(questions: int) -> dict[str, float]:
    """Return the CPU and memory of a batch of this size in this process, after some questions that do not count."""
    engine = InstantScript(fields(answer="noon"))
    lm = dspy.LM("scripted/model", engine=engine, cache=False, num_retries=0)
    corpus = Corpus.from_texts({"a.txt": "The gate opens at noon.\n" * 50})

    def run_batch(count: int, folder: str) -> Report:
        asked = (f"Question {number}: when does it open?" for number in range(count))
        out = Answers(Path(folder, f"{count}.jsonl"))
        return Batch(Program(SIGNATURE, corpus, lm, mode="direct"), out=out).run(asked)

    tracing = len(sys.argv) > 3
    times = 1 if tracing else max(1, SIZES[1] // questions)  # a single short batch is too short to time
    if tracing:
        tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder:
        run_batch(300, folder)  # DSPy keeps so many calls
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        started = time.process_time()
        for _ in range(times):
            report = run_batch(questions, tempfile.mkdtemp(dir=folder))
        seconds = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1] - before
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        assert report.success_rate == 1
    return {"cpu": seconds / questions / times, "kept": kept / questions, "peak": peak}


def measure_curve() -> list[tuple[str, ...]]:
    """Measure each size in processes of their own, memory apart from time, which tracing makes slow."""
    rows = []
    for size in SIZES:
        found = []
        for traced in ([], ["traced"]):
            command = [sys.executable, __file__, "size", str(size), *traced]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        timed, traced_run = found
        memory = f"{traced_run['kept'] / 1000:.2f} kB", f"{traced_run['peak'] / 1e6:.1f} MB"
        rows.append((f"{size:,}", f"{1000 * timed['cpu']:.2f} ms", *memory))
    return rows


def print_tables(which: str, questions: int) -> None:
    """Print the tables as Markdown."""
    print(f"load average {os.getloadavg()[0]:.1f}\n")
    if which in ("kills", "all"):
        print("| figure | |\n| --- | --- |")
        for name, value in kill_workers(questions):
            print(f"| {name} | {value} |")
    if which in ("curve", "all"):
        print("\n| questions | CPU per question | memory kept per question | peak |\n| --- | --- | --- | --- |")
        for row in measure_curve():
            print(f"| {' | '.join(row)} |")
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["size"]:
        print(json.dumps(measure_size(int(sys.argv[2]))))
    else:
        chosen = sys.argv[1] if len(sys.argv) > 1 else "all"
        print_tables(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else 1_000)
