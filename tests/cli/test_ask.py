"""``ask`` from end to end: real files, the real sandbox, the offline engine or a scripted one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from rlm_dspy import RLM
from rlm_dspy.cli import model_choice
from rlm_dspy.run import Run
from rlm_dspy.testing import action, fields, scripted
from rlm_dspy.tuning import contenders, program
from warm import warm_python

CLIENT = '''"""A client."""


class SlowServerError(Exception):
    """Raised when the server is too slow."""


def fetch(url, retries=3, timeout_seconds=30):
    """Fetch a page, trying again as often as retries says."""
    if not url:
        raise ValueError("no url")
'''
QUESTION = "What is the default of timeout_seconds in fetch?"
WHERE = 'src/client.py:8  "def fetch(url, retries=3, timeout_seconds=30):"'


@pytest.fixture
def files(write: Callable) -> Path:
    write("src/client.py", CLIENT)
    write("notes/history.md", "# History\n\nThe bridge was opened in 1932 by the mayor.\n")
    return write("notes/empty.md", "").parents[1]


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Have the command choose a scripted model."""

    def choose(*replies: Any, **options: Any) -> Any:
        lm, script = scripted(*replies, **options)
        monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
        return script

    return choose


def answered(quote: str = "timeout_seconds=30", answer: str = "30") -> str:
    return fields(answer=answer, evidence=json.dumps([{"quote": quote}]))


def submitted(code: str = "") -> str:
    return action(code + 'SUBMIT(answer="30", evidence=[{"quote": "timeout_seconds=30"}])')


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["direct", "rlm"])
def test_the_answer_and_its_places_are_all_that_stdout_has(spawn: Callable, files: Path, mode: str) -> None:
    result = spawn("ask", QUESTION, ".", "--mode", mode)
    assert result.code == 0
    answer, _, evidence = result.out.partition("\n\n")
    assert "30" in answer
    assert WHERE in evidence.splitlines()
    assert "offline" in result.err


@pytest.mark.parametrize("mode", ["direct", "rlm"])
def test_json_is_one_object_of_the_documented_form(run: Callable, files: Path, mode: str) -> None:
    result = run("ask", QUESTION, ".", "--json", "--mode", mode)
    answer = json.loads(result.out)
    assert result.code == 0
    assert result.out.count("\n") == 1
    assert "30" in answer["answer"]
    assert {"path": "src/client.py", "line": 8, "verified": True}.items() <= answer["evidence"][0].items()
    assert answer["evidence"][0]["quote"] in CLIENT
    assert (answer["status"], answer["mode"]) == ("submitted", mode)
    figures = {"calls", "prompt_tokens", "completion_tokens", "cost", "retries", "waited_seconds"}
    figures |= {"cached_tokens", "estimated_calls", "replayed_calls", "cached_calls"}
    assert set(answer["usage"]) == figures
    assert answer["usage"]["calls"] >= 1
    assert isinstance(answer["steps"], int)
    assert answer["seconds"] >= 0
    assert answer["run_id"]
    assert "offline" in answer["model"]


def test_control_characters_and_lone_surrogates_leave_json_and_record_readable(
    run: Callable, files: Path, speak: Callable
) -> None:
    speak(action("SUBMIT(answer='\\x7f\\x9b2J\\ud800 30', evidence=[])"))
    result = run("ask", QUESTION, ".", "--json", "--mode", "rlm")
    assert json.loads(result.out)["answer"] == "\x7f\x9b2J? 30"
    assert not re.search("[\x7f-\x9f]", result.out)
    assert json.loads(run("trace", "last", "--json").out)["outputs"]["answer"] == "\x7f\x9b2J? 30"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("mode", ["direct", "rlm"])
def test_a_trace_that_cannot_be_written_costs_no_answer(run: Callable, files: Path, mode: str) -> None:
    result = run("ask", QUESTION, ".", "--mode", mode, "--trace", "/dev/full")
    assert result.code == 1
    assert "30" in result.out
    assert "the run could not be saved in /dev/full: No space left on device" in result.err
    assert "unexpected" not in result.err


