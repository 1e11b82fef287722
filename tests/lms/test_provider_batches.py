"""Provider batches against fakes of both services: late, out of order, partial, expired, broken, hostile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest

from rlm_dspy import lms
from rlm_dspy.dspy_errors import translated_errors
from rlm_dspy.errors import BatchStoppedError, ConfigurationError, LMError, RLMError
from rlm_dspy.lms.provider_batches import WaveJournal, WavePace, Waves, batched_lm, waves
from rlm_dspy.metering import Meter, token_cost
from servers.batches import BatchServer, TogetherServer
from servers.local import LocalServer
from servers.wire import Fault, Server, send

OPENAI, ANTHROPIC = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
BOTH = pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
QUICK = WavePace(first_poll=0.02, longest_poll=0.05, quiet=0.05)


def words(body: Any) -> str:
    """The text of the last message, in either form."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def echo(body: Any) -> str:
    return f"re: {words(body)}"


@contextmanager
def batching(server: BatchServer, model: str = OPENAI, journal: Path | None = None, **options: Any) -> Iterator[Any]:
    """An LM whose calls go to the fake in batches, and its waves."""
    collected = Waves(WaveJournal(journal), **{"pace": QUICK, **options})
    lm = lms.lm(model, api_base=f"{server.url}/v1", api_key="right-key", cache=False, num_retries=0)
    try:
        yield batched_lm(lm, collected), collected
    finally:
        collected.close()


def ask_all(lm: Any, collected: Waves, questions: list[str]) -> list[Any]:
    """Ask all at once; return texts, and errors where there are any."""
    ready = threading.Barrier(len(questions))

    def one(question: str) -> Any:
        with collected.asking(question):
            ready.wait(60)
            try:
                with translated_errors():
                    return lm(question)[0]
            except RLMError as error:
                return error

    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(one, questions))


@BOTH
def test_questions_asked_together_are_one_batch_and_each_gets_its_own_reply(model: str) -> None:
    questions = [f"question {number}" for number in range(20)]
    with BatchServer(reply=echo, polls=3) as server, batching(server, model) as (lm, collected):
        assert ask_all(lm, collected, questions) == [f"re: {question}" for question in questions]
        assert len(server.batches) == 1  # its results came in the reverse order
        assert len(server.paid) == 20
        assert collected.counts == {"waves": 1, "requests": 20}


@BOTH
def test_a_reply_costs_half(model: str) -> None:
    with BatchServer() as server, batching(server, model) as (lm, collected):
        ask_all(lm, collected, ["x" * 4_000])
        used, data = lm.history[-1]["usage"], lm.history[-1]["response"].provider_data
    full = token_cost(model, used["prompt_tokens"], used["completion_tokens"])
    assert full
    assert data["cost"] == pytest.approx(full / 2)


def test_the_discounts_of_a_batch_and_of_the_cache_do_not_add_up() -> None:
    assert token_cost("groq/openai/gpt-oss-20b", 1_000, 0, 1_000, in_batch=True) == pytest.approx(1_000 * 3.75e-8)
    assert token_cost("hosted_vllm/any", 1_000, 10, in_batch=True) == 0.0


def test_runs_move_in_lock_step() -> None:
    ready = threading.Barrier(8)

    def two_steps(lm: Any, collected: Waves, number: int) -> str:
        with collected.asking(f"run {number}"):
            ready.wait(60)
            first = lm(f"run {number} step 1")[0]
            return str(lm(f"{first} step 2")[0])

    with BatchServer(reply=echo) as server, batching(server) as (lm, collected):
        with ThreadPoolExecutor(8) as pool:
            ends = list(pool.map(lambda number: two_steps(lm, collected, number), range(8)))
        assert ends[7] == "re: re: run 7 step 1 step 2"
        assert [len(batch.rows) for batch in server.batches.values()] == [8, 8]


def test_a_question_that_is_busy_for_long_does_not_hold_up_the_others() -> None:
    pace = WavePace(first_poll=0.02, quiet=0.02, linger=0.2)
    with (
        BatchServer(reply=echo) as server,
        batching(server, pace=pace) as (lm, collected),
        collected.asking("busy, without a call"),
    ):
        assert ask_all(lm, collected, ["a"]) == ["re: a"]


