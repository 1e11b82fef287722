"""A server of any model that counts what is paid: which request was answered when, to which connection."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import psutil

from servers.offline import AnyModelServer
from servers.openai import OpenAIServer, error
from servers.wire import send

# A reply that has just been sent may not yet be in the cache of the process that asked.
ARRIVING_SECONDS = 0.25


@dataclass
class PaidCall:
    """One request that the server answered, or is about to."""

    body: str  # a hash
    port: int  # of the client's end of the connection
    started: float
    finished: float | None = None


class CountedServer(AnyModelServer):
    """Answers after ``delay`` seconds; refuses what exceeds ``per_minute`` in any minute, as strict providers do.

    It answers as the offline engine does, or always ``same``.
    """

    def __init__(self, *, delay: float = 0.0, per_minute: int | None = None, same: str | None = None) -> None:
        super().__init__()
        self._same = same
        self.headers = {}
        self.paid: list[PaidCall] = []
        self.refused = 0
        self._delay = delay
        self._starts: deque[float] = deque(maxlen=per_minute)
        self._counting = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        if handler.command != "POST":
            super().answer(handler, path, body)
            return
        call = PaidCall(
            hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
            handler.client_address[1],
            time.monotonic(),
        )
        with self._counting:
            is_full = self._starts.maxlen == len(self._starts) and call.started - self._starts[0] < 60
            if is_full:
                self.refused += 1
            else:
                self._starts.append(call.started)
                self.paid.append(call)
        if is_full:
            send(handler, 429, error("Rate limit reached", "requests", "rate_limit_exceeded"), {"Retry-After": "1"})
            return
        time.sleep(self._delay)
        super().answer(handler, path, body)
        call.finished = time.monotonic()

    def _completion(self, body: Any) -> dict[str, Any]:
        if self._same is None:
            return super()._completion(body)
        self._thread_reply.text = self._same
        return OpenAIServer._completion(self, body)

    def calls_in_flight(self, process: int) -> set[str]:
        """Return the bodies of the calls of a living process that are not yet safely in its cache."""
        connections = psutil.Process(process).net_connections("tcp")
        ports = {connection.laddr.port for connection in connections}
        ready = time.monotonic() - ARRIVING_SECONDS
        found = set()
        for call in list(self.paid):
            if call.port in ports and (call.finished is None or call.finished > ready):
                found.add(call.body)
        return found

    def paid_twice(self) -> set[str]:
        """Return the bodies that were answered more than once."""
        times = Counter(call.body for call in self.paid)
        return {body for body, count in times.items() if count > 1}

    def busiest_minute(self) -> int:
        """Return the most requests that began in any minute."""
        starts = sorted(call.started for call in self.paid)
        most = first = 0
        for last, start in enumerate(starts):
            while start - starts[first] >= 60:
                first += 1
            most = max(most, last - first + 1)
        return most
