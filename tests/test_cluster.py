"""Batches on many processes: one pace for all of them, and workers that die."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

from rlm_dspy.batch import Answers, Batch, FilePace, Job, Program, Progress
from rlm_dspy.batch.job import KEPT_CALLS
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import lm
from rlm_dspy.lms.file_pace import SHARED_WINDOW_SECONDS, FileLimiter
from rlm_dspy.metering import Meter
from rlm_dspy.testing import fields, scripted
from servers.counted import CountedServer
from servers.openai import LIMITS, OpenAIServer

SIGNATURE = "context, question -> answer"
TOWNS = ["Ulm", "Bonn", "Trier", "Worms", "Mainz", "Speyer", "Köln", "Aachen"]
PER_MINUTE = 30


def standing_clock() -> float:
    """Return the same time in every process, so that a wait is a start."""
    return 1_000.0


def reserve_starts(path: Path, count: int) -> list[float]:
    limiter = FileLimiter(path, PER_MINUTE, clock=standing_clock)
    return [standing_clock() + limiter.reserve() for _ in range(count)]


def reserve_and_die(path: Path) -> None:
    limiter = FileLimiter(path, PER_MINUTE, clock=standing_clock)
    with limiter._locked_limiter() as held:
        held.reserve()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def processes() -> Any:
    """A context whose processes start with the package imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlm_dspy.batch"])
    return context


def test_processes_that_begin_together_keep_the_limit_in_every_minute(tmp_path: Path, processes: Any) -> None:
    with ProcessPoolExecutor(4, mp_context=processes) as pool:
        parts = [pool.submit(reserve_starts, tmp_path / "pace", 50) for _ in range(4)]
        starts = sorted(start for part in parts for start in part.result())
    assert len(starts) == 200
    assert all(later - first >= 60 for first, later in zip(starts, starts[PER_MINUTE:], strict=False))
    allowed = 200 // PER_MINUTE * SHARED_WINDOW_SECONDS
    assert starts[-1] - standing_clock() <= allowed < 200 / PER_MINUTE * 60 / 0.9


def test_a_process_that_is_killed_with_the_lock_holds_up_nobody(tmp_path: Path, processes: Any) -> None:
    path = tmp_path / "pace"
    assert reserve_starts(path, PER_MINUTE) == [1_000.0] * PER_MINUTE
    dying = processes.Process(target=reserve_and_die, args=(path,))
    dying.start()
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    assert reserve_starts(path, 1) == [1_000.0 + SHARED_WINDOW_SECONDS]


def test_starts_of_a_clock_that_was_set_back_are_forgotten(tmp_path: Path) -> None:
    now = [10_000_000.0]
    limiter = FileLimiter(tmp_path / "pace", 1, clock=lambda: now[0])
    assert limiter.reserve() == 0
    now[0] = 1_000.0
    assert limiter.reserve() == 0
    assert limiter.reserve() == SHARED_WINDOW_SECONDS


def test_a_file_that_is_no_pace_is_replaced_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pace").write_bytes(b"not a state")
    with caplog.at_level(logging.WARNING):
        assert reserve_starts(tmp_path / "pace", 1) == [1_000.0]
    assert "the pace begins again" in caplog.text


def test_a_folder_that_cannot_be_written_is_named_and_ends_a_batch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pace = FilePace(tmp_path / "file" / "folder")
    with pytest.raises(ConfigurationError, match=r"cannot be used for the shared pace.*RLM_DSPY_HOME"):
        pace.limiter("server", "model", 1).reserve()
    with OpenAIServer() as server:
        model = lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=server.key, cache=False, pace=pace)
        program = Program(SIGNATURE, Corpus.from_texts({"a.txt": "It opens at noon."}), model, mode="direct")
        report = Batch(program, concurrency=1).run(["When?", "Where?"])
    assert report.stopped_by == "ConfigurationError"
    assert server.posts == []


