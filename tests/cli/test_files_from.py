"""Paths from a list, and texts from named pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rlm_dspy.corpus import read


def names(result: object) -> list[str]:
    return [row["path"] for row in json.loads(result.out)["files"]]  # type: ignore[attr-defined]


def test_paths_come_from_a_file_or_stdin(run: Callable, spawn: Callable, home: Path) -> None:
    for name in ("a.txt", "b c.txt", "d.txt"):
        (home / name).write_text("text\n")
    (home / "list").write_text("a.txt\nb c.txt\n")
    assert names(run("ls", "--json", "--files-from", "list")) == ["a.txt", "b c.txt"]
    assert names(run("ls", "--json", "d.txt", "--files-from", "list")) == ["a.txt", "b c.txt", "d.txt"]
    assert names(spawn("ls", "--json", "--files-from", "-", "-0", stdin=b"a.txt\0b c.txt\0")) == ["a.txt", "b c.txt"]


def test_a_list_that_cannot_be_used_is_a_usage_error(run: Callable, home: Path) -> None:
    (home / "empty").write_text("\n")
    for arguments in (["--files-from", "none"], ["--files-from", "empty"], ["-0", "."]):
        assert run("ls", *arguments).code == 2


def test_a_list_with_nuls_says_what_to_add_and_one_in_utf_16_what_to_save(run: Callable, home: Path) -> None:
    (home / "a.txt").write_text("text\n")
    (home / "list").write_bytes(b"a.txt\0b.txt\0")
    result = run("ls", "--files-from", "list")
    assert (result.code, "add -0" in result.err) == (2, True)
    for encoding in ("utf-16", "utf-16-be"):
        (home / "list").write_bytes(("\ufeff" * (encoding != "utf-16") + "a.txt\n").encode(encoding))
        result = run("ls", "--files-from", "list")
        assert (result.code, "save the list as UTF-8" in result.err) == (2, True)
    (home / "list").write_bytes("\ufeffa.txt\n".encode())
    assert names(run("ls", "--json", "--files-from", "list")) == ["a.txt"]


def test_a_named_pipe_is_read_as_a_stream(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("from the pipe\n"))
    writer.start()
    assert read([pipe])["pipe"] == "from the pipe\n"
    writer.join()


def test_a_process_substitution_is_read(home: Path) -> None:
    command = f"{sys.executable} -m rlm_dspy ls --json <(printf 'one\\ntwo\\n')"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120, check=True)
    assert json.loads(done.stdout)["totals"]["lines"] == 2
