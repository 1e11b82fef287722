"""Host side of the process that reads HTML, PDF and office files: started on demand, killed when it hangs."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rlm_dspy.corpus.readers.reader import Converted, Reader, UnreadableError

PROGRAM = Path(__file__).parent / "office" / "__main__.py"
MAX_CPU_SECONDS = 60.0  # CPU seconds per document
SECONDS_FOR_MB = 2.0  # CPU seconds added per MB of the document
_CLOCK_FACTOR = 20  # wall-clock allowance as a multiple of CPU time, because the processor is shared

VERSION = "5"  # of the output; part of the cache key

_NAMES = {
    "html": "a page", "pdf": "a PDF", "docx": "a Word document", "pptx": "a presentation", "xlsx": "a spreadsheet",
    "rtf": "an RTF document", "odt": "an OpenDocument text", "ods": "an OpenDocument spreadsheet",
    "odp": "an OpenDocument presentation", "odg": "an OpenDocument drawing", "epub": "a book (EPUB)",
    "sqlite": "a database", "parquet": "a Parquet file", "arrow": "an Arrow file",
}  # fmt: skip


class Converter:
    """A child process that converts documents one after the other."""

    def __init__(
        self, program: Path = PROGRAM, seconds: float = MAX_CPU_SECONDS, patience: float = _CLOCK_FACTOR
    ) -> None:
        self._program = program
        self._seconds = seconds
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def page_image(self, data: bytes, page: int) -> bytes:
        """Return a page of a PDF as a PNG; pages count from 1.

        Raises:
            UnreadableError: as :meth:`convert`, or there is no such page.
        """
        return base64.b64decode(self.convert("pdf", data, page).text)

    def convert(self, kind: str, data: bytes, page: int | None = None) -> Converted:
        """Return the text of a document, or a page of it as base64.

        Raises:
            UnreadableError: It is broken, encrypted or empty, takes too long or too much memory, or this is Windows.
        """
        if not hasattr(select, "poll"):
            raise UnreadableError(f"{_NAMES[kind]}, which is read on Linux and macOS only; use WSL or Docker")
        with self._turn:
            try:
                answer = self._asked(kind, data, page)
            except BrokenPipeError:
                self.close()
                raise UnreadableError(f"{_NAMES[kind]} whose reader crashed") from None
            except (OSError, ValueError) as error:
                self.close()
                raise UnreadableError(f"{_NAMES[kind]} whose reader gave up: {error}") from None
            except BaseException:
                self.close()  # or its late answer would be taken for the next one
                raise
        if "missing" in answer:
            raise UnreadableError(f"{_NAMES[kind]}: to read it, pip install {answer['missing']}")
        if "error" in answer:
            raise UnreadableError(str(answer["error"]))
        marks = tuple((int(line), str(text), bool(counted)) for line, text, counted in answer["marks"])
        return Converted(str(answer["text"]), marks, str(answer["note"]))

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # the buffer may hold bytes for a child that has exited
                    stream.close()
        process.wait()

    def _asked(self, kind: str, data: bytes, page: int | None = None) -> dict[str, Any]:
        process = self._running_process()
        assert process.stdin is not None
        assert process.stdout is not None
        seconds = self._seconds + SECONDS_FOR_MB * len(data) / 1e6
        deadline = time.monotonic() + seconds * self._patience
        os.set_blocking(process.stdin.fileno(), False)
        request = json.dumps({"kind": kind, "size": len(data), "seconds": seconds, "page": page})
        self._send_bytes(process, request.encode() + b"\n" + data, deadline)
        buffer = b""
        while b"\n" not in buffer:
            buffer += self._receive_bytes(process.stdout.fileno(), deadline)
        head, _, body = buffer.partition(b"\n")
        pieces, left = [body], int(head) - len(body)
        while left > 0:
            pieces.append(self._receive_bytes(process.stdout.fileno(), deadline))
            left -= len(pieces[-1])
        answer: dict[str, Any] = json.loads(b"".join(pieces))
        return answer

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", str(self._program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
            atexit.register(self.close)
        return self._process

    def _send_bytes(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
        assert process.stdin is not None
        view = memoryview(data)
        while view:
            self._wait_until_ready(process.stdin.fileno(), select.POLLOUT, deadline)
            view = view[os.write(process.stdin.fileno(), view[: 1 << 16]) :]

    def _receive_bytes(self, descriptor: int, deadline: float) -> bytes:
        self._wait_until_ready(descriptor, select.POLLIN, deadline)
        data = os.read(descriptor, 1 << 20)
        if not data:
            raise ValueError(self._exit_reason())
        return data

    def _time_limit_message(self) -> str:
        return f"it took more than {self._seconds:,.0f} s of a processor and {SECONDS_FOR_MB:g} s for each MB of it"

    def _exit_reason(self) -> str:
        """Return why the child exited."""
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(timeout=5) == -signal.SIGXCPU:
                return self._time_limit_message()
        return "it crashed or used more than 3 GB of memory"

    def _wait_until_ready(self, descriptor: int, event: int, deadline: float) -> None:
        ready = select.poll()
        ready.register(descriptor, event)
        if not ready.poll(max(0.0, 1_000 * (deadline - time.monotonic()))):
            raise TimeoutError(self._time_limit_message())


@functools.cache
def shared() -> Converter:
    """Return this process's converter."""
    return Converter()


@functools.cache
def office_reader(kind: str) -> Reader:
    """Return the reader for a kind of office document."""
    return Reader(kind, lambda data, name: shared().convert(kind, data), VERSION)
