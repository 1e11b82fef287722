"""A killed ``ask`` goes on from its record: what was paid for is not paid again, without DSPy's cache."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Result
from rlm_dspy.cli import model_choice
from rlm_dspy.report.run_log import RunLog
from rlm_dspy.testing import action, fields, scripted
from servers.openai import OpenAIServer
from warm import warm_python

KEY = "sk-test-key-0000"
PROGRAM = """
import sys
from rlm_dspy import lm
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.commands import main

own = lm("openai/x", cache=False, temperature=0.7)
model_choice.choose = lambda values: model_choice.ChosenModels(lm=own, sub_lm=None)
sys.exit(main(sys.argv[1:]))
"""
CELLS = (
    "n = 1\nprint(n)",
    "answers = llm_query_batched([f'part {i}' for i in range(12)])\nprint(answers)",
    "found = subcall('some long text ' * 50, 'Say hi.')\nprint(found)",
    "print(n + 1)",
    "SUBMIT(answer=f'end {n} {answers[3]}', evidence=[])",
)


class Counting(OpenAIServer):
    """Plays a run with sub-calls and a child, counts each prompt, and holds the reply to one of them back."""

    def __init__(self, holds: str = "") -> None:
        super().__init__(key=KEY, models=("x",), headers={})
        self.holds = holds
        self.answered: Counter[str] = Counter()
        self.held: list[str] = []
        self.temperatures: set[Any] = set()
        self.is_held = threading.Event()
        self.released = threading.Event()
        self._count = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        prompt = json.dumps(body["messages"])
        shown = str(body["messages"][-1]["content"])
        self.temperatures.add(body.get("temperature"))
        if self.holds and self.holds in shown:
            self.held.append(prompt)
            self.is_held.set()
            self.released.wait(60)
            return
        with self._count:
            self.answered[prompt] += 1
            self.turns = [(self._reply(shown, prompt), "stop")]
            super().answer(handler, path, body)

    def _reply(self, shown: str, prompt: str) -> str:
        if part := re.search(r"part (\d+)", shown):
            return f"answer {part.group(1)} {len(self.answered)}"  # never the same twice, as above temperature 0
        if "Say hi." in prompt and "range(12)" not in prompt:  # of the child
            return action("SUBMIT(output='hi')")
        step = int(shown.rsplit("[step ", 1)[1].split("/")[0])
        return action(CELLS[step - 1])


@pytest.fixture
def ask(home: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``ask`` with a model at temperature 0.7 and without DSPy's cache."""
    (home / "notes.md").write_text("One and one is two.\n")

    def start(server: Counting, *args: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_API_BASE": server.url}
        environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [*warm_python(), "-c", PROGRAM, "ask", *args]
        return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


def kill_when_held(process: subprocess.Popen[str], server: Counting, home: Path, answered: int) -> None:
    """Kill the process when it waits for the held reply alone, and has received all others."""
    assert server.is_held.wait(60), process.communicate()
    deadline = time.monotonic() + 60
    while sum(server.answered.values()) < answered or received_replies(home) < answered:
        assert time.monotonic() < deadline, (server.answered, received_replies(home))
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    server.holds = ""
    server.released.set()


def received_replies(home: Path) -> int:
    lines = log_of(home).read_text().splitlines()
    ends = [json.loads(line).get("ended") or {} for line in lines]
    return sum(end.get("kind") == "lm" and not end.get("usage", {}).get("replayed_calls") for end in ends)


def log_of(home: Path) -> Path:
    (path,) = home.parent.rglob("runs/*.jsonl")
    return path


@pytest.mark.slow
def test_a_killed_ask_goes_on_and_no_call_is_paid_twice(ask: Callable[..., subprocess.Popen[str]], home: Path) -> None:
    with Counting("Say hi.") as server:
        kill_when_held(ask(server, "what?", ".", "--mode", "rlm"), server, home, 15)
        killed = log_of(home)
        before = sum(server.answered.values())
        again = ask(server, "--resume", killed.stem[:6], "--json")
        out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    told = json.loads(out)
    assert told["answer"].startswith("end 1 answer 3")
    assert [prompt for prompt, count in server.answered.items() if count > 1] == []
    assert set(server.held) <= set(server.answered)  # what was in flight is asked again
    assert server.temperatures == {0.7}
    assert told["run_id"] == killed.stem
    assert told["usage"]["calls"] == sum(server.answered.values())
    assert told["usage"]["replayed_calls"] == before
    assert "differs" not in err
    assert f"{before} finished calls" in err
    assert not killed.exists()  # it is a finished run now
    (saved,) = home.parent.rglob("runs/*.json")
    assert json.loads(saved.read_text())["usage"]["replayed_calls"] == before


@pytest.mark.slow
@pytest.mark.skipif("RLM_DSPY_MINUTES" not in os.environ, reason="takes half a minute: set RLM_DSPY_MINUTES=1")
def test_a_resumed_run_that_is_killed_again_goes_on(ask: Callable[..., subprocess.Popen[str]], home: Path) -> None:
    with Counting("part 7") as server:
        kill_when_held(ask(server, "what?", ".", "--mode", "rlm"), server, home, 13)
        name = log_of(home).stem
        server.is_held.clear()
        server.released.clear()
        server.holds = "[step 4/"
        kill_when_held(ask(server, "--resume", name), server, home, 16)
        again = ask(server, "--resume", name, "--json")
        out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert max(server.answered.values()) == 1
    assert json.loads(out)["usage"]["calls"] == sum(server.answered.values())


# --- in this process: a run whose process is gone is a log that nobody writes ---------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def play(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command with a script of replies; return its result (None if it was killed) and the script."""

    def start(replies: list[Any], *args: str, model: str = "scripted/model") -> tuple[Result | None, Any]:
        lm, script = scripted(*replies, model=model)
        monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
        with monkeypatch.context() as patch:
            if any(reply is die for reply in replies):
                patch.setattr(RunLog, "ended", until_killed(RunLog.ended))
                patch.setattr("rlm_dspy.cli.question.Asking._keep_unfinished", lambda asking, error: None)
            try:
                return run(*args), script
            except Killed:
                return None, script

    return start


dead: list[bool] = []


def die(_: str) -> str:
    dead.append(True)
    raise Killed


def until_killed(ended: Callable[..., None]) -> Callable[..., None]:
    """Write the ends of spans until the process is "killed", then only close the file."""

    def end(log: RunLog, span: Any, record: Any) -> None:
        if not dead:
            return ended(log, span, record)
        file = log._files.pop(span.id)
        if span.parent is None:
            file.close()
            dead.clear()
        return None

    return end


FIRST = [action("x = 41\nprint(x)"), action("print(llm_query('and one?'))"), "is 42", die]
LAST = [action("SUBMIT(answer=str(x + 1), evidence=[])")]
ASK = ("ask", "what?", "notes.md", "--mode", "rlm")


@pytest.fixture
def killed(play: Callable[..., Any], write: Callable[[str, str], Path], home: Path) -> Path:
    write("notes.md", "One and one is two.\n" * 10)
    result, _ = play(FIRST, *ASK)
    assert result is None
    return log_of(home)


def test_cells_run_again_and_finished_calls_do_not(play: Callable[..., Any], killed: Path) -> None:
    result, script = play(LAST, "ask", "--resume", killed.stem)
    assert (result.code, result.out) == (0, "42\n"), result.err
    assert len(script.requests) == 1
    assert "3 finished calls" in result.err
    assert "1 call without a usable reply" in result.err


def test_a_changed_file_is_named_and_force_goes_on(
    play: Callable[..., Any], killed: Path, write: Callable[[str, str], Path]
) -> None:
    write("notes.md", "One and one is three.\n" * 10)
    result, script = play(LAST, "ask", "--resume", killed.stem)
    assert result.code == 6
    assert "notes.md changed" in result.err
    assert script.requests == []
    replies = [action("x = 1\nprint('new')"), *LAST]
    result, script = play(replies, "ask", "--resume", killed.stem, "--force")
    assert (result.code, result.out) == (0, "2\n"), result.err
    assert "the prompt of step 1 differs from the record: from step 1 on, calls are paid again" in result.err
    assert result.err.count("differs from the record") == 1
    assert len(script.requests) == 2


def test_limits_may_be_given_again(play: Callable[..., Any], killed: Path) -> None:
    result, script = play(LAST, "ask", "--resume", killed.stem, "--max-iters", "30", "--max-calls", "70")
    assert (result.code, result.out) == (0, "42\n"), result.err
    assert len(script.requests) == 1
    assert "[step 3/30 · sub-calls 1/70]" in script.requests[0].messages[-1].text


@pytest.mark.parametrize(
    "more", [["what?"], ["-m", "offline"], ["--mode", "direct"], ["--hidden"], ["--out", "a: int"], ["--dry-run"]]
)
def test_what_the_record_decides_is_not_given_again(run: Callable[..., Result], more: list[str]) -> None:
    result = run("ask", "--resume", "last", *more)
    assert result.code == 2
    assert "--resume cannot be used together" in result.err


def test_a_finished_run_is_refused_in_one_line(run: Callable[..., Result], write: Callable[[str, str], Path]) -> None:
    write("notes.md", "The code is 4711.\n")
    run("ask", "What is the code?", "notes.md")
    result = run("ask", "--resume", "last")
    assert result.code == 1
    assert "there is nothing to resume" in result.err
    assert result.err.count("\n") == 1


def test_a_record_without_prompts_cannot_be_resumed(run: Callable[..., Result], killed: Path) -> None:
    killed.write_text(killed.read_text().replace('"content": "full"', '"content": "none"', 1))
    result = run("ask", "--resume", killed.stem)
    assert result.code == 1
    assert "its record keeps no prompts and replies (content='none')" in result.err


def test_a_record_of_an_older_version_says_what_it_lacks(run: Callable[..., Result], killed: Path) -> None:
    first, rest = killed.read_text().split("\n", 1)
    row = json.loads(first)
    del row["asked"]
    killed.write_text(json.dumps(row) + "\n" + rest)
    result = run("ask", "--resume", killed.stem)
    assert result.code == 1
    assert "does not say what was asked of which files" in result.err


def test_a_reply_with_a_masked_secret_is_asked_again(
    play: Callable[..., Any], write: Callable[[str, str], Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-secret-000000")
    write("notes.md", "One and one is two.\n" * 10)
    first = action("x = 'sk-secret-000000'\nprint(len(x))")
    play([first, die], *ASK)
    assert "sk-secret" not in log_of(home).read_text()
    result, script = play([first, action("SUBMIT(answer=str(len(x)), evidence=[])")], "ask", "--resume", "last")
    assert (result.code, result.out) == (0, "16\n"), result.err
    assert len(script.requests) == 2


def test_a_failure_leaves_the_run_to_be_resumed(play: Callable[..., Any], killed: Path) -> None:
    result, _ = play([ValueError("down")], "ask", "--resume", killed.stem)
    assert result.code != 0
    assert f"rlm-dspy ask --resume {killed.stem}" in result.err
    result, script = play(LAST, "ask", "--resume", killed.stem)
    assert (result.code, result.out) == (0, "42\n"), result.err
    assert len(script.requests) == 1


def interrupt(_: str) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
    return ""


# The second Ctrl-C comes while the best answer is asked for.
@pytest.mark.parametrize("end", [[ValueError("down")], [interrupt, interrupt]], ids=["failed", "interrupted"])
@pytest.mark.parametrize("traced", [False, True])
def test_a_run_that_did_not_end_with_an_answer_is_resumed(
    play: Callable[..., Any], write: Callable[[str, str], Path], home: Path, end: list[Any], traced: bool
) -> None:
    write("notes.md", "One and one is two.\n" * 10)
    trace = ["--trace", str(home.parent / "run.json")] if traced else []
    first, _ = play([*FIRST[:3], *end], *ASK, *trace)
    assert first.code != 0
    name = log_of(home).stem
    assert f"the finished calls are kept: `rlm-dspy ask --resume {name}` continues the run" in first.err
    assert "the partial run is in " in first.err
    assert (home.parent / "run.json").exists() == traced
    result, script = play(LAST, "ask", "--resume", name)
    assert (result.code, result.out) == (0, "42\n"), result.err
    assert len(script.requests) == 1
    assert list(home.parent.rglob("runs/*.jsonl")) == []


def test_a_run_that_a_limit_ended_goes_on_with_a_higher_one(
    play: Callable[..., Any], write: Callable[[str, str], Path], home: Path
) -> None:
    write("notes.md", "One and one is two.\n" * 10)
    first, _ = play(FIRST[:2], *ASK, "--max-tokens", "1200")
    assert first.code == 3, first.err
    assert "--resume" in first.err
    result, script = play([*FIRST[1:3], *LAST], "ask", "--resume", log_of(home).stem, "--max-tokens", "100000")
    assert (result.code, result.out) == (0, "42\n"), result.err
    assert len(script.requests) == 3


def test_a_run_without_a_finished_call_leaves_nothing(
    play: Callable[..., Any], write: Callable[[str, str], Path], home: Path
) -> None:
    write("notes.md", "One and one is two.\n" * 10)
    result, _ = play([ValueError("down")], *ASK)
    assert "--resume" not in result.err
    assert list(home.parent.rglob("runs/*.jsonl")) == []


def test_an_ask_of_two_attempts_is_resumed_as_a_whole(
    play: Callable[..., Any], write: Callable[[str, str], Path], home: Path
) -> None:
    write("notes.md", "Nothing is to be found in this line.\n" * 3_000)
    nothing = fields(answer="not found", evidence="[]")
    first = [nothing, action("x = 41\nprint(x, 'is it')"), die]
    result, _ = play(first, "ask", "Which number is in the text?", "notes.md", model="scripted/tiny-1b")
    assert result is None
    logs = sorted(home.parent.rglob("runs/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert len(logs) == 2  # the passages, and then the exploration, which was killed
    last = [action("print(x + 1, 'is the number')"), action("SUBMIT(answer=f'{x + 1}', evidence=[])")]
    result, script = play(last, "ask", "--resume", logs[-1].stem, "--json", model="scripted/tiny-1b")
    assert result.code == 0, result.err
    assert len(script.requests) == 2
    usage = json.loads(result.out)["usage"]
    assert (usage["calls"], usage["replayed_calls"]) == (4, 2)
    assert list(home.parent.rglob("runs/*.jsonl")) == []


def test_a_reply_in_one_call_that_was_in_flight_is_asked_again(
    play: Callable[..., Any], write: Callable[[str, str], Path], home: Path
) -> None:
    write("notes.md", "One and one is two.\n")
    play([die], "ask", "what?", "notes.md")
    answer = fields(answer="two", evidence="[]")
    result, script = play([answer], "ask", "--resume", "last")
    assert (result.code, result.out) == (0, "two\n"), result.err
    assert len(script.requests) == 1


def test_it_is_resumed_where_it_was_asked(
    play: Callable[..., Any], killed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    result, _ = play(LAST, "ask", "--resume", killed.stem)
    assert result.code == 1
    assert f"was asked in {home}: resume it there" in result.err


# --- what trace shows of it -------------------------------------------------------------------------------------------


@pytest.fixture
def in_step_2(killed: Path) -> Path:
    """A record that ends with the reply to the sub-call of its second step."""
    lines = killed.read_bytes().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if b'"output":"is 42"' in line.replace(b": ", b":")]
    killed.write_bytes(b"".join(lines[: ends[0] + 1]))
    return killed


def test_trace_shows_what_is_known_of_the_step_that_did_not_end(run: Callable[..., Result], in_step_2: Path) -> None:
    shown = run("trace", in_step_2.stem)
    head, *lines = shown.out.splitlines()
    assert " · killed · scripted/model · 1 step · 1 sub-call · " in head
    assert head.endswith(" s to its last event")
    told = "\n".join(lines[lines.index(next(line for line in lines if line.startswith("├─ step 2"))) :])
    assert "├─ step 2 · not ended, started at " in told
    assert re.search(r"│  ├─ call of scripted/model · [\d,]+ tokens, \$[\d.]+ · \d+\.\d s\n", told)
    assert "│  ├─ cell · not ended" in told
    assert "│  │  code: print(llm_query('and one?'))" in told
    assert "│  │  ├─ plain sub-call · not ended" in told
    assert "asked: and one?" in told
    assert "answered: is 42" in told
    assert shown.err == f"What is paid for is kept: `rlm-dspy ask --resume {in_step_2.stem}` continues the run.\n"


def test_trace_shows_a_run_at_its_furthest(run: Callable[..., Result], in_step_2: Path) -> None:
    begun = in_step_2.read_bytes().splitlines(keepends=True)[0]
    in_step_2.write_bytes(in_step_2.read_bytes() + begun)  # it was resumed, and killed again at once
    assert "answered: is 42" in run("trace").out


def test_trace_shows_a_call_that_has_no_reply(play: Callable[..., Any], run: Callable, write: Callable) -> None:
    write("notes.md", "One and one is two.\n")
    play([die], "ask", "what?", "notes.md")
    assert "├─ call of scripted/model · not ended, started at " in run("trace").out


def test_trace_says_that_a_run_was_interrupted_and_how_to_go_on(
    play: Callable[..., Any], run: Callable[..., Result], killed: Path
) -> None:
    play([interrupt, interrupt], "ask", "--resume", killed.stem)  # the second one while the best answer is asked for
    shown = run("trace")
    assert " · interrupted · " in shown.out
    assert "KeyboardInterrupt" not in shown.out
    assert f"`rlm-dspy ask --resume {killed.stem}`" in shown.err
    assert "interrupted" in run("runs").out
