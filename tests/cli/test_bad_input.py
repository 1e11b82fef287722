"""Bad input to the command: one clear line, the right exit code, no traceback, nothing on stdout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_dspy.cli import out_option
from warm import warm_python

# --- commands that are wrong whatever the files ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["ask"], "Missing argument 'QUESTION'"),
        (["ask", "", "."], "QUESTION is empty"),
        (["ask", " \n", "."], "QUESTION is empty"),
        (["ask", "q", ".", "--max-iters", "many"], "'many' is not a valid integer"),
        (["ask", "q", ".", "--max-iters", "-1"], "--max-iters: input should be greater than or equal to 1, got -1"),
        (["ask", "q", ".", "--max-iters", "0"], "--max-iters"),
        (["ask", "q", ".", "--max-calls", "-1"], "--max-calls"),
        (["ask", "q", ".", "--max-seconds", "-0.5"], "--max-seconds"),
        (["ask", "q", ".", "--max-cost", "-1"], "--max-cost"),
        (["ask", "q", ".", "--max-tokens", "-1"], "--max-tokens"),
        (["ask", "q", ".", "--mode", "fast"], "'fast' is not one of"),
        (["ask", "q", ".", "-q", "-v"], "cannot be used together"),
        (["ask", "q", ".", "--trace", "no/such/folder/run.json"], "--trace"),
        (["ask", "q", ".", "-m", ""], "--model"),
        (["ls", "--bad"], "No such option"),
        # options that would do nothing
        (["runs", "-s", "Ada", "export", "--format", "sft"], "--search lists runs and does nothing for `runs export`"),
        (["runs", "--number", "1", "export", "--format", "sft"], "which has --answers, --format, --marked, --metric"),
        (["runs", "--json", "mark", "last", "right"], "--json lists runs and does nothing for `runs mark`"),
        (["runs", "--trust-project", "export", "--format", "sft"], "rlm-dspy runs export --trust-project …"),
        (["runs", "export", "--format", "sft", "--metric", "f1"], "--metric belongs to --answers"),
        (["mcp", ".", "--port", "99"], "--port belongs to --transport http."),
        (["mcp", ".", "--transport", "stdio", "--host", "::1"], "--host belongs to --transport http."),
        (["mcp", ".", "--origin", "https://ada.example"], "--origin belongs to --transport http."),
        (["mcp", ".", "--transport", "http", "--print-config", "codex"], "--print-config is for --transport stdio"),
        (["trace", "last", "--full", "--json"], "--full does nothing with --json"),
        (["ask", "q", ".", "--mode", "direct", "--mcp", "sky"], "--mode direct and --mcp cannot be used together"),
        (
            ["optimize", "d.jsonl", "--max-calls", "9", "--optimizer", "bootstrap", "--prompt-model", "openai/x"],
            "--prompt-model does nothing with --optimizer bootstrap",
        ),
        # what the run to resume decides, by the option's own name
        (["ask", "-m", "offline", "--dry-run", "--resume", "last"], ": --model and --resume cannot be used together"),
        (["ask", "--dry-run", "--resume", "last"], ": --dry-run and --resume cannot be used together"),
        (["ask", "q", "--resume", "last"], ": QUESTION and --resume cannot be used together"),
        (["ask", "--files-from", "notes.txt", "--resume", "last"], ": --files-from and --resume cannot be used"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(run: Callable, write: Callable, args: list[str], says: str) -> None:
    write("notes.txt", "something to read\n")
    result = run(*args)
    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize(
    "out",
    [
        "",
        "answer: ",
        "answer str",
        "answer: str, answer: int",
        "answer: str = 'x'",
        "*answers: str",
        "a: str) -> None: pass\ndef f(b",
        "answer: nosuchtype",
        "answer: os",
        "answer: list[nosuchtype]",
        "answer: 1 + 1",
        "question: str",
        "context: str",
        "evidence: str",
        "llm_query: str",
        "grep: str",
        "SUBMIT: str",
        "self: str",
        "base: str",
        "trajectory: str",
        "_hidden: str",
        "answer: str\x00",
    ],
)
def test_a_malformed_out_is_one_line_and_exit_2(run: Callable, write: Callable, out: str) -> None:
    write("notes.txt", "something to read\n")
    result = run("ask", "what?", "notes.txt", "--out", out)
    assert result.code == 2
    assert "--out" in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_outs_know_every_name_that_the_rlm_reserves() -> None:
    from rlm_dspy.rlm.signatures import RESERVED, RESULTS

    assert RESERVED | RESULTS <= out_option.TAKEN


def test_a_line_of_a_conversation_that_is_not_utf_8_is_told_and_the_next_one_answered(
    run: Callable, write: Callable
) -> None:
    write("notes.txt", "The gate opens at 6 hours.\n")
    result = run("chat", "notes.txt", stdin=b"When \xff?\nWhen does the gate open?\n")
    assert result.code == 0
    assert "that line is not valid UTF-8" in result.err
    assert "6" in result.out


def test_arguments_that_are_not_utf_8_are_refused(spawn: Callable, write: Callable) -> None:
    write("notes.txt", "something to read\n")
    for args in ([b"what \xff?", "notes.txt"], ["what?", "notes.txt", "-m", b"\xff"]):
        result = spawn("ask", *args)
        assert result.code == 2
        assert "not valid UTF-8" in result.err
        assert result.err.count("\n") == 1


# --- inputs that cannot be read ------------------------------------------------------------------------------------


def folder(home: Path, name: str) -> Path:
    path = home / name
    path.mkdir()
    return path


@pytest.mark.parametrize("command", [["ls"], ["ask", "what?"]])
def test_a_missing_path_is_one_line_and_exit_6(run: Callable, command: list[str]) -> None:
    result = run(*command, "no-such-folder")
    assert result.code == 6
    assert "no-such-folder" in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize("command", [["ls"], ["ask", "what?"]])
def test_folders_without_text_are_one_line_and_exit_6(run: Callable, home: Path, command: list[str]) -> None:
    folder(home, "empty")
    (folder(home, "binary") / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00" * 50)
    (folder(home, "blank") / "blank.txt").write_text(" \n")
    for name in ("empty", "binary", "blank", ""):
        result = run(*command, name)
        assert (result.code, result.out) == (6, "")
        assert result.err.count("\n") == 1


def test_a_file_that_may_not_be_read_is_one_line_and_exit_6(spawn: Callable, home: Path) -> None:
    # A broken link cannot be read by root either.
    (folder(home, "links") / "gone.txt").symlink_to(home / "nowhere")
    result = spawn("ask", "what?", "links")
    assert (result.code, result.out) == (6, "")
    assert result.err.count("\n") == 1


def test_a_secret_is_refused_with_the_flag_that_allows_it(run: Callable, write: Callable) -> None:
    write(".env", "A=1\n")
    result = run("ls", ".env")
    assert result.code == 6
    assert "--include-secrets" in result.err


def test_an_empty_stdin_is_one_line_and_exit_6(run: Callable) -> None:
    for args in (["what?", "-"], ["what?"]):
        result = run("ask", *args, stdin=b"")
        assert (result.code, result.out) == (6, "")
        assert result.err.count("\n") == 1


def test_no_path_on_a_terminal_is_a_usage_error(spawn: Callable, home: Path) -> None:
    import subprocess

    main_end, child_end = os.openpty()
    try:
        done = subprocess.run(
            [*warm_python(), "-m", "rlm_dspy", "ask", "what?"],
            stdin=child_end,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(main_end)
        os.close(child_end)
    assert done.returncode == 2
    assert "Missing PATH" in done.stderr
    assert done.stderr.count("\n") == 1


# --- ls ------------------------------------------------------------------------------------------------------------


def test_ls_lists_what_would_be_read_and_why_the_rest_is_not(run: Callable, write: Callable, home: Path) -> None:
    write("src/a.py", "x = 1\ny = 2\n")
    write("notes.md", "hello\n")
    (home / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00" * 50)
    result = run("ls", ".")
    assert result.code == 0
    assert "src/a.py" in result.out
    assert "notes.md" in result.out
    assert "skipped: image.png" in result.out
    assert result.out.splitlines()[-1].startswith("2 files, 18 bytes, 3 lines")


def test_ls_json_is_one_object(run: Callable, write: Callable) -> None:
    import json

    write("a.txt", "one\ntwo\n")
    write("b.log", "three\n")
    listing = json.loads(run("ls", "--json", "--include", "*.txt").out)
    assert [row["path"] for row in listing["files"]] == ["a.txt"]
    assert listing["files"][0] == {"path": "a.txt", "kind": "text", "size": 8, "lines": 2, "tokens": 2, "note": ""}
    assert listing["totals"]["files"] == 1


def test_a_name_that_would_steer_the_terminal_is_shown_escaped(run: Callable, write: Callable) -> None:
    write("evil\x1b[2Jname.txt", "x\n")
    result = run("ls", ".")
    assert result.code == 0
    assert "\x1b" not in result.out


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "enough", "told"),
    [
        (["--max-file-mb", "0.001"], ["--max-file-mb", "0.1"], "larger than the limit of 0.001 MB (--max-file-mb"),
        (["--max-files", "1"], ["--max-files", "2"], "beyond the limit of 1 file (--max-files raises it), as is"),
        (["--max-gb", "1e-9"], ["--max-gb", "1"], "beyond the limit of 1e-09 GB in all (--max-gb raises it), as is"),
    ],
)
def test_what_a_limit_leaves_out_is_told_with_the_flag_that_raises_it(
    run: Callable, write: Callable, short: list[str], enough: list[str], told: str
) -> None:
    write("files/a.txt", "the pear is green\n")
    write("files/b.txt", "the plum is blue\n" * 100)
    question = ["ask", "which colour is the plum?", "files", "-m", "offline"]
    assert f"warning: files/b.txt is {told}" in run(*question, *short).err
    assert "blue" in run(*question, *enough).out
    assert "skipped: files/b.txt" in run("ls", "files", *short).out


@pytest.mark.parametrize("flag", ["--max-file-mb", "--max-files", "--max-gb"])
def test_a_limit_of_nothing_is_refused(run: Callable, flag: str) -> None:
    assert run("ls", ".", flag, "0").code == 2


def test_a_question_in_the_place_of_a_path_is_not_blamed_on_other_files(run: Callable, write: Callable) -> None:
    write(".hidden", "x")
    write("docs/a.txt", "x")
    result = run("ask", "What is a run?", "What is a step?")
    assert result.code == 6
    assert "nothing to read in What is a step?: no files there" in result.err


def test_a_compiled_program_and_another_mode_exclude_each_other(run: Callable, write: Callable) -> None:
    write("a.txt", "x")
    result = run("ask", "q?", "a.txt", "--mode", "direct", "--program", "p.json")
    assert result.code == 2
    assert "--mode direct and --program cannot be used together" in result.err


def test_a_question_can_be_asked_from_a_folder_that_was_deleted(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "files").mkdir()
    (home / "files" / "a.txt").write_text("The rent is 950 euros.\n")
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        result = run("ask", "-m", "offline", "What is the rent?", str(home / "files"))
        assert (result.code, "950" in result.out) == (0, True)
    finally:
        monkeypatch.chdir(home)


@pytest.mark.parametrize("option", ["--max-file-mb", "--max-gb"])
@pytest.mark.parametrize("size", ["nan", "inf", "1e400", "1e300"])
def test_a_limit_of_size_that_is_no_number_is_refused(run: Callable, home: Path, option: str, size: str) -> None:
    result = run("ls", str(home), option, size)
    assert (result.code, f"{size} is not a number" in result.err) == (2, True)


def test_any_number_of_runs_may_be_listed(run: Callable, home: Path) -> None:
    (home / "a.txt").write_text("The rent is 950 euros.\n")
    run("ask", "-m", "offline", "What is the rent?", str(home / "a.txt"))
    assert run("runs", "-n", "99999999999999999999").code == 0