def test_a_failed_request_is_an_error_of_its_own_kind_and_the_others_are_answered() -> None:
    def outcome(body: Any, before: int) -> str:
        return {"bad": "400", "denied": "401", "none": "missing", "torn": "garbage"}.get(words(body), "ok")

    with BatchServer(reply=echo, outcome=outcome) as server, batching(server) as (lm, collected):
        bad, good, denied, none, torn = ask_all(lm, collected, ["bad", "good", "denied", "none", "torn"])
        assert good == "re: good"
        assert isinstance(bad, dspy.LMInvalidRequestError)
        assert "HTTP 400 in a batch: refused with 400" in str(bad)
        assert isinstance(denied, dspy.LMAuthError)
        assert isinstance(none, dspy.LMServerError)
        assert isinstance(torn, dspy.LMServerError)
        assert len(server.batches) == 1
        assert collected.counts["failed"] == 4


@BOTH
def test_expired_requests_are_asked_again(model: str, caplog: pytest.LogCaptureFixture) -> None:
    def outcome(body: Any, before: int) -> str:
        return "expired" if words(body) == "slow" and before == 0 else "ok"

    with BatchServer(reply=echo, outcome=outcome) as server, batching(server, model) as (lm, collected):
        assert ask_all(lm, collected, ["slow", "quick"]) == ["re: slow", "re: quick"]
        assert [len(batch.rows) for batch in server.batches.values()] == [2, 1]
        assert len(server.paid) == 2
        assert "batch batch_0 did not answer 1 of 2 requests; they are asked again" in caplog.text


def test_a_request_that_always_expires_fails_in_the_end() -> None:
    with BatchServer(outcome=lambda body, before: "expired") as server, batching(server) as (lm, collected):
        (error,) = ask_all(lm, collected, ["never"])
        assert isinstance(error, dspy.LMServerError)
        assert len(server.batches) == 3


def test_a_passing_failure_of_a_request_is_asked_again() -> None:
    outcome = lambda body, before: "503" if before == 0 else "ok"  # noqa: E731
    with BatchServer(reply=echo, outcome=outcome) as server, batching(server) as (lm, collected):
        assert ask_all(lm, collected, ["a"]) == ["re: a"]
        assert len(server.batches) == 2


@BOTH
def test_unknown_and_repeated_results_change_nothing(model: str, caplog: pytest.LogCaptureFixture) -> None:
    outcome = lambda body, before: {"a": "twice", "b": "stranger"}.get(words(body), "ok")  # noqa: E731
    with BatchServer(reply=echo, outcome=outcome) as server, batching(server, model) as (lm, collected):
        assert ask_all(lm, collected, ["a", "b", "c"]) == ["re: a", "re: b", "re: c"]
        collected.close()
        assert "2 results that nobody asked for" in caplog.text


@BOTH
def test_polls_that_fail_are_repeated(model: str, caplog: pytest.LogCaptureFixture) -> None:
    with BatchServer(reply=echo, broken_polls=4) as server, batching(server, model) as (lm, collected):
        assert ask_all(lm, collected, ["a"]) == ["re: a"]
        assert caplog.text.count("asked about again") == 4


@BOTH
def test_a_batch_that_was_created_without_our_learning_it_is_found_and_not_paid_twice(model: str) -> None:
    with BatchServer(reply=echo, lost_creates=1) as server, batching(server, model) as (lm, collected):
        assert ask_all(lm, collected, ["a", "b"]) == ["re: a", "re: b"]
        assert len(server.batches) == 1
        assert len(server.paid) == 2


@BOTH
def test_a_create_that_fails_before_it_does_anything_is_repeated(model: str) -> None:
    path = "/v1/messages/batches" if model == ANTHROPIC else "/v1/batches"
    fault = Fault(503, {"error": {"message": "busy"}}, path=path)
    upload = Fault(path="/v1/files")  # one that goes well
    faults = [fault] if model == ANTHROPIC else [upload, fault]
    with BatchServer(*faults, reply=echo) as server, batching(server, model) as (lm, collected):
        assert ask_all(lm, collected, ["a"]) == ["re: a"]
        assert len(server.paid) == 1


