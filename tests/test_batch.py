"""Many questions: one row each, paid once, within the budget, on any executor."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy import safe_files
from rlm_dspy.batch import Answers, Batch, Job, Program, Progress
from rlm_dspy.batch.batch_run import CostShare, answer_question
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import BudgetExceededError, ConfigurationError, CorpusError, LMAuthError, LMUnavailableError
from rlm_dspy.testing import action, fields, scripted, texts

SIGNATURE = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
TEXT = "\n".join(f"The gate of {name} opens at {hour} hours." for hour, name in enumerate(("Ulm", "Bonn", "Trier"), 6))
QUESTIONS = [f"When does the gate of {name} open?" for name in ("Ulm", "Bonn", "Trier")]


class Fake:
    """Answers by a function, at a given cost."""

    corpus_digest = "c"
    digest = "p"

    def __init__(self, reply: Any = None, cost: float | None = 0.0) -> None:
        self.reply = reply
        self.cost = cost
        self.asked: list[str] = []
        self.shares: list[float | None] = []

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        self.asked.append(question)
        self.shares.append(max_cost)
        answer = self.reply(question) if self.reply else question.upper()
        return {"answer": answer, "usage": {"cost": self.cost}}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_each_question_has_one_row_in_its_order(tmp_path: Path) -> None:
    seen: list[Progress] = []
    out = tmp_path / "a.jsonl"
    batch = Batch(Fake(), out=Answers(out), concurrency=3, on_progress=seen.append)
    report = batch.run(["a", {"question": "b", "id": 7}, "a"])
    assert [row["answer"] for row in report.rows] == ["A", "B", "A"]
    assert [row["id"] for row in rows(out)] == [None, 7, None]
    assert (report.answered, report.success_rate, report.stopped_by) == (3, 1.0, None)
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 3, 3)


def test_answers_that_a_full_disk_refuses_are_reported_and_the_file_stays_whole(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        report = Batch(Fake(lambda question: question * 300), out=Answers(out), concurrency=1).run(list("abcdefgh"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (report.stopped_by, [row["answer"][0] for row in rows(out)]) == ("disk", ["a", "b"])
    assert report.disk_error == f"{out} cannot be written: File too large"
    assert [row["answer"] for row in report.unsaved] == ["c" * 300]
    fake = Fake()
    resumed = Batch(fake, out=Answers(out, resume=True)).run(list("abcdefgh"))
    assert (resumed.reused, sorted(fake.asked)) == (2, list("cdefgh"))


def test_a_question_that_fails_costs_its_own_row_alone() -> None:
    def reply(question: str) -> str:
        if question == "b":
            raise BudgetExceededError("out of steps", limit="max_iters")
        if question == "c":
            raise KeyError("a defect")
        return question

    report = Batch(Fake(reply)).run(list("abcd"))
    assert [row["ok"] for row in report.rows] == [True, False, False, True]
    assert report.success_rate == 0.5
    assert report.failed[0]["error"] == {"type": "BudgetExceededError", "message": "out of steps"}
    assert report.failed[1]["error"]["type"] == "KeyError"


@pytest.mark.parametrize(("error", "asked"), [(LMAuthError("no key"), 1), (LMUnavailableError("no server"), 3)])
def test_what_would_fail_every_question_ends_the_batch(error: Exception, asked: int) -> None:
    def reply(question: str) -> str:
        raise error

    program = Fake(reply)
    report = Batch(program, concurrency=1).run(list("abcdefgh"))
    assert len(program.asked) == asked
    assert report.stopped_by == type(error).__name__
    assert report.failed[-1]["error"]["type"] == "NotAsked"


def test_a_batch_that_is_stopped_finishes_what_is_in_flight(tmp_path: Path) -> None:
    def reply(question: str) -> str:
        batch.stop.set()
        return question

    batch = Batch(Fake(reply), out=Answers(tmp_path / "a.jsonl"), concurrency=1)
    report = batch.run(list("abc"))
    assert [row["ok"] for row in report.rows] == [True, False, False]
    assert report.stopped_by == "stop"


# --- the file --------------------------------------------------------------------------------------------------------


def test_answers_are_taken_from_the_file_and_failures_asked_again(tmp_path: Path) -> None:
    def fails(question: str) -> str:
        if question == "b":
            raise BudgetExceededError("no", limit="max_iters")
        return question

    out = tmp_path / "a.jsonl"
    Batch(Fake(fails), out=Answers(out)).run(list("abc"))
    with pytest.raises(ConfigurationError, match="already holds answers"):
        Answers(out)
    again = Fake()
    report = Batch(again, out=Answers(out, resume=True)).run(list("abcd"))
    assert sorted(again.asked) == ["b", "d"]
    assert (report.reused, report.answered) == (2, 4)
    assert [row["answer"] for row in rows(out)] == ["a", "B", "c", "D"]


@pytest.mark.parametrize("change", ["corpus_digest", "digest"])
def test_answers_to_other_texts_or_by_other_programs_are_set_aside(tmp_path: Path, change: str) -> None:
    out = tmp_path / "a.jsonl"
    Batch(Fake(), out=Answers(out)).run(["a"])
    before = out.read_bytes()
    other = Fake()
    setattr(other, change, "other")
    answers = Answers(out, resume=True)
    report = Batch(other, out=answers).run(["a"])
    assert (other.asked, report.reused) == (["a"], 0)
    assert answers.backup is not None
    assert answers.backup.read_bytes() == before


@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_loses_at_most_the_row_that_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    out = tmp_path_factory.mktemp("batch") / "a.jsonl"
    Batch(Fake(), out=Answers(out)).run(["a", "bé", "c"])
    whole = out.read_bytes()
    out.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    again = Fake()
    report = Batch(again, out=Answers(out, resume=True)).run(["a", "bé", "c"])
    assert (report.reused, report.answered) == (kept, 3)
    assert [{**row, "question": 0} for row in rows(out)] == [{**row, "question": 0} for row in report.rows]


def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(ConfigurationError, match=r"notes\.txt:1"):
        Answers(other, resume=True)
    assert other.read_text() == "my notes\n"
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Answers(tmp_path / "missing" / "a.jsonl")


def test_a_line_without_an_end_is_not_cut_off_unless_it_is_a_row(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my only line")
    with pytest.raises(ConfigurationError, match=r"notes\.txt:1"):
        Answers(other, resume=True)
    assert other.read_text() == "my only line"


def test_each_resumption_sets_aside_what_it_replaces(tmp_path: Path) -> None:
    out, kept = tmp_path / "a.jsonl", []
    for digest in "pqr":
        other = Fake()
        other.digest = digest
        answers = Answers(out, resume=True)
        Batch(other, out=answers).run(["a"])
        kept.append(out.read_bytes())
    assert (tmp_path / "a.jsonl.bak").read_bytes() == kept[0]
    assert (tmp_path / "a.jsonl.bak2").read_bytes() == kept[1]
    assert answers.backup == tmp_path / "a.jsonl.bak2"


def test_a_link_to_answers_stays_one_and_everything_happens_beside_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    out = tmp_path / "links" / "a.jsonl"
    out.symlink_to(tmp_path / "real" / "a.jsonl")
    answers = Answers(out)
    assert answers.path.parent == tmp_path / "real"  # the link may lie on another device
    Batch(Fake(), out=answers).run(["a"])
    assert out.is_symlink()
    assert rows(out)[0]["answer"] == "A"


def test_answers_go_to_regular_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path(os.devnull), tmp_path):
        with pytest.raises(ConfigurationError, match="is not a regular file"):
            Answers(place)


def test_two_batches_do_not_write_one_file(tmp_path: Path) -> None:
    first = Answers(tmp_path / "a.jsonl")
    with pytest.raises(ConfigurationError, match="another batch"):
        Answers(tmp_path / "a.jsonl")
    first.close()
    Answers(tmp_path / "a.jsonl").close()


# --- money -----------------------------------------------------------------------------------------------------------


@given(
    total=st.floats(0.01, 10),
    costs=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    places=st.integers(1, 8),
    data=st.data(),
)
def test_shares_and_spending_never_exceed_the_total(
    total: float, costs: list[float], places: int, data: st.DataObject
) -> None:
    cost_share, flying = CostShare(total), []
    for cost in costs:
        while len(flying) < places and (share := cost_share.take(places - len(flying))):
            flying.append(share)
        assert sum(flying) + cost_share.spent <= total + 1e-9
        if not flying:
            assert cost_share.spent > 0
            return
        share = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        cost_share.give_back(share, min(cost, share))


def test_max_cost_holds_over_all_questions() -> None:
    program = Fake(cost=0.3)
    report = Batch(program, concurrency=2, max_cost=1.0).run(list("abcdefgh"))
    assert report.stopped_by == "max_cost"
    assert report.cost is not None
    assert report.cost <= 1.0
    assert 1 <= report.answered <= 3
    assert all(share and share <= 1.0 for share in program.shares)


def test_a_price_that_is_unknown_is_told_and_never_zero(caplog: pytest.LogCaptureFixture) -> None:
    report = Batch(Fake(cost=None), max_cost=1.0).run(list("abc"))
    assert (report.answered, report.cost) == (3, None)
    assert caplog.text.count("unknown") == 1


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"max_cost": 0.0}, {"max_cost": float("nan")}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Batch(Fake(), **wrong)


# --- programs --------------------------------------------------------------------------------------------------------


def program(*replies: Any, **facts: Any) -> Program:
    lm, _ = scripted(*replies)
    return Program(SIGNATURE, Corpus.from_texts({"gates.txt": TEXT}), lm, **facts)


def test_every_question_is_a_run_with_its_share_of_the_money() -> None:
    def reply(message: str) -> str:
        return action("SUBMIT(answer=question, evidence=[])")

    made = program(reply, mode="rlm")
    report = Batch(made, concurrency=3, max_cost=0.5).run(QUESTIONS)
    assert [row["answer"] for row in report.rows] == QUESTIONS
    assert {row["mode"] for row in report.rows} == {"rlm"}
    assert report.cost == pytest.approx(0.003)


def test_a_question_that_spends_its_share_ends_there() -> None:
    def reply(message: str) -> str:
        return fields(answer="best", evidence="[]") if "[[ ## trajectory" in message else action("print(1)")

    report = Batch(program(reply, mode="rlm"), concurrency=1, max_cost=0.0045).run(["q"])
    assert report.rows[0]["stopped_by"] == "max_cost"
    assert report.cost == pytest.approx(0.004, abs=0.0015)


@pytest.mark.parametrize(("total", "answered"), [(0.002, 0), (0.0075, 5), (1.0, 6)])
def test_direct_questions_are_begun_only_while_there_is_money_for_their_prompt(total: float, answered: int) -> None:
    lm, script = scripted(fields(answer="x", evidence="[]"), model="openai/gpt-4o-mini")
    made = Program(SIGNATURE, Corpus.from_texts({"a": "x" * 80_000}), lm, mode="direct")  # a prompt of $0.003
    report = Batch(made, concurrency=4, max_cost=total).run([f"q{number}" for number in range(6)])
    assert (report.answered, len(script.requests)) == (answered, answered)
    assert {row["error"]["type"] for row in report.failed} <= {"NotAsked"}
    assert report.stopped_by == (None if answered == 6 else "max_cost")


def test_the_callers_dspy_context_holds_for_its_threads() -> None:
    lm, _ = scripted(fields(answer="yes", evidence="[]"))
    corpus = Corpus.from_texts({"gates.txt": TEXT})
    with dspy.context(lm=lm), ThreadPoolExecutor(2) as pool:
        report = Batch(Program(SIGNATURE, corpus), executor=pool).run(["q"])
    assert report.rows[0]["answer"] == "yes"


def test_the_digest_tells_programs_apart() -> None:
    assert program("x").digest == program("x").digest
    compiled = rlm_dspy.RLM(SIGNATURE)
    compiled.generate_action.signature = compiled.generate_action.signature.with_instructions("Look twice.")
    changes: list[dict[str, Any]] = [
        {}, {"budget": rlm_dspy.Budget(max_iters=3)}, {"mode": "rlm"}, {"state": compiled.dump_state()}
    ]  # fmt: skip
    assert len({program("x", **change).digest for change in changes}) == 4


def test_a_compiled_program_answers_by_what_it_learnt() -> None:
    compiled = rlm_dspy.RLM(SIGNATURE)
    compiled.generate_action.signature = compiled.generate_action.signature.with_instructions("Look twice.")
    lm, script = scripted(action("SUBMIT(answer='a', evidence=[])"))
    made = Program(SIGNATURE, Corpus.from_texts({"a": TEXT}), lm, mode="rlm", state=compiled.dump_state())
    assert Batch(made).run(["q"]).answered == 1
    assert "Look twice." in texts(script.requests[0])[0]


def test_a_program_without_a_question_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="context and question"):
        Program("text -> answer", Corpus.from_texts({"a": "b"}))
    with pytest.raises(ConfigurationError, match="state"):
        program("x", state={})


# --- executors -------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "gates.txt").write_text(TEXT)
    return Job(SIGNATURE, paths=(str(tmp_path / "texts"),), model="offline")


def check(report: Any) -> None:
    assert [row["ok"] for row in report.rows] == [True] * 3, report.rows
    for row, hour in zip(report.rows, (6, 7, 8), strict=True):
        assert str(hour) in row["answer"]
        assert row["evidence"][0]["verified"]


def test_a_job_runs_on_threads(job: Job) -> None:
    with ThreadPoolExecutor(2) as pool:
        check(Batch(job, executor=pool).run(QUESTIONS))


def test_a_job_runs_on_processes_that_rebuild_it(job: Job) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        check(Batch(job, executor=pool).run(QUESTIONS))


class Mortal(Fake):
    """Ends its process at one question."""

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        if question == "die":
            os._exit(1)
        return super().answer(question, max_cost)


def test_a_worker_that_dies_ends_the_batch_and_loses_nothing_before_it(tmp_path: Path) -> None:
    out, asked = tmp_path / "a.jsonl", ["a", "die", "b", "c"]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        report = Batch(Mortal(), out=Answers(out), executor=pool, concurrency=1).run(asked)
    assert report.stopped_by == "BrokenProcessPool"
    assert [row["ok"] for row in rows(out)] == [True, False, False, False]
    assert [row["error"]["type"] for row in report.failed] == ["BrokenProcessPool", "NotAsked", "NotAsked"]
    assert Batch(Fake(), out=Answers(out, resume=True)).run(asked).reused == 1


def test_a_job_is_small_and_made_once_in_a_process(job: Job) -> None:
    assert len(pickle.dumps(job)) < 2_000
    copies = [pickle.loads(pickle.dumps(job.pinned())) for _ in range(2)]
    assert copies[0].program() is copies[1].program()


def test_the_process_of_a_batch_reads_its_job_once(job: Job) -> None:
    pinned = job.pinned()
    assert pinned.program() is pinned.program()


def test_a_worker_whose_files_differ_answers_nothing(job: Job, tmp_path: Path) -> None:
    pinned = job.pinned()
    other = tmp_path / "texts" / "other.txt"
    other.write_text("something else")
    moved = Job(SIGNATURE, paths=(*pinned.paths, str(other)), model="offline", expects=pinned.expects)
    with pytest.raises(CorpusError, match="differ from those the batch started with"):
        moved.program()
    assert answer_question(moved, "q", None)["error"]["type"] == "CorpusError"


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="pip install distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore")  # Dask's and tornado's own
def test_a_job_runs_on_a_dask_cluster(job: Job, cluster: Any, tmp_path: Path) -> None:
    report = Batch(job, out=Answers(tmp_path / "a.jsonl"), executor=cluster.get_executor()).run(QUESTIONS)
    check(report)


def test_a_question_that_is_tried_twice_stays_within_its_share_and_counts_both() -> None:
    def reply(message: str) -> str:
        return fields(answer="not found in the text", evidence="[]") if "passage" in message else action("print(1)")

    lm, script = scripted(reply, model="ollama_chat/qwen3:1.7b")
    corpus = Corpus.from_texts({"a.txt": TEXT * 2_000})
    made = Program(SIGNATURE, corpus, lm=lm, budget=rlm_dspy.Budget(max_iters=2))
    with pytest.raises(rlm_dspy.RLMError) as caught:
        made.answer("Who opens the gate?")
    assert caught.value.run.usage.calls == len(script.requests)


# --- what an answer depends on, and what a file cannot take ----------------------------------------------------------


def invoice_signature(**more: Any) -> type[dspy.Signature]:
    """A signature whose class of outputs has other fields each time, under the same name."""
    invoice = pydantic.create_model("Invoice", number=(str, ...), **more)
    kinds = {"context": (Any, dspy.InputField()), "question": (str, dspy.InputField())}
    return dspy.Signature({**kinds, "answer": (list[invoice], dspy.OutputField())}, "Answer.")  # type: ignore[valid-type]


def test_an_answer_depends_on_what_is_inside_the_types_of_the_signature() -> None:
    corpus, lm = Corpus.from_texts({"a.md": TEXT}), rlm_dspy.lm("offline")
    digests = [
        Program(signature, corpus, lm).digest
        for signature in (invoice_signature(), invoice_signature(), invoice_signature(euros=(float, ...)))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_job_reads_its_files_for_each_batch_and_makes_its_own_types(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The port is 8080.\n")
    job = Job("context, question -> answer", (str(tmp_path),), "offline", mode="direct")
    assert "8080" in Batch(job).run(["What is the port?"]).rows[0]["answer"]
    (tmp_path / "a.md").write_text("The port is 9999.\n")
    assert "9999" in Batch(job).run(["What is the port?"]).rows[0]["answer"]
    made = [Job(invoice_signature(**more), job.paths, "offline").pinned().program() for more in ({}, {"n": (int, 1)})]
    kinds = [one.signature.output_fields["answer"].annotation.__args__[0] for one in made]
    assert [list(kind.model_fields) for kind in kinds] == [["number"], ["number", "n"]]


def test_a_question_that_stands_twice_is_paid_for_once(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    for more in ({}, {"resume": True}):
        fake = Fake(cost=0.5)
        report = Batch(fake, out=Answers(out, **more)).run(["one", "two", "one"])
        assert [row.get("duplicate", False) for row in report.rows] == [False, False, True]
        assert sum(row["usage"]["cost"] for row in rows(out)) == 1.0
    assert fake.asked == []


def test_a_reply_that_could_not_be_read_is_not_replayed_from_the_cache(tmp_path: Path) -> None:
    lm, script = scripted("I cannot help.", "Nor can I.", fields(answer="6 hours"), cache=True)
    program = Program("context, question -> answer", Corpus.from_texts({"a.md": TEXT}), lm, mode="direct")
    failed = Batch(program, out=Answers(tmp_path / "a.jsonl")).run(QUESTIONS[:1])
    assert failed.rows[0]["error"]["type"] == "ActionError"
    script.replies = (fields(answer="6 hours"),)
    again = Batch(program, out=Answers(tmp_path / "a.jsonl", resume=True)).run(QUESTIONS[:1])
    assert again.rows[0]["answer"] == "6 hours"


def test_a_file_that_cannot_be_put_in_order_keeps_its_answers_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:  # as a mount point does
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(safe_files, "replace_file", refuse)
    out = tmp_path / "a.jsonl"
    report = Batch(Fake(), out=Answers(out)).run(["one", "two"])
    assert [row["answer"] for row in report.rows] == ["ONE", "TWO"]
    assert "could not be put in order: Device or resource busy" in str(report.disk_error)
    assert report.unsaved == ()
    assert sorted(row["answer"] for row in rows(out)) == ["ONE", "TWO"]