def test_a_compiled_program_is_loaded_without_a_word(
    run: Callable, files: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program.save(RLM(contenders.signature()), home / "p.json")
    result = run("ask", QUESTION, ".", "--program", "p.json")
    assert result.code == 0
    assert "30" in result.out
    assert "deep copy" not in caplog.text


def test_where_nothing_matches_it_says_so_and_has_an_exit_code_of_its_own(run: Callable, files: Path) -> None:
    for mode in ("direct", "rlm"):
        result = run("ask", "Who won the zeppelin regatta?", ".", "--mode", mode)
        assert result.code == 7
        assert "nothing was found" in result.out.lower()
        assert "src/client.py" not in result.out


def test_auto_reads_small_inputs_at_once_and_explores_large_ones(run: Callable, files: Path, write: Callable) -> None:
    assert json.loads(run("ask", QUESTION, ".", "--json").out)["mode"] == "direct"
    write("big.txt", "Nothing of interest stands in this line of text.\n" * 2_000)
    large = json.loads(run("ask", QUESTION, ".", "--json").out)
    assert large["mode"] == "rlm"
    assert "30" in large["answer"]


def test_typed_outputs_are_printed_readably(run: Callable, files: Path, speak: Callable) -> None:
    out = "answer: str, items: list[str], count: int"
    speak(fields(answer="two", items='["fetch", "SlowServerError"]', count="2", evidence="[]"))
    result = run("ask", "Which names?", ".", "--out", out)
    assert result.out == "answer: two\nitems:\n  - fetch\n  - SlowServerError\ncount: 2\n"
    speak(action('SUBMIT(answer="two", items=["a", "b"], count=2, evidence=[{"quote": "no url"}])'))
    shown = json.loads(run("ask", "Which?", ".", "--out", out, "--json", "--mode", "rlm").out)
    assert shown["answer"] == "two"
    assert shown["outputs"] == {"answer": "two", "items": ["a", "b"], "count": 2}
    assert shown["evidence"][0]["line"] == 11


def test_a_piped_text_is_read_with_and_without_a_dash(spawn: Callable, run: Callable) -> None:
    text = b"The bridge was opened in 1932 by the mayor.\n"
    result = spawn("ask", "When was the bridge opened?", "-", stdin=text)
    assert result.code == 0
    assert "1932" in result.out
    assert "1932" in run("ask", "When was the bridge opened?", stdin=text).out


def test_quiet_leaves_stderr_empty(run: Callable, files: Path) -> None:
    for mode in ("direct", "rlm"):
        assert run("ask", QUESTION, ".", "-q", "--mode", mode).err == ""


def test_verbose_logs_and_json_logs_go_to_stderr(run: Callable, files: Path) -> None:
    result = run("ask", QUESTION, ".", "-v")
    assert "INFO rlm_dspy.cli.question: asking model=" in result.err
    rows = [json.loads(line) for line in run("ask", QUESTION, ".", "--log-json", "-q").err.splitlines()]
    assert rows[0]["mode"] == "direct"
    assert [row["message"] for row in rows] == ["asking", "step", "final"]
    assert rows[-1]["usage"]["calls"] == 1
    assert "SUBMIT(" in run("ask", QUESTION, ".", "-vv", "--mode", "rlm").err


def test_a_dry_run_asks_nothing(run: Callable, files: Path, speak: Callable) -> None:
    script = speak(answered())
    result = run("ask", QUESTION, ".", "--dry-run")
    assert result.code == 0
    first, second, third = result.out.splitlines()
    assert re.fullmatch(r"2 files, about \d+ tokens; mode direct; model scripted/model", first)
    assert re.fullmatch(r"\d+ skipped; kinds: .*", second)
    assert re.fullmatch(r"estimated: 1 model calls, [\d,]+ prompt tokens, cost unknown", third)
    assert json.loads(run("ask", QUESTION, ".", "--dry-run", "--json").out)["files"] == 2
    assert script.requests == []


@pytest.mark.parametrize("mode", ["direct", "rlm"])
def test_the_run_is_saved_where_trace_says(run: Callable, files: Path, home: Path, mode: str) -> None:
    result = run("ask", QUESTION, ".", "--trace", "run.json", "--mode", mode, "--json")
    saved = Run.model_validate(json.loads((home / "run.json").read_text()))
    shown = json.loads(result.out)
    assert saved.id == shown["run_id"]
    assert saved.usage.calls == shown["usage"]["calls"]
    assert saved.outputs["answer"] == shown["answer"]
    assert "class SlowServerError" not in saved.inputs["context"]


def test_answers_cannot_steer_the_terminal(run: Callable, files: Path, speak: Callable) -> None:
    speak(answered(answer="\x1b]0;owned\x07done"))
    assert run("ask", QUESTION, ".").out.startswith("\\x1b]0;owned\\x07done")


# --- evidence --------------------------------------------------------------------------------------------------------


def test_a_quote_that_is_not_there_is_flagged(run: Callable, files: Path, speak: Callable) -> None:
    speak(answered(quote="timeout_seconds=99"))
    result = run("ask", QUESTION, ".", "--mode", "direct")
    assert result.code == 0
    assert result.out == "30\n"
    assert "unverified" in result.err
    shown = json.loads(run("ask", QUESTION, ".", "--json", "--mode", "direct").out)
    assert [item["verified"] for item in shown["evidence"]] == [False]


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_limit_that_prints_the_best_answer_and_exits_3(run: Callable, files: Path, speak: Callable) -> None:
    speak(action("print(peek(0, 10))"), answered())
    result = run("ask", QUESTION, ".", "--mode", "rlm", "--max-iters", "1")
    assert result.code == 3
    assert result.out.startswith("30\n")
    assert "max_iters" in result.err


def test_a_prompt_beyond_max_tokens_is_not_sent(run: Callable, files: Path, speak: Callable) -> None:
    script = speak(answered())
    result = run("ask", QUESTION, ".", "--mode", "direct", "--max-tokens", "20")
    assert result.code == 3
    assert "max_tokens is 20" in result.err
    assert script.requests == []


def test_a_model_slower_than_max_seconds_is_not_waited_for(run: Callable, files: Path, speak: Callable) -> None:
    speak(answered(), delay=5)
    result = run("ask", QUESTION, ".", "--mode", "direct", "--max-seconds", "0.2")
    assert (result.code, result.out) == (3, "")
    assert "max_seconds ended the call before" in result.err


def test_a_limit_that_left_no_answer_has_the_code_of_a_limit_in_every_mode(
    run: Callable, files: Path, speak: Callable
) -> None:
    speak(action("print(1)"), delay=5)
    result = run("ask", QUESTION, ".", "--mode", "rlm", "--max-seconds", "0.2")
    assert (result.code, result.out) == (3, "")
    assert "max_seconds was reached before any code ran" in result.err


# --- failures --------------------------------------------------------------------------------------------------------


def provider(kind: type, message: str) -> Exception:
    try:
        return kind(message)
    except TypeError:
        return kind(message=message)


@pytest.mark.parametrize("mode", ["direct", "rlm"])
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (dspy.LMAuthError, 4),
        (dspy.LMTransportError, 4),
        (dspy.LMRateLimitError, 5),
        (dspy.LMInvalidRequestError, 5),
    ],
)
def test_a_providers_failure_is_one_line_and_its_own_code(
    run: Callable, files: Path, home: Path, speak: Callable, kind: type, code: int, mode: str
) -> None:
    speak(provider(kind, "the provider said no"))
    result = run("ask", QUESTION, ".", "-q", "--mode", mode, "--trace", "partial.json")
    assert (result.code, result.out) == (code, "")
    assert "the provider said no" in result.err
    assert result.err.count("\n") == 1
    assert Run.model_validate(json.loads((home / "partial.json").read_text())).status == "stopped"