def test_nothing_is_written_without_a_limit(tmp_path: Path) -> None:
    limiter = FilePace(tmp_path).limiter("server", "model", None)
    assert limiter.reserve() == limiter.token_wait(1_000) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_limit_per_day_stretches_the_shared_one(tmp_path: Path) -> None:
    path = tmp_path / "pace"
    FileLimiter(path, 1).learn_limits({"x-ratelimit-limit-requests": "14400"}, stretch=True)
    waits = [FileLimiter(path, 1).reserve() for _ in range(11)]
    assert waits[:10] == [0.0] * 10
    assert waits[10] > 50


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_tokens_that_another_process_used_up_are_waited_for_and_counted(tmp_path: Path, way: str) -> None:
    limits = LIMITS | {"x-ratelimit-remaining-tokens": "200", "x-ratelimit-reset-tokens": "1.2s"}
    meter = Meter()
    with OpenAIServer(headers=limits) as server, dspy.context(callbacks=[meter]):
        for prompt in ("one", "two"):  # each LM reads the file, as one of another process would
            options = {"api_base": server.url, "api_key": server.key, "cache": False, "pace": FilePace(tmp_path)}
            model = lm("groq/openai/gpt-oss-20b", **options)
            assert (model(prompt) if way == "sync" else await model.acall(prompt)) == ["hello"]
    assert meter.usage.waited_seconds > 0.5


def test_a_pace_is_not_saved_with_a_program(tmp_path: Path) -> None:
    engine = lm("openai/gpt-4o-mini", pace=FilePace(tmp_path))._engine_spec
    assert engine.route.pace == FilePace(tmp_path)
    assert "pace" not in engine.dump_state()


# --- workers that die ----------------------------------------------------------------------------------------------


class Echo:
    """Answers with the question; the worker that gets ``die`` is killed as long as a file exists."""

    corpus_digest = "c"
    digest = "p"

    def __init__(self, lives: Path) -> None:
        self.lives = lives

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        if question == "die" and self.lives.exists():
            self.lives.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"answer": question, "usage": {"cost": 0.0}}


def test_dead_workers_of_a_process_pool_are_replaced_and_no_question_is_lost(tmp_path: Path, processes: Any) -> None:
    lives = tmp_path / "lives"
    lives.touch()
    out = tmp_path / "answers.jsonl"
    batch = Batch(Echo(lives), out=Answers(out), executor=lambda: ProcessPoolExecutor(2, mp_context=processes))
    report = batch.run(["a", "b", "die", "c", "d"])
    assert [row["answer"] for row in report.rows] == ["a", "b", "die", "c", "d"]
    assert report.stopped_by is None
    assert not lives.exists()


class Fragile(Executor):
    """Breaks at one question."""

    made = 0

    def __init__(self) -> None:
        Fragile.made += 1
        self.is_broken = False

    def submit(self, call: Any, *arguments: Any, **_: Any) -> Future[Any]:
        if self.is_broken:
            raise BrokenExecutor("it is broken")
        found: Future[Any] = Future()
        if arguments[1] == "poison":
            self.is_broken = True
            found.set_exception(BrokenExecutor("a worker died"))
        else:
            found.set_result(call(*arguments))
        return found


@pytest.fixture
def fragile() -> type[Fragile]:
    Fragile.made = 0
    return Fragile


def test_a_question_that_kills_every_worker_fails_alone(fragile: type[Fragile], tmp_path: Path) -> None:
    batch = Batch(Echo(tmp_path / "x"), executor=fragile, concurrency=1, max_cost=1.0)
    report = batch.run(["poison", *(f"q{number}" for number in range(5))])
    assert [row["question"] for row in report.failed] == ["poison"]
    assert report.failed[0]["error"]["type"] == "BrokenExecutor"
    assert fragile.made == 3


def test_workers_that_never_answer_end_the_batch(fragile: type[Fragile], tmp_path: Path) -> None:
    questions = [{"question": "poison", "id": number} for number in range(3)]
    report = Batch(Echo(tmp_path / "x"), executor=fragile, concurrency=1).run([*questions, "poison"])
    assert {row["error"]["type"] for row in report.failed} == {"BrokenExecutor"}
    assert fragile.made <= 4


class GivingUp(Fragile):
    """Gives up every question, as a cluster that is closed does."""

    def submit(self, call: Any, *arguments: Any, **_: Any) -> Future[Any]:
        found: Future[Any] = Future()
        found.cancel()
        found.set_running_or_notify_cancel()
        return found


def test_a_question_that_the_executor_gives_up_is_a_failed_row(tmp_path: Path) -> None:
    report = Batch(Echo(tmp_path / "x"), executor=GivingUp()).run(["a"])
    assert report.failed[0]["error"] == {"type": "CancelledError", "message": "the executor gave it up"}


