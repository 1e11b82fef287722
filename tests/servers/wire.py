"""What the fakes share: a threaded server that keeps every request and can be told to fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Fault:
    """One reply that goes wrong: a status with a body, a delay, or a connection that is cut.

    With ``after``, a streamed reply goes wrong after so many chunks: it is cut, or ``body`` is its last line, or it
    ends as if it were whole; ``delay`` is waited before that.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    path: str = ""  # only requests below it
    delay: float = 0.0
    cut: bool = False
    after: int | None = None


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class Server:
    """An HTTP server on a loopback port; ``faults`` are served first, in order, to POST requests.

    ``turns`` are (text, reason for its end) of chat replies in order; the last one repeats.
    """

    def __init__(self, *faults: Fault) -> None:
        self.turns: list[tuple[str, str]] = []
        self.faults: deque[Fault] = deque(faults)
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            fault: Fault | None = None
            wbufsize = -1  # head and body in one packet: else the client's delayed ACK costs 40 ms a call

            def do_GET(self) -> None:
                owner._take(self, None)

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_binary = any(kind in str(self.headers.get("Content-Type")) for kind in ("protobuf", "multipart"))
                owner._take(self, raw if is_binary else json.loads(raw) if raw else None)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that hangs up is part of the tests

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def posts(self) -> list[Seen]:
        """The POST requests it has had."""
        return [seen for seen in self.seen if seen.method == "POST"]

    def next_turn(self) -> tuple[str, str]:
        """Return the next reply and why it ends."""
        with self._lock:
            return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request; each kind of server has its own."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, handler: Any, body: Any) -> None:
        path = handler.path.partition("?")[0]
        with self._lock:
            headers = {name.title(): value for name, value in handler.headers.items()}
            self.seen.append(Seen(handler.command, path, headers, body))
            due = handler.command == "POST" and self.faults and handler.path.startswith(self.faults[0].path)
            fault = self.faults.popleft() if due else None
        handler.fault = fault
        if fault is None or (fault.after is not None and body.get("stream", True)):
            self.answer(handler, path, body)
            return
        time.sleep(fault.delay)
        if fault.cut:
            send_cut(handler)
        elif fault.status == 200 and fault.body is None:
            self.answer(handler, path, body)
        else:
            send(handler, fault.status, fault.body, fault.headers)


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """Send JSON, or text as it is."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    kind = "text/html" if isinstance(body, str) else "application/json"
    for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def send_stream(handler: Any, kind: str, chunks: Iterable[bytes], headers: dict[str, str] | None = None) -> None:
    """Send chunks as they come, each in one of HTTP's own, as the real servers do."""
    fault: Fault = handler.fault or Fault()
    handler.send_response(200)
    for name, value in {"Content-Type": kind, "Transfer-Encoding": "chunked", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.flush()
    for chunk in islice(chunks, fault.after):
        _send_chunk(handler, chunk)
    if fault.after is not None:
        time.sleep(fault.delay)
        if fault.cut:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault.body is not None:
            _send_chunk(handler, fault.body.encode())
    _send_chunk(handler, b"")


def _send_chunk(handler: Any, data: bytes) -> None:
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
    handler.wfile.flush()


def send_cut(handler: BaseHTTPRequestHandler) -> None:
    """Promise a body, send its beginning, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "cut')
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()


def tokens(messages: list[dict[str, Any]]) -> int:
    """Count tokens as the fakes do: four characters each."""
    return sum(len(str(message.get("content") or "")) for message in messages) // 4