def test_togethers_variant_is_spoken_and_its_batch_found_by_its_file() -> None:
    outcome = lambda body, before: "expired" if words(body) == "slow" and before == 0 else "ok"  # noqa: E731
    made = TogetherServer(reply=echo, outcome=outcome, lost_creates=1)
    with made as server, batching(server, "together_ai/openai/gpt-oss-20b") as (lm, collected):
        assert ask_all(lm, collected, ["slow", "quick"]) == ["re: slow", "re: quick"]
        assert [len(batch.rows) for batch in server.batches.values()] == [2, 1]
        assert server.paid[0]["model"] == "openai/gpt-oss-20b"


def test_a_batch_that_somebody_else_cancels_is_not_sent_again() -> None:
    with BatchServer(polls=-1) as server, batching(server) as (lm, collected):
        leave_soon(collected, lambda _: server._end(server.batches["batch_0"], "cancelled"))
        (error,) = ask_all(lm, collected, ["a"])
        assert isinstance(error, dspy.LMServerError)
        assert "batch batch_0 is cancelled" in str(error)
        assert len(server.batches) == 1


def test_a_batch_that_fails_as_a_whole_fails_its_requests() -> None:
    with BatchServer(failing="line 1 is not valid") as server, batching(server) as (lm, collected):
        errors = ask_all(lm, collected, ["a", "b"])
        assert all(isinstance(error, dspy.LMInvalidRequestError) for error in errors)
        assert "line 1 is not valid" in str(errors[0])


def test_a_batch_above_the_queues_limit_is_told_how_to_be_smaller() -> None:
    limit = "Enqueued token limit reached for gpt-4o-mini. Limit: 90,000 enqueued tokens."
    with BatchServer(failing=limit) as server, batching(server) as (lm, collected):
        (error,) = ask_all(lm, collected, ["a"])
    assert isinstance(error, dspy.LMRateLimitError)
    assert "Send smaller batches, with a lower --concurrency" in str(error)


def test_a_wrong_key_is_the_users_to_fix() -> None:
    with BatchServer() as server:
        collected = Waves(pace=QUICK)
        lm = batched_lm(lms.lm(OPENAI, api_base=f"{server.url}/v1", api_key="wrong-key", cache=False), collected)
        (error,) = ask_all(lm, collected, ["a"])
        collected.close()
    assert isinstance(error, dspy.LMAuthError)
    assert "wrong-key" not in str(error)


def test_a_server_without_batches_says_so() -> None:
    with LocalServer({}, models=("gpt-4o-mini",)) as server:
        server.answer = lambda handler, path, body: _refuse(handler)
        collected = Waves(pace=QUICK)
        lm = batched_lm(lms.lm("hosted_vllm/any", api_base=f"{server.url}/v1", cache=False), collected)
        (error,) = ask_all(lm, collected, ["a"])
        collected.close()
    assert isinstance(error, dspy.LMUnsupportedModelError)
    assert "serves no batches at this address (HTTP 404)" in str(error)


def _refuse(handler: Any) -> None:
    send(handler, 404, {"error": {"message": "File Not Found"}})


@pytest.mark.parametrize("model", ["ollama_chat/qwen3:8b", "mistral/small", "offline"])
def test_a_provider_without_batches_is_refused_at_once(model: str) -> None:
    collected = Waves()
    with pytest.raises(ConfigurationError, match="batches"):
        batched_lm(lms.lm(model), collected)
    collected.close()


def test_a_redirect_is_not_followed() -> None:
    with BatchServer() as other, BatchServer() as server, batching(server) as (lm, collected):
        server.faults.append(Fault(307, {}, {"Location": f"{other.url}/v1/files"}))
        (error,) = ask_all(lm, collected, ["a"])
        assert "redirects are not followed" in str(error)
        assert other.seen == []


def test_results_at_another_server_are_not_fetched() -> None:
    with BatchServer() as other, BatchServer() as server, batching(server, ANTHROPIC) as (lm, collected):
        shown = server._shown
        server._shown = lambda batch, kind: {**shown(batch, kind), "results_url": f"{other.url}/v1/results"}
        (error,) = ask_all(lm, collected, ["a"])
        assert "at another server" in str(error)
        assert other.seen == []


def test_a_result_that_is_too_long_is_dropped_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlm_dspy.lms.provider_batches import connection

    monkeypatch.setattr(connection, "MAX_LINE_BYTES", 100_000)
    reply = lambda body: "x" * 500_000 if words(body) == "long" else echo(body)  # noqa: E731
    with BatchServer(reply=reply) as server, batching(server) as (lm, collected):
        long, short = ask_all(lm, collected, ["long", "short"])
        assert short == "re: short"
        assert isinstance(long, dspy.LMServerError)