def test_a_batch_on_processes_shares_a_pace_unless_the_job_has_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The gate opens at six.")
    job = Job(SIGNATURE, (str(tmp_path / "a.txt"),), "offline")
    assert Batch(job).program.pace is None
    assert Batch(job, executor=GivingUp()).program.pace == FilePace()
    own = Job(SIGNATURE, (str(tmp_path / "a.txt"),), "offline", pace=FilePace(tmp_path))
    assert Batch(own, executor=GivingUp()).program.pace == FilePace(tmp_path)


def test_a_long_batch_keeps_few_prompts_in_memory() -> None:
    model, _ = scripted(fields(answer="noon"))
    program = Program(SIGNATURE, Corpus.from_texts({"a.txt": "It opens at noon."}), model, mode="direct")
    with dspy.context(trace=[]):
        report = Batch(program).run([f"Question {number}?" for number in range(KEPT_CALLS + 50)])
        assert dspy.settings.trace == []
    assert report.success_rate == 1
    assert report.cost == pytest.approx(0.001 * len(report.rows))
    assert len(model.history) <= KEPT_CALLS


# --- Dask ----------------------------------------------------------------------------------------------------------


def test_the_pace_of_a_cluster_works_only_on_its_workers() -> None:
    pytest.importorskip("distributed", reason="pip install distributed")
    from rlm_dspy.batch.dask_pace import DaskPace

    with pytest.raises(ConfigurationError, match="only in tasks of Dask workers"):
        DaskPace().limiter("server", "model", 1).reserve()


def test_the_scheduler_answers_for_each_model() -> None:
    pytest.importorskip("distributed", reason="pip install distributed")
    from rlm_dspy.batch.dask_pace import SchedulerPace

    pace = SchedulerPace()
    assert pace.answer_worker(("server", "a", 1), "reserve", {}) == 0
    assert pace.answer_worker(("server", "a", 1), "reserve", {}) > 60
    assert pace.answer_worker(("server", "b", 1), "reserve", {}) == 0
    limits = LIMITS | {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "30s"}
    assert pace.answer_worker(("server", "a", 1), "learn_limits", {"limits": limits}) is None
    assert pace.answer_worker(("server", "a", 1), "token_wait", {"tokens": 10}) > 20


@pytest.mark.slow
@pytest.mark.skipif("RLM_DSPY_MINUTES" not in os.environ, reason="takes half a minute: set RLM_DSPY_MINUTES=1")
@pytest.mark.filterwarnings("ignore")  # Dask's and tornado's own
def test_a_killed_worker_of_a_cluster_loses_nothing_and_pays_nothing_twice(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="pip install distributed")
    from rlm_dspy.batch.dask_pace import share_pace

    text = tmp_path / "towns.txt"
    text.write_text("".join(f"The gate of {town} opens at {hour} hours.\n" for hour, town in enumerate(TOWNS, 4)))
    questions = [
        f"{start} the gate of {town} open?" for town in TOWNS[:6] for start in ("When does", "At what hour does")
    ]
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    killed: list[int] = []
    in_flight: set[str] = set()
    with CountedServer(delay=0.1, per_minute=600) as server, cluster, distributed.Client(cluster) as client:

        def kill_one(progress: Progress) -> None:
            if progress.done >= 4 and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGSTOP)  # so that nothing changes while its calls are looked up
                in_flight.update(server.calls_in_flight(killed[0]))
                os.kill(killed[0], signal.SIGKILL)

        connection = {"api_base": f"{server.url}/v1", "api_key": "key", "requests_per_minute": 600}
        job = Job(SIGNATURE, (str(text),), "openai/m", connection=connection, mode="rlm", pace=share_pace(client))
        out = Answers(tmp_path / "answers.jsonl")
        executor = client.get_executor()
        report = Batch(job, out=out, executor=executor, concurrency=4, on_progress=kill_one).run(questions)
    assert len(killed) == 1
    assert [row["error"] for row in report.rows] == [None] * len(questions)
    assert len({call.body for call in server.paid}) >= 2 * len(questions)  # each question takes at least two calls
    assert server.paid_twice() <= in_flight
    assert server.refused == 0