def test_a_partial_run_that_cannot_be_saved_hides_no_error(
    run: Callable, files: Path, write: Callable, speak: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLM_DSPY_HOME", str(write("a-file", "x").absolute()))
    speak(action("print(1)"), provider(dspy.LMAuthError, "the provider said no"))
    result = run("ask", QUESTION, ".", "-q", "--mode", "rlm")
    assert result.code == 4
    assert "the partial run could not be saved" in result.err
    assert "the provider said no" in result.err


def test_an_empty_answer_is_said_to_be_one(run: Callable, files: Path, speak: Callable) -> None:
    speak(fields(answer="", evidence="[]"))
    result = run("ask", "-q", QUESTION, ".", "--mode", "direct")
    assert result.code == 7
    assert "The model's answer is empty." in result.err


def test_a_reply_without_the_outputs_is_one_line_and_exit_1(run: Callable, files: Path, speak: Callable) -> None:
    speak("I would rather not.")
    result = run("ask", QUESTION, ".", "-q", "--mode", "direct")
    assert (result.code, result.out) == (1, "")
    assert "I would rather not." in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" in run("ask", QUESTION, ".", "-v", "--mode", "direct").err


def test_auto_explores_what_does_not_fit_the_models_window(run: Callable, files: Path, speak: Callable) -> None:
    def reply(message: str) -> str:
        if "=== src/client.py" in message:
            raise provider(dspy.ContextWindowExceededError, "too long")
        return submitted()

    speak(reply)
    result = run("ask", QUESTION, ".", "--json")
    assert result.code == 0
    assert json.loads(result.out)["mode"] == "rlm"
    assert "does not fit" in result.err
    assert run("ask", QUESTION, ".", "--mode", "direct").code == 5


def test_the_offline_engine_says_once_that_it_is_one(run: Callable, files: Path) -> None:
    result = run("ask", QUESTION, ".")
    assert "offline engine" in result.err
    notices = [line for line in result.err.splitlines() if "offline" in line]
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        ("groq/openai/gpt-oss-20b", 4, "GROQ_API_KEY"),
        ("nosuchprovider/model", 4, "nosuchprovider"),
        ("two words", 2, "is not a model name"),
        ("ollama_chat/x", 4, "127.0.0.1:9"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(
    run: Callable, files: Path, monkeypatch: pytest.MonkeyPatch, model: str, code: int, says: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    result = run("ask", QUESTION, ".", "-q", "-m", model)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert result.err.count("\n") == 1


def test_an_unforeseen_error_is_one_line_and_exit_1(home: Path) -> None:
    program = (
        "import sys, click; from rlm_dspy.cli.commands import app, main\n"
        "app.add_command(click.Command('boom', callback=lambda: {}['missing']))\n"
        "sys.exit(main(['boom']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "unexpected KeyError: 'missing'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(files: Path) -> None:
    with subprocess.Popen(
        [*warm_python(), "-m", "rlm_dspy", "ls", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


# --- secrets and size ------------------------------------------------------------------------------------------------


def test_a_key_in_the_environment_is_never_printed_or_saved(
    run: Callable, files: Path, home: Path, write: Callable, monkeypatch: pytest.MonkeyPatch, speak: Callable
) -> None:
    key = "gsk_canary_0123456789"
    monkeypatch.setenv("GROQ_API_KEY", key)
    write("src/leak.py", f"KEY = '{key}'\n")
    speak(answered(quote=f"KEY = '{key}'", answer=key))
    seen = ""
    for extra in ([], ["--json"], ["-vv"], ["--log-json"]):
        result = run("ask", f"what is {key}?", ".", "--mode", "direct", "--trace", "run.json", *extra)
        assert result.code == 0
        seen += result.out + result.err + (home / "run.json").read_text()
    speak(provider(dspy.LMAuthError, f"bad key {key}"))
    failed = run("ask", "what?", ".", "-v", "--mode", "direct")
    assert failed.code == 4
    assert key not in seen + failed.out + failed.err


def test_a_single_line_of_fifty_megabytes_is_answered(spawn: Callable, home: Path) -> None:
    words = "lorem ipsum dolor sit amet " * 1_000_000
    text = words[:25_000_000] + "the bridge was opened in 1932 by the mayor. " + words[:25_000_000]
    (home / "line.txt").write_text(text)
    result = spawn("ask", "When was the bridge opened?", "line.txt", "--json")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert "1932" in shown["answer"]
    assert shown["evidence"][0]["line"] == 1
    assert len(result.out) < 5_000


@pytest.mark.parametrize(("pattern", "warned"), [("nothing_matches", True), ("notes", False)])
def test_an_exclude_that_leaves_nothing_out_is_reported(
    run: Callable, write: Callable, pattern: str, warned: bool
) -> None:
    write("a.md", "one\n")
    write("notes/b.md", "two\n")
    result = run("ls", ".", "--exclude", pattern)
    assert ("nothing has a name like --exclude nothing_matches" in result.err) == warned
