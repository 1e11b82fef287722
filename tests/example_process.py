"""Runs examples in processes of their own, forked from one that has the libraries: to import them takes the longest."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import traceback
from contextlib import redirect_stdout, suppress
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "examples"
MAX_SECONDS = 120

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["dspy", "litellm", "rlm_dspy.rlm.module", "rlm_dspy.corpus"])


def run_example(path: Path, home: Path, *arguments: str) -> dict[str, Any]:
    """Run an example, and return what ``write_gallery.run_here`` does, or with arguments its ``output`` alone.

    Raises:
        AssertionError: it failed, or did not end.
    """
    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_run, args=(path, home, arguments, theirs))
    process.start()
    theirs.close()
    found: dict[str, Any] = {"failed": f"no result within {MAX_SECONDS} s"}
    with suppress(EOFError):  # the process died
        if ours.poll(MAX_SECONDS):
            found = ours.recv()
    process.kill() if "failed" in found else process.join(MAX_SECONDS)
    assert "failed" not in found, found["failed"]
    return found


def _run(path: Path, home: Path, arguments: tuple[str, ...], results: Connection) -> None:
    os.environ.update(RLM_DSPY_HOME=str(home), IPYTHONDIR=str(home))
    sys.path.insert(0, str(FOLDER))  # as if the script were run
    try:
        if arguments:
            sys.argv = [str(path), *arguments]
            with redirect_stdout(StringIO()) as printed:
                runpy.run_path(str(path), run_name="__main__")
            results.send({"output": printed.getvalue()})
        else:
            results.send(runpy.run_path(str(FOLDER / "write_gallery.py"))["run_here"](path))
    except BaseException:
        results.send({"failed": traceback.format_exc()})
