"""Imports once, and forks for each program that a client hands over; see the package."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


class Server:
    """Forks for each request, and tells the client how the program ended."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(0, selectors.EVENT_READ, lambda: sys.exit(0))  # pytest has ended
        self.clients: dict[int, socket.socket] = {}  # by the process that each one waits for

    def next_request(self) -> dict[str, Any]:
        """Serve until a fork, and return the request in the child."""
        while True:
            ready = [key for key, _ in self.selector.select()]
            # What has ended comes before what begins.
            for key in sorted(ready, key=lambda key: key.fileobj is self.listener):
                if key.fd in self.selector.get_map() and (request := key.data()):
                    return request  # type: ignore[no-any-return]

    def _accept(self) -> dict[str, Any] | None:
        client, _ = self.listener.accept()
        head, handles, _, _ = socket.recv_fds(client, 4, 4)
        size = int.from_bytes(head, "big")
        body = b""
        while len(body) < size:
            body += client.recv(size - len(body))
        import_all()
        process = os.fork()
        if process == 0:
            self.selector.close()
            for one in (self.listener, client, *self.clients.values()):
                one.close()
            os.setsid()
            os.fchdir(handles[3])
            for number in range(3):
                os.dup2(handles[number], number)
            close_all(handles)
            return json.loads(body)  # type: ignore[no-any-return]
        close_all(handles)
        handle = os.pidfd_open(process)
        self.clients[process] = client
        self.selector.register(client, selectors.EVENT_READ, lambda: self._pass_signals(process))
        self.selector.register(handle, selectors.EVENT_READ, lambda: self._report_end(process, handle))
        return None

    def _pass_signals(self, process: int) -> None:
        """Send a client's signals to its program; a client that has gone takes the program with it."""
        try:
            numbers = self.clients[process].recv(64)
        except ConnectionResetError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            # A terminal sends Ctrl-C to all processes of the program.
            (os.killpg if number == signal.SIGINT else os.kill)(process, number)
        if not numbers:
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
            self.selector.unregister(self.clients[process])

    def _report_end(self, process: int, handle: int) -> None:
        _, status = os.waitpid(process, 0)
        client = self.clients.pop(process)
        with contextlib.suppress(BrokenPipeError):  # it was killed
            client.send(str(os.waitstatus_to_exitcode(status)).encode())
        self.selector.unregister(handle)
        if client in self.selector.get_map():
            self.selector.unregister(client)
        client.close()
        os.close(handle)


def close_all(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)


def import_all() -> None:
    """Import what the programs of tests need, and leave no handler of LiteLLM's loggers, which print to stdout."""
    if "litellm" in sys.modules:
        return
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import rlm_dspy.cli.commands
        import rlm_dspy.cli.mcp.server  # noqa: F401
        from rlm_dspy._dspy import get_litellm

        get_litellm(feature="tests")
    for name in LOGGERS:
        logging.getLogger(name).handlers.clear()
    gc.freeze()


def renew_streams() -> None:
    """Make the standard streams anew: the server's own may be files, where these are pipes."""
    out, err = (io.BufferedWriter(io.FileIO(number, "w", closefd=False)) for number in (1, 2))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8")
    sys.stderr = io.TextIOWrapper(err, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def run_program(request: dict[str, Any]) -> None:
    """Run what the interpreter would run with these arguments."""
    renew_streams()
    os.environ.clear()
    os.environ.update(request["environ"])
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder for folder in folders if folder and folder not in sys.path]
    kind, *arguments = request["arguments"]
    sys.path.insert(0, "")
    if kind == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [kind, *arguments]
        sys.path[0] = str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def end_program(request: dict[str, Any]) -> None:
    """Run a program, and end as the interpreter does, but for the collection of what the server had imported."""
    status: Any = 0
    try:
        run_program(request)
    except SystemExit as end:
        status = end.code
        if status is None or isinstance(status, str):
            print(status or "", end="", file=sys.stderr)
            status = int(status is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    print("listening", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    end_program(server.next_request())