def test_results_without_an_end_are_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlm_dspy.lms.provider_batches import connection

    monkeypatch.setattr(connection, "MAX_REPLY_BYTES", 50_000)
    monkeypatch.setattr(connection, "BYTES_PER_CALL", 1_000)
    with BatchServer(reply=lambda body: "x" * 400_000) as server, batching(server) as (lm, collected):
        (error,) = ask_all(lm, collected, ["a"])
        assert isinstance(error, dspy.LMError)


def test_after_the_deadline_the_batch_is_cancelled_and_ordinary_calls_are_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with BatchServer(reply=echo, polls=-1) as server, batching(server, deadline=3.0) as (lm, collected):
        assert ask_all(lm, collected, ["a", "b"]) == ["re: a", "re: b"]
        assert [batch.status for batch in server.batches.values()] == ["cancelled"]
        assert (len(server.paid), len(server.ordinary)) == (0, 2)
        assert collected.counts["fallen_back"] == 2
        assert "batch_0 is cancelled; the remaining requests are made as ordinary calls" in caplog.text
        assert lm("later")[0] == "re: later"
        assert len(server.batches) == 1


class Nonsense(Server):
    """Answers everything with one JSON value, from the request of this number on."""

    def __init__(self, value: Any, after: int) -> None:
        super().__init__()
        self.value, self.after = value, after

    def answer(self, handler: Any, path: str, body: Any) -> None:
        kind = {"processing_status": "ended", "results_url": f"{self.url}/v1/results"}
        good = {"id": "x", "status": "completed", "output_file_id": "f", **kind}
        send(handler, 200, good if len(self.seen) <= self.after else self.value)


NONSENSE = (
    [], {}, 7, None, "text", [7], {"id": 7}, {"id": ""}, {"id": "x", "status": 7}, {"data": 7}, {"id": {"id": "x"}},
    {"custom_id": 7}, {"status": "failed", "errors": 7}, {"status": "failed", "errors": {"data": [7]}},
    {"processing_status": "ended", "results_url": 7}, {"processing_status": "ended", "results_url": "//[/"},
    {"status": "completed", "output_file_id": "../../secret"}, "[" * 100_000, {"id": "x" * 100_000},
)  # fmt: skip


@BOTH
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_server_that_answers_nonsense_is_an_error_and_no_hang(
    model: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waves, "_LONGEST_BATCH", 0.02)
    monkeypatch.setattr(waves, "_MOST_FAILURES", 1)
    monkeypatch.setattr(waves, "_TICK_SECONDS", 0.002)
    pace = WavePace(first_poll=0.005, quiet=0.005)
    for value in NONSENSE:
        with Nonsense(value, after) as server, batching(server, model, pace=pace) as (lm, collected):
            (error,) = ask_all(lm, collected, ["a"])
            assert isinstance(error, LMError), (value, error)
            assert isinstance(error, dspy.LMError)
            assert not isinstance(error, dspy.LMUnexpectedError), (value, error)


def test_a_reply_that_is_no_reply_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from servers import batches

    for value in ({}, {"choices": 7}, {"choices": [7]}, {"usage": "x"}):
        with monkeypatch.context() as patched:
            patched.setattr(batches, "_completion", lambda body, text, value=value: value)
            with BatchServer() as server, batching(server) as (lm, collected):
                (error,) = ask_all(lm, collected, ["a"])
        assert isinstance(error, LMError), (value, error)


@pytest.mark.parametrize("count", [-1, 10**30, 1.5, "many"])
def test_a_usage_that_cannot_be_is_estimated(count: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from servers import batches

    whole = batches._completion

    def completion(body: Any, text: str) -> Any:
        return {**whole(body, text), "usage": {"prompt_tokens": count, "completion_tokens": 1, "total_tokens": 2}}

    monkeypatch.setattr(batches, "_completion", completion)
    with BatchServer(reply=echo) as server, batching(server) as (lm, collected):
        lm.callbacks.append(meter := Meter())
        (end,) = ask_all(lm, collected, ["a" * 400])
    if isinstance(end, str):
        assert meter.usage.prompt_tokens < 200
    else:
        assert isinstance(end, LMError)


def test_a_batch_that_never_ends_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "_LONGEST_BATCH", 0.2)
    with BatchServer(polls=-1) as server, batching(server) as (lm, collected):
        (error,) = ask_all(lm, collected, ["a"])
    assert isinstance(error, dspy.LMServerError)
    assert "batch batch_0 does not end" in str(error)


