"""Length-prefixed JSON frames on the session's private socket, from any thread.

The first thread to wait reads for all (the leader); the others wait for their answer to be delivered. An
interrupt may arrive at any bytecode of the main thread, so bytes already read from the kernel are kept on the
object, and the two places where they are in transit are guarded.
"""

from __future__ import annotations

import _socket as socket
import array
import itertools
import re
import struct
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from os import _exit, write
from threading import Condition
from typing import Any

from . import own

with suppress(ImportError):  # Windows, where the host needs only what counts and limits
    from select import POLLIN, poll

MAX_FRAME = 32 << 20
MAX_MESSAGE_BYTES = 1 << 18  # between the host and the zygote
TOKEN_BYTES = 16  # that a session's sleeping copy is woken with
MAX_VALUES = 500_000  # of one message: parsing this many takes the host half a second, whatever they are
MAX_COMMAND = 1 << 30  # the host is trusted, but never wait for an invalid length
CHUNK_BYTES = 1 << 16
MAX_DESCRIPTORS = 253  # the kernel's limit per message

LENGTH = struct.Struct("<I")

# An unterminated string extends to the end; otherwise each quotation mark in it would start a new search.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)

Message = dict[str, Any]


def count_values(body: bytes) -> int:
    """Count the values in a JSON text without parsing it; above the limit, return at least ``MAX_VALUES + 1``."""
    count = _count_separators(body)
    if count <= MAX_VALUES:
        return count
    for strings, found in enumerate(_STRING.finditer(body)):  # characters inside a string are not separators
        if strings > 2 * MAX_VALUES:  # the keys of dicts are strings too
            return MAX_VALUES + 1
        if found.end() - found.start() > 2:
            count -= _count_separators(found.group()) - 1
    return count


def _count_separators(body: bytes) -> int:
    """Return the number of values that commas and brackets imply; an empty list or dict is one value."""
    opened, empty = body.count(b"[") + body.count(b"{"), body.count(b"[]") + body.count(b"{}")
    return body.count(b",") + opened - empty + 1


def refuse_many_values(body: bytes, what: str) -> None:
    """Raise ``ValueError`` if a JSON text holds more values than the host accepts."""
    count = count_values(body)
    if count > MAX_VALUES:
        raise ValueError(f"{what} holds {count:,} values; the limit is {MAX_VALUES:,}: pass less, or one string")


def encoded_frame(message: Message) -> bytes:
    """Return the message as a frame.

    Raises:
        ValueError: It is too long.
    """
    body = own.dumps(message).encode("ascii")
    if len(body) > MAX_FRAME:
        raise ValueError(f"message of {len(body):,} bytes; the limit is {MAX_FRAME:,}")
    refuse_many_values(body, "the message")
    return LENGTH.pack(len(body)) + body


class Wire:
    """One end of the session's socket; ``guarded`` is true while an interrupt would lose bytes."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.descriptors: deque[int] = deque()
        self.guarded = False
        self._main = get_ident()
        self.deferred: Callable[[], None] = lambda: None
        self.forget()

    def forget(self) -> None:
        """Reset after a fork: drop partly read frames, and the locks of threads that are gone."""
        self._poll = poll()  # the old one counts as in use if a thread waited on it during the fork
        self._poll.register(self.channel.fileno(), POLLIN)
        self._incoming = bytearray()
        self._writing = allocate_lock()
        self._turn = Condition()
        self._leading = False
        self._answers: dict[int, Message] = {}
        self._awaited: set[int] = set()
        self._ids = itertools.count(1)
        self._commands: deque[Message] = deque()

    def send(self, message: Message) -> None:
        """Write one frame."""
        written = encoded_frame(message)
        with self._writing:
            self._run_guarded(self.write, memoryview(written))

    def write(self, view: memoryview) -> None:
        """Write these bytes without interleaving with other threads."""
        while view:
            view = view[write(self.channel.fileno(), view) :]

    def _run_guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run ``action`` to its end; an interrupt in the meantime is raised afterwards."""
        if get_ident() != self._main:
            action(*arguments)
            return
        self.guarded = True
        try:
            action(*arguments)
        finally:
            self.guarded = False
        self.deferred()

    def command(self) -> Message:
        """Wait for the host's next command, outside any cell."""
        return self._wait_until_found(lambda: self._commands.popleft() if self._commands else None)

    def ask(self, message: Message) -> Message:
        """Send a call and wait for its answer; other threads may do the same concurrently."""
        number = next(self._ids)
        message["id"] = number
        self._awaited.add(number)
        try:
            self.send(message)
            return self._wait_until_found(lambda: self._answers.pop(number, None))
        finally:
            self._awaited.discard(number)
            self._answers.pop(number, None)

    def _wait_until_found(self, look: Callable[[], Message | None]) -> Message:
        """Wait until ``look`` finds something; only one thread reads at a time, or frames would be split."""
        while True:
            with self._turn:
                while (found := look()) is None and self._leading:
                    self._turn.wait()
                if found is not None:
                    return found
                self._leading = True
            try:
                self._read_frames()
            finally:
                with self._turn:
                    self._leading = False
                    self._turn.notify_all()

    def _read_frames(self) -> None:
        """Wait for bytes (an interrupt may be raised here) and dispatch the frames they complete."""
        self._poll.poll()
        self._run_guarded(self._receive)

    def _receive(self) -> None:
        size = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
        data, ancillary, _, _ = self.channel.recvmsg(CHUNK_BYTES, size)
        if not data:
            _exit(0)
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(body[: len(body) - len(body) % 4])
                self.descriptors.extend(received)
        self._incoming += data
        while len(self._incoming) >= 4:
            (length,) = LENGTH.unpack_from(self._incoming)
            if length > MAX_COMMAND:
                _exit(1)
            if len(self._incoming) < 4 + length:
                break
            body = bytes(self._incoming[4 : 4 + length])
            del self._incoming[: 4 + length]
            self._sort(own.loads(body))

    def _sort(self, message: Message) -> None:
        if message["t"] == "ret":
            if message["id"] in self._awaited:
                self._answers[message["id"]] = message
        else:
            self._commands.append(message)
