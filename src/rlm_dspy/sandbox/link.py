"""The host's end of one session: frames, the worker's processes, and rollback to the sleeping copy.

Every frame may be crafted to cost the host as much as possible.

Holds: a frame is bounded in bytes before memory is reserved and in values before it is parsed, JSON is strict, and the
kernel, not the frame, identifies the process that wrote it. Does not hold: parsing is not interruptible; it takes at
most half a second.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import Any, NoReturn

from rlm_dspy.garbage_pause import paused_garbage_collection

from .process import KILL_SECONDS, Process, ProtocolError, WorkerGoneError
from .worker.wire import LENGTH, MAX_FRAME, MAX_VALUES, TOKEN_BYTES, Message, count_values
from .zygote_host import CREDENTIALS, SCM_CREDENTIALS, ForkAllowance, Zygote

LONG_FRAME_BYTES = 1 << 16  # shorter frames make too few objects to trigger the garbage collector
CHUNK_BYTES = 1 << 18
SEND_SECONDS = 30.0
SEND_PAUSE = 0.1
_WRITER = json.JSONEncoder(separators=(",", ":"))  # ``json.dumps`` would make one per frame
_LINUX = sys.platform == "linux"

log = logging.getLogger("rlm_dspy.sandbox")


class Link:
    """The sockets and processes of one session."""

    def __init__(self, zygote: Zygote, config: dict[str, Any]) -> None:
        self.zygote = zygote
        self.generation = 0
        self._forks_refused = False  # whether the kernel has refused to make a copy
        self.blocked = False  # whether answers queue up because the worker does not read
        self.grant = ForkAllowance()
        self.standbys = self.serial = 0  # number of copies that have reported, and the latest serial
        self.standby: Process | None = None
        self.active: Process | None = None
        self.taken = 0  # bytes of the frame received last
        self._incoming: dict[int, bytearray] = {}
        self._frames: deque[tuple[int, bytes]] = deque()
        self._writing = threading.Lock()
        self._awake = threading.Event()  # whether the worker is running and should be reading
        self._awake.set()
        self._channel, theirs = socket.socketpair()
        self._control, theirs_too = socket.socketpair()
        if _LINUX:
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            with theirs, theirs_too:
                zygote.spawn(config, theirs.fileno(), theirs_too.fileno())
            self._renew_poll()
            pid, message = self._next_message(time.monotonic() + 30)
            if message.get("t") != "hello":
                raise ProtocolError("no greeting")
            if not _LINUX:  # no kernel tells who wrote a frame, and no cell has run yet
                pid = int(message["pid"])
            self.active = Process(pid, zygote.group)
            zygote.members.add(pid)
        except BaseException:
            self.close()
            raise
        self._renew_poll()
        self._allow_forks(0)

    def _renew_poll(self) -> None:
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        if self.active is not None and self.active.descriptor >= 0:
            self._poll.register(self.active.descriptor, select.POLLIN)

    def _allow_forks(self, count: int) -> None:
        assert self.active is not None
        self.grant.left = count
        self.zygote.grant(self.active.pid, self.grant)

    # -- frames ----------------------------------------------------------------------------------------------

    def send(self, message: Message, descriptors: list[int] | None = None, generation: int | None = None) -> None:
        """Write one frame, with descriptors attached to its first bytes.

        A frame for a process that was replaced in the meantime (its ``generation``) is not sent. While the worker is
        stopped, the rest of a frame waits; a running worker that stops reading in mid-frame is killed.

        Raises:
            WorkerGoneError: The frame cannot be delivered.
        """
        body = _WRITER.encode(message).encode("ascii")
        view = memoryview(LENGTH.pack(len(body)) + body)
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        else:
            rights = []
        generation = self.generation if generation is None else generation
        with self._writing:
            try:
                self._write_frame(view, rights, generation)
            except OSError as error:
                raise WorkerGoneError(str(error)) from None
            finally:
                self.blocked = False

    def _write_frame(self, view: memoryview, rights: list[Any], generation: int) -> None:
        whole, active = len(view), self.active
        deadline = time.monotonic() + SEND_SECONDS
        while view:
            if generation != self.generation:
                raise WorkerGoneError("the worker was replaced")
            sent = self._send_bytes(view, rights)
            if sent:
                view, rights = view[sent:], []
            elif not self._awake.is_set():
                self._awake.wait()
                deadline = time.monotonic() + SEND_SECONDS
            elif not self._is_writable() and time.monotonic() > deadline:
                if len(view) < whole and active is not None:
                    active.signal(signal.SIGKILL)  # it would read the next frame as the rest of this one
                raise WorkerGoneError("the worker does not read")

    def _send_bytes(self, view: memoryview, rights: list[Any]) -> int:
        try:
            return self._channel.sendmsg([view], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _is_writable(self) -> bool:
        watch = select.poll()
        watch.register(self._channel, select.POLLOUT)
        self.blocked = not watch.poll(SEND_PAUSE * 1000)
        return not self.blocked

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        """Return the next frame and the process that wrote it, or None at the deadline.

        Raises:
            WorkerGoneError: The worker ended.
            ProtocolError: The frame is malformed.
        """
        while not self._frames:
            if not self._wait_for_data(deadline):
                return None
            self._read_frames()
        pid, body = self._frames.popleft()
        self.taken = len(body)
        return pid, parse_frame(body)

    def _next_message(self, deadline: float) -> tuple[int, Message]:
        received = self.receive(deadline)
        if received is None:
            raise WorkerGoneError("no answer")
        return received

    def _wait_for_data(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        ready = dict(self._poll.poll(left * 1000 + 1))
        if self._channel.fileno() in ready:
            return True
        if ready:
            raise WorkerGoneError("the worker ended")
        return False

    def _read_frames(self) -> None:
        size = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4)
        try:
            data, ancillary, _, _ = self._channel.recvmsg(CHUNK_BYTES, size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerGoneError(str(error)) from None
        pid = self.active.pid if self.active is not None else self.zygote.pid
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == SCM_CREDENTIALS:
                pid = CREDENTIALS.unpack(body[: CREDENTIALS.size])[0]
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for unwanted in array.array("i", body[: len(body) - len(body) % 4]):
                    os.close(unwanted)
        if not data:
            raise WorkerGoneError("the worker closed its socket")
        # One buffer per writer: a frame may be cut short by its writer's death, or interleaved with another's.
        incoming = self._incoming.setdefault(pid, bytearray())
        incoming += data
        while len(incoming) >= 4:
            (length,) = LENGTH.unpack_from(incoming)
            if length > MAX_FRAME:
                raise ProtocolError(f"a frame of {length:,} bytes")
            if len(incoming) < 4 + length:
                break
            self._frames.append((pid, bytes(incoming[4 : 4 + length])))
            del incoming[: 4 + length]

    # -- processes -------------------------------------------------------------------------------------------

    def resume(self, forks: int) -> None:
        """Let the worker run, and allow it to fork its sleeping copy."""
        assert self.active is not None
        self._allow_forks(forks)
        self.active.signal(signal.SIGCONT)
        self._awake.set()

    def pause(self) -> None:
        """Stop the worker and all its threads until the next cell."""
        assert self.active is not None
        self._allow_forks(0)
        self._awake.clear()
        self.active.signal(signal.SIGSTOP)

    def can_save(self) -> bool:
        """Return whether the worker can be forked on this platform."""
        return self.zygote.controls_forks or self.zygote.report.get("backend") == "plain"

    def copies_due(self, result: Message) -> bool:
        """Return whether a forked copy has not reported yet."""
        if self.zygote.controls_forks:
            return self.grant.used > self.standbys
        claimed = result.get("copies")
        return isinstance(claimed, int) and self.standbys < claimed

    def forget_refused_forks(self) -> None:
        """Go on without copies that the kernel refused to make after the host had approved them."""
        self.grant.used = self.standbys
        if not self._forks_refused:
            self._forks_refused = True
            log.warning("this machine allows no more processes: the sandbox continues without a copy of the session")

    def interrupt(self) -> None:
        """Ask the running cell to stop."""
        if self.active is not None:
            self.active.signal(signal.SIGINT)

    def adopt(self, pid: int, serial: object) -> bool:
        """Make the reporting process the new sleeping copy, unless a later one has already reported."""
        assert self.active is not None
        if pid == self.active.pid or (self.standby is not None and pid == self.standby.pid):
            raise ProtocolError("a second copy from the same process")
        fresh = Process(pid, self.zygote.group)
        self.standbys += 1
        if not isinstance(serial, int) or serial <= self.serial:
            fresh.kill(wait=False)
            return False
        self.zygote.members.add(pid)
        self.serial = serial
        self.end_standby()
        self.standby = fresh
        fresh.signal(signal.SIGSTOP)  # so that the copy runs no code the cell has patched
        return True

    def end_standby(self) -> None:
        """End the sleeping copy, if there is one."""
        if self.standby is not None:
            self.standby.kill(wait=False)  # its memory may take a while to be given back
            self.zygote.members.discard(self.standby.pid)
            self.standby = None

    def restore_standby(self) -> bool:
        """Replace the running process by the sleeping copy; return whether there was one."""
        self._outdate_frames()
        self._end_active()
        standby, self.standby = self.standby, None
        if standby is None:
            return False
        self.active = standby
        try:
            standby.signal(signal.SIGCONT)
            self._discard_input()
            self.grant, self.standbys, self.serial = ForkAllowance(left=1), 0, 0
            self.zygote.grant(standby.pid, self.grant)
            token = secrets.token_bytes(TOKEN_BYTES)
            with self._writing:
                self._control.sendall(token)
                self._channel.settimeout(SEND_SECONDS)
                self._channel.sendall(token)
                self._channel.settimeout(None)
            self._renew_poll()
            return self._wait_until_resumed(standby.pid)
        except (OSError, WorkerGoneError, ProtocolError):
            return False

    def _outdate_frames(self) -> None:
        """Invalidate all frames for the running process, including those waiting for it to wake."""
        self.generation += 1
        self._awake.set()

    def _wait_until_resumed(self, pid: int) -> bool:
        """Wait for the copy to report that it woke and made its own copy."""
        deadline = time.monotonic() + KILL_SECONDS
        woken: Message | None = None
        while woken is None or self.copies_due(woken):
            speaker, message = self._next_message(deadline)
            if message["t"] == "standby" and speaker != pid:
                self.adopt(speaker, message.get("serial"))
            elif message["t"] == "resumed" and speaker == pid:
                woken = message
            else:
                return False
        return True

    def kill(self) -> None:
        """Kill the running process; from then on only frames from its copies are read."""
        if self.active is not None:
            self.zygote.revoke(self.active.pid)
            self._poll = select.poll()
            self._poll.register(self._channel, select.POLLIN)
            self.active.kill()

    def _end_active(self) -> None:
        if self.active is not None:
            self.kill()
            self.zygote.members.discard(self.active.pid)
            self.active = None
        if self.zygote.controls_forks and self.grant.used != self.standbys:
            self._kill_strays()

    def _kill_strays(self) -> None:
        """Kill processes that a dishonest worker forked and hid: those of the group that no session knows."""
        for pid in self.zygote.strays():
            with contextlib.suppress(OSError, ProtocolError):
                Process(pid, self.zygote.group).kill()
        self.standbys = self.grant.used

    def _discard_input(self) -> None:
        self._incoming.clear()
        self._frames.clear()
        with contextlib.suppress(BlockingIOError):
            while self._channel.recv(CHUNK_BYTES, socket.MSG_DONTWAIT):
                pass

    def close(self) -> None:
        """End every process of the session and close its sockets; safe to call twice."""
        self._outdate_frames()
        self._end_active()
        self.end_standby()
        self.let_go()

    def let_go(self) -> None:
        """Close the sockets only, because the processes belong to another host process."""
        self._channel.close()
        self._control.close()
        for process in (self.active, self.standby):
            if process is not None:
                process.let_go()


def parse_frame(body: bytes) -> dict[str, Any]:
    """Return the message in a frame.

    Raises:
        ProtocolError: It is not a message, or holds too many values.
    """
    if len(body) > LONG_FRAME_BYTES:
        count = count_values(body)
        if count > MAX_VALUES:
            raise ProtocolError(f"a frame holds {count:,} values; the limit is {MAX_VALUES:,}")
    try:
        with paused_garbage_collection() if len(body) > LONG_FRAME_BYTES else contextlib.nullcontext():
            message = _READER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed frame: {type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise ProtocolError("malformed message")
    return message


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_READER = json.JSONDecoder(parse_constant=_refuse_constant)  # ``json.loads`` would make one per frame