def test_leaving_and_coming_back_pays_nothing_twice(tmp_path: Path) -> None:
    place = tmp_path / "a.waves"
    with BatchServer(reply=echo, polls=-1) as server:
        with batching(server, journal=place) as (lm, collected):
            leave_soon(collected)
            assert all(isinstance(end, BatchStoppedError) for end in ask_all(lm, collected, ["a", "b"]))
        assert [batch.status for batch in server.batches.values()] == ["in_progress"]
        server.polls = 1
        with batching(server, journal=place) as (lm, collected):
            assert ask_all(lm, collected, ["b", "a", "c"]) == ["re: b", "re: a", "re: c"]
        assert [len(batch.rows) for batch in server.batches.values()] == [2, 1]
        with batching(server, journal=place) as (lm, collected):
            assert ask_all(lm, collected, ["a", "b", "c"]) == ["re: a", "re: b", "re: c"]
        assert len(server.paid) == 3


def test_a_batch_that_is_not_cancelled_in_time_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waves, "_CANCELLING_SECONDS", 0.1)
    with BatchServer(reply=echo, polls=-1) as server, batching(server, deadline=3.0) as (lm, collected):
        server._end = lambda batch, status: None
        assert ask_all(lm, collected, ["a"]) == ["re: a"]
        assert len(server.ordinary) == 1
    assert "batch batch_0 is not cancelled yet; ordinary calls are made now" in caplog.text


def test_requests_that_are_too_many_for_one_batch_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "_MOST_CALLS", 3)
    questions = [f"q{number}" for number in range(7)]
    with BatchServer(reply=echo) as server, batching(server) as (lm, collected):
        assert ask_all(lm, collected, questions) == [f"re: {question}" for question in questions]
        assert sorted(len(batch.rows) for batch in server.batches.values()) == [1, 3, 3]


def test_two_models_are_two_batches() -> None:
    with BatchServer(reply=echo) as server, batching(server) as (lm, collected):
        plain = lms.lm("openai/gpt-4o", api_base=f"{server.url}/v1", api_key="right-key", cache=False)
        other = batched_lm(plain, collected)
        with ThreadPoolExecutor(2) as pool:
            ends = pool.map(lambda one: ask_all(one, collected, ["a", "b"]), [lm, other])
        assert list(ends) == [["re: a", "re: b"]] * 2
        assert all(len({body["model"] for _, body in batch.rows}) == 1 for batch in server.batches.values())
        assert len(server.paid) == 4


def test_nothing_is_sent_that_cannot_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(journal: Any, row: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WaveJournal, "append", full)
    with BatchServer() as server, batching(server, journal=tmp_path / "a.waves") as (lm, collected):
        (error,) = ask_all(lm, collected, ["a"])
        assert "No space left on device" in str(error)
        assert server.seen == []


def test_polls_that_always_fail_end_the_wait_and_leave_the_batch_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waves, "_MOST_FAILURES", 2)
    with BatchServer(reply=echo, broken_polls=3) as server:
        with batching(server, journal=tmp_path / "a.waves") as (lm, collected):
            (error,) = ask_all(lm, collected, ["a"])
            assert isinstance(error, dspy.LMServerError)
        with batching(server, journal=tmp_path / "a.waves") as (lm, collected):
            assert ask_all(lm, collected, ["a"]) == ["re: a"]
        assert len(server.batches) == 1


def leave_soon(collected: Waves, end: Callable[[Waves], None] = Waves.leave) -> None:
    """End the wait once a batch is open."""

    def run() -> None:
        while not collected.open_batches:
            threading.Event().wait(0.01)
        end(collected)

    threading.Thread(target=run, daemon=True).start()


def test_cancelling_cancels_at_the_provider() -> None:
    with BatchServer(polls=-1) as server, batching(server) as (lm, collected):
        leave_soon(collected, Waves.cancel)
        (end,) = ask_all(lm, collected, ["a"])
        assert isinstance(end, BatchStoppedError)
        assert [batch.status for batch in server.batches.values()] == ["cancelled"]


