"""The example service, under uvicorn: many users, limits, clients that leave, health and metrics."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx

from servers.openai import OpenAIServer
from servers.wire import Fault, free_port
from warm import warm_python

EXAMPLES = Path(__file__).parents[1] / "examples"
SUBMIT = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\nSUBMIT(answer='4711', evidence=[])\n"
Start = Callable[..., str]
KEY = "gsk_right_key_000000"
MODEL = "openai/openai/gpt-oss-20b"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the service over a folder, and return its address."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("the code is 4711\n")
    started: list[subprocess.Popen[bytes]] = []

    def run(**environ: str) -> str:
        port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        kept |= {"RLM_DSPY_CORPUS": str(tmp_path / "docs"), "RLM_DSPY_MODEL": "offline", "HOME": str(tmp_path)}
        kept |= {"DSPY_CACHEDIR": str(tmp_path / "cache"), "RLM_DSPY_HOME": str(tmp_path / "home"), **environ}
        command = [*warm_python(), "-m", "uvicorn", "--app-dir", str(EXAMPLES), "service:app", "--port", str(port)]
        started.append(subprocess.Popen([*command, "--log-level", "warning"], env=kept))
        url = f"http://127.0.0.1:{port}"
        for _ in range(400):
            try:
                httpx.get(f"{url}/health", timeout=5)
                return url
            except httpx.TransportError:
                assert started[-1].poll() is None
                time.sleep(0.05)
        raise AssertionError("the service did not start")

    yield run
    for process in started:
        process.terminate()
        process.wait(timeout=30)


def model_at(server: OpenAIServer) -> dict[str, str]:
    return {"OPENAI_API_BASE": f"{server.url}/v1", "OPENAI_API_KEY": KEY, "RLM_DSPY_MODEL": MODEL}


def events_of(url: str, **question: Any) -> list[tuple[str, dict[str, Any]]]:
    with httpx.stream("POST", f"{url}/ask", json=question, timeout=60) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        blocks = reply.read().decode().strip().split("\n\n")
    pairs = [block.split("\n", 1) for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


def test_a_question_is_answered_as_a_stream_of_events(start: Start) -> None:
    url = start()
    events = events_of(url, question="What is the code?")
    assert [name for name, _ in events][-2:] == ["final", "answer"]
    assert {"step", "code", "output"} <= {name for name, _ in events}
    answer = events[-1][1]
    assert "4711" in answer["answer"]
    assert answer["evidence"][0]["source"] == "a.md"
    assert httpx.get(f"{url}/health", timeout=10).json() | {"model": ""} == {
        "status": "ok", "model": "", "files": 1, "running": 0,
    }  # fmt: skip
    assert metric(url, 'rlm_questions{state="submitted"}') == 1
    assert metric(url, "rlm_tokens_total") > 0


def test_many_at_once_are_all_answered(start: Start) -> None:
    with OpenAIServer(reply=SUBMIT) as server:
        url = start(SERVICE_MAX_AT_ONCE="4", **model_at(server))
        with ThreadPoolExecutor(20) as pool:
            done = list(pool.map(lambda number: events_of(url, question=f"What is the code ({number})?"), range(20)))
        assert [events[-1][1]["answer"] for events in done] == ["4711"] * 20
        assert metric(url, 'rlm_questions{state="submitted"}') == 20
        assert metric(url, 'rlm_questions{state="waiting"}') == 0


def test_a_client_that_leaves_ends_its_run_which_counts(start: Start) -> None:
    step = "[[ ## reasoning ## ]]\nlook\n\n[[ ## code ## ]]\nprint(1)\n"
    with OpenAIServer(Fault(), Fault(delay=60), reply=step) as server:
        url = start(**model_at(server))
        with httpx.stream("POST", f"{url}/ask", json={"question": "What is the code?"}, timeout=60) as reply:
            lines = reply.iter_lines()
            while "event: output" not in next(lines):
                pass
            assert metric(url, 'rlm_questions{state="running"}') == 1
        deadline = time.monotonic() + 20
        while metric(url, 'rlm_questions{state="running"}') and time.monotonic() < deadline:
            time.sleep(0.1)
        assert metric(url, 'rlm_questions{state="running"}') == 0
        assert metric(url, 'rlm_questions{state="left"}') == 1
        assert metric(url, "rlm_tokens_total") > 0


def test_each_question_has_limits_of_its_own(start: Start) -> None:
    with OpenAIServer(*[Fault(delay=60)] * 3, reply=SUBMIT) as server:
        url = start(**model_at(server))
        events = events_of(url, question="What is the code?", max_seconds=1)
    name, told = events[-1]
    assert (name, told["type"]) == ("error", "BudgetExceededError")
    assert "max_seconds" in told["error"]
    assert metric(url, 'rlm_questions{state="failed"}') == 1


def test_what_is_not_a_question_is_refused(start: Start) -> None:
    url = start()
    for body in ({}, {"question": ""}, {"question": "x", "max_seconds": 1e9}, {"question": "x" * 10_001}):
        assert httpx.post(f"{url}/ask", json=body, timeout=20).status_code == 422


def test_a_token_is_required_if_it_is_set(start: Start) -> None:
    url = start(SERVICE_TOKEN="a-long-token-000")
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer a-long-token-000"}, 200),
    ):
        reply = httpx.post(f"{url}/ask", json={"question": "What is the code?"}, headers=headers, timeout=60)
        assert reply.status_code == status


def test_beyond_the_queue_questions_are_refused(start: Start) -> None:
    assert httpx.post(f"{start(SERVICE_MAX_WAITING='0')}/ask", json={"question": "x"}, timeout=20).status_code == 503


def test_clients_that_give_up_waiting_leave_their_place(start: Start) -> None:
    with OpenAIServer(*[Fault(delay=60)] * 3, reply=SUBMIT) as server:
        url = start(SERVICE_MAX_AT_ONCE="1", SERVICE_MAX_WAITING="2", **model_at(server))
        question = {"question": "What is the code?"}
        with httpx.stream("POST", f"{url}/ask", json=question, timeout=60) as running:
            next(running.iter_lines())
            for _ in range(2):
                with pytest.raises(httpx.TimeoutException):
                    httpx.post(f"{url}/ask", json=question, timeout=0.5)
            deadline = time.monotonic() + 20
            while metric(url, 'rlm_questions{state="waiting"}') and time.monotonic() < deadline:
                time.sleep(0.1)
            assert metric(url, 'rlm_questions{state="waiting"}') == 0
            with pytest.raises(httpx.TimeoutException):  # and not 503
                httpx.post(f"{url}/ask", json=question, timeout=0.5)
