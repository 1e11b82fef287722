"""A Python whose imports are done: what a test starts in it begins at once, in a process of its own.

``python -m rlm_dspy`` imports DSPy and, for most models, LiteLLM, which takes seconds of CPU each time. Here one server
imports them once for all workers of pytest, and forks for each program. A client takes the place of the interpreter in
a command, ``[*warm_python(), "-m", "rlm_dspy", …]``: it hands over its arguments, environment, folder and standard
streams, passes signals on, and ends as the program ends. If the client is killed, so is the program, before another one
starts.

What is about the start itself (imports, ``PYTHON…`` variables, closed streams, process groups) needs a cold start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ADDRESS = "WARM_PYTHON"  # names the server's socket, for all workers of pytest
FOLDER = Path(__file__).parent


def warm_python() -> list[str]:
    """Return the command that stands for a Python whose imports are done; a usual one where there is no server."""
    if ADDRESS not in os.environ:
        return [sys.executable]
    return [sys.executable, "-I", "-S", str(FOLDER / "client.py"), os.environ[ADDRESS]]


def start_server() -> subprocess.Popen[bytes]:
    """Start the server, which imports nothing before it is used and ends when its stdin is closed."""
    address = str(Path(tempfile.mkdtemp(prefix="warm-"), "socket"))
    command = [sys.executable, str(FOLDER / "server.py"), address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None
    server.stdout.readline()  # it listens
    server.stdout.close()
    os.environ[ADDRESS] = address
    return server


def end_server(server: subprocess.Popen[bytes]) -> None:
    """Have the server end, and wait for it."""
    assert server.stdin is not None
    server.stdin.close()
    server.wait()
    shutil.rmtree(Path(os.environ.pop(ADDRESS)).parent)