@BOTH
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_process_killed_after_any_line_of_the_journal_is_resumed_without_paying_twice(
    model: str, lines: int, tmp_path: Path
) -> None:
    """The first lines are: the wave, the uploaded file (OpenAI's), the batch's id, the replies."""
    place = tmp_path / "a.waves"
    with BatchServer(reply=echo, retry_after="0") as server:
        with batching(server, model, place) as (lm, collected):
            ask_all(lm, collected, ["a", "b"])
        kept = place.read_bytes().splitlines(keepends=True)[:lines]
        place.write_bytes(b"".join(kept) + b'{"wave": "w1", "ba')  # the line that was being written
        with batching(server, model, place) as (lm, collected):
            assert ask_all(lm, collected, ["a", "b"]) == ["re: a", "re: b"]
        assert len(server.batches) == 1
        assert len(server.paid) == 2


def test_a_batch_that_is_gone_at_the_provider_is_sent_again(tmp_path: Path) -> None:
    place = tmp_path / "a.waves"
    with BatchServer(reply=echo, polls=-1) as server:
        with batching(server, journal=place) as (lm, collected):
            leave_soon(collected)
            ask_all(lm, collected, ["a"])
        server.batches.clear()
        server.polls = 1
        with batching(server, journal=place) as (lm, collected):
            assert ask_all(lm, collected, ["a"]) == ["re: a"]


def test_the_journal_names_the_questions_before_the_first_poll(tmp_path: Path) -> None:
    place = tmp_path / "a.waves"
    rows: list[Any] = []

    def look(body: Any, before: int) -> str:
        rows.extend(json.loads(line) for line in place.read_text().splitlines())
        return "ok"

    with BatchServer(outcome=look) as server, batching(server, journal=place) as (lm, collected):
        ask_all(lm, collected, ["What?"])
        assert [call["question"] for call in rows[0]["calls"].values()] == ["What?"]
        assert rows[2]["batch"] in server.batches
        assert place.stat().st_mode & 0o777 == 0o600
        assert "right-key" not in place.read_text()


def test_one_journal_serves_one_process(tmp_path: Path) -> None:
    journal = WaveJournal(tmp_path / "a.waves")
    with pytest.raises(ConfigurationError, match="another batch is using"):
        WaveJournal(tmp_path / "a.waves")
    journal.close()


@pytest.mark.parametrize("text", ['{"question": "x"}\n', "[]\n", "no json\n", '{"wave": "w", "id": "x", "reply": 1}\n'])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    place = tmp_path / "a.waves"
    place.write_text(text)
    if text.startswith('{"wave"'):
        WaveJournal(place).close()  # the rest of a wave that was closed
    else:
        with pytest.raises(ConfigurationError, match="is not a row"):
            WaveJournal(place)
    assert place.read_text() == text


def test_polls_get_rarer_up_to_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waves, "_sleep", lambda self, seconds: None)
    polls: list[float] = []
    with BatchServer(reply=echo, polls=14, retry_after="") as server:
        pace = WavePace(quiet=0.05)
        see = lambda now: polls.append(now.next_poll)  # noqa: E731
        with batching(server, pace=pace, on_progress=see) as (lm, collected):
            assert ask_all(lm, collected, ["a"]) == ["re: a"]
    assert polls[:3] == [10, 15, 22.5]
    assert polls[9:] == [300, 300, 300, 300, 0]


@pytest.mark.parametrize(("told", "kept"), [("0", 0.1), ("7", 7), ("1e9", 300), ("-5", 0.02), ("soon", 0.02)])
def test_a_server_may_say_when_it_wants_to_be_asked_within_bounds(
    told: str, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Waves, "_sleep", lambda self, seconds: None)
    polls: list[float] = []
    with BatchServer(reply=echo, polls=2, retry_after=told) as server:
        pace = WavePace(first_poll=0.02, quiet=0.05)
        see = lambda now: polls.append(now.next_poll)  # noqa: E731
        with batching(server, pace=pace, on_progress=see) as (lm, collected):
            ask_all(lm, collected, ["a"])
    assert polls == [kept, 0]


def test_identical_requests_are_asked_as_often_as_they_are_made() -> None:
    with BatchServer(reply=echo) as server, batching(server) as (lm, collected):
        assert ask_all(lm, collected, ["same", "same"]) == ["re: same", "re: same"]
        assert len(server.paid) == 2
