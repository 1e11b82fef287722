"""The host's side of the zygote: start it once per process, ask it for workers, approve their forks.

A long-lived thread starts and supervises each zygote, because Linux signals the parent's death to a child when
the *thread* that made it ends. Forks inside the sandbox arrive here as requests: only those granted to a
session are approved.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import importlib.util
import json
import logging
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import bytecode, policy, variables
from .errors import InterpreterUnavailableError
from .worker.bpf import CLONE_THREAD, EPERM
from .worker.wire import MAX_MESSAGE_BYTES

try:
    import fcntl
except ImportError:  # Windows, where no zygote is started
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("rlm_dspy.sandbox")

FOLDER = Path(__file__).parent
START_SECONDS = 30.0
SCM_CREDENTIALS = 2
CREDENTIALS = struct.Struct("iII")

NOTIFICATION_RECEIVE, NOTIFICATION_SEND = 0xC0502100, 0xC0182101
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
ANSWER = struct.Struct("=QqiI")
CONTINUE = 1
CONTROL = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
# SIGCHLD, and the flags with which the C library has the child's id written.
FORK_SIGNAL, FORK_MARKS = 17, 0x01000000 | 0x00200000
MIN_DESCRIPTORS = 48
MOST_THREADS = 128  # of one process; the worker's ``threading`` allows only 64


@dataclass(frozen=True)
class ZygoteSettings:
    """The settings that distinguish one zygote from another."""

    isolation: policy.Isolation = "strong"
    modules: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    debug: bool = False


@dataclass
class ForkAllowance:
    """How many forks a session's process may still make, and how many it has made."""

    left: int = 0
    used: int = 0


@dataclass
class Zygote:
    """A running zygote; ``report`` lists the isolation it verified at startup."""

    setting: ZygoteSettings
    report: dict[str, Any] = field(default_factory=dict)
    pid: int = -1
    group: int = -1
    listener: int = -1
    alive: bool = False
    denied: int = 0

    def __post_init__(self) -> None:
        self._owner = os.getpid()
        self.members: set[int] = set()
        self._grants: dict[int, ForkAllowance] = {}
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._channel: socket.socket | None = None
        self._life = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._boot_and_supervise, name="rlm-dspy-zygote", daemon=True)
        self._thread.start()
        self._ready.wait(START_SECONDS)
        if self._failure is not None:
            raise self._failure
        if not self.alive:
            self.close()
            raise InterpreterUnavailableError(f"the sandbox did not start within {START_SECONDS:.0f} s")

    # -- the supervising thread ------------------------------------------------------------------------------

    def _boot_and_supervise(self) -> None:
        try:
            self._boot_process()
        except InterpreterUnavailableError as error:
            self._failure = error
            self.close()
        except (OSError, ValueError) as error:
            self._failure = InterpreterUnavailableError(f"the sandbox could not be started: {_reason(error)}")
            self.close()
        self._ready.set()
        if self._failure is None:
            self._supervise_forks()

    def _boot_process(self) -> None:
        choice = policy.choose(sys.platform, platform.machine(), self.setting.isolation)
        if choice.backend == "wasm":
            raise InterpreterUnavailableError(policy.unsupported_message(choice.reason))
        if choice.backend == "refuse":
            raise InterpreterUnavailableError(policy.unavailable_message(choice.reason))
        _refuse_few_descriptors()
        ours, theirs = socket.socketpair(socket.AF_UNIX, CONTROL)
        watched, self._life = os.pipe()
        self._channel = ours
        try:
            with theirs, _above_standard(theirs.fileno()) as control, _above_standard(watched) as life:
                self._launch_keeper(choice, control, life)
        finally:
            os.close(watched)
        if sys.platform == "linux":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(START_SECONDS)
        self._send_instructions(ours, choice)
        self._check_report(ours, choice)
        ours.settimeout(None)
        self.alive = True

    def _launch_keeper(self, choice: policy.Choice, control: int, life: int) -> None:
        flags = ["-s", "-P", "-S", "-B", "-X", "utf8"]
        command = [sys.executable, *flags, str(FOLDER / "worker" / "__main__.py"), str(control), str(life)]
        if choice.backend == "macos":
            command = policy.confined_command(command)
        self._process = subprocess.Popen(
            command,
            env={"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2"},  # each arena reserves 64 MB of address space
            cwd="/",
            close_fds=True,
            pass_fds=(control, life),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if self.setting.debug else subprocess.DEVNULL,
            start_new_session=True,
        )

    def _send_instructions(self, channel: socket.socket, choice: policy.Choice) -> None:
        """Send the zygote its instructions and the bytecode of all modules it may import."""
        everything = ("root", "namespaces", "privileges", "landlock", "seccomp", "fork_control")
        instructions = {
            "without": list(everything if choice.backend == "plain" else self.setting.without),
            "modules": list(self.setting.modules),
            "path": _search_path(self.setting.modules),
        }
        self._send_file(channel, json.dumps(instructions).encode(), bytecode.early_bytecode(FOLDER))
        self._send_file(channel, b"{}", bytecode.late_bytecode())

    @staticmethod
    def _send_file(channel: socket.socket, message: bytes, file: Iterable[bytes]) -> None:
        parcel = variables.sealed_parcel({}, file)
        try:
            socket.send_fds(channel, [message], parcel.descriptors)
        finally:
            parcel.close()

    def _check_report(self, channel: socket.socket, choice: policy.Choice) -> None:
        """Read the zygote's report and check that it is sufficient."""
        size = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(CREDENTIALS.size)
        data, ancillary, _, _ = channel.recvmsg(MAX_MESSAGE_BYTES, size)
        if not data:
            raise InterpreterUnavailableError(policy.ENDED_AT_START)
        message = json.loads(data)
        self.pid = int(message.get("pid", -1))
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self.listener = array.array("i", body[:4])[0]
            elif level == socket.SOL_SOCKET and kind == SCM_CREDENTIALS:
                self.pid = CREDENTIALS.unpack(body[: CREDENTIALS.size])[0]
        self.group = os.getpgid(self.pid)
        self.report = {**message["report"], "backend": choice.backend, "reason": choice.reason}
        if choice.backend == "linux":
            lacking = policy.missing_layers(self.report)
        else:
            lacking = None
        self.report["strong"] = choice.backend == "macos" or (choice.backend == "linux" and lacking is None)
        if lacking and self.setting.isolation == "strong":
            raise InterpreterUnavailableError(policy.unavailable_message(lacking))
        if lacking or choice.backend == "plain":
            log.warning("the sandbox is weaker than isolation='strong': %s", lacking or choice.reason)

    def _supervise_forks(self) -> None:
        """Answer the sandbox's fork requests until the keeper ends."""
        assert self._process is not None
        if self.listener < 0:
            self._process.wait()
            self._mark_ended()
            return
        watch = select.poll()
        watch.register(self.listener, select.POLLIN)
        while True:
            events = watch.poll(500)
            if self._process.poll() is not None:
                self._mark_ended()
                return
            if events and events[0][1] & select.POLLIN:
                self._decide_fork()

    def _mark_ended(self) -> None:
        """Clean up after the keeper and every process of this zygote have ended."""
        self.alive = False
        if self._owner == os.getpid():
            self._close_descriptors()

    def _decide_fork(self) -> None:
        question = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(self.listener, NOTIFICATION_RECEIVE, question, True)
        except OSError:  # the requesting thread has already ended
            return
        number, pid, _, _, _, _, clone_flags, *_ = NOTIFICATION.unpack(question)  # struct seccomp_notif
        if self._approve_fork(pid, clone_flags):
            verdict = 0, CONTINUE
        else:
            verdict = -EPERM, 0
        reply = bytearray(ANSWER.pack(number, 0, *verdict))
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.listener, NOTIFICATION_SEND, reply, True)

    def _approve_fork(self, pid: int, flags: int) -> bool:
        if flags & CLONE_THREAD:
            return _thread_count(pid) < MOST_THREADS
        if flags & ~FORK_MARKS != FORK_SIGNAL:
            self.denied += 1
            return False
        with self._lock:
            grant = self._grants.get(pid)
            if grant is None or grant.left <= 0:
                self.denied += 1
                return False
            grant.left -= 1
            grant.used += 1
            return True

    # -- what sessions ask for -------------------------------------------------------------------------------

    @property
    def controls_forks(self) -> bool:
        """Whether each fork inside needs the host's approval."""
        return self.report.get("fork_control") is True

    def grant(self, pid: int, grant: ForkAllowance) -> None:
        """Allow the process ``pid`` as many forks as ``grant`` says."""
        with self._lock:
            self._grants[pid] = grant

    def revoke(self, pid: int) -> None:
        """Allow the process ``pid`` no more forks."""
        with self._lock:
            self._grants.pop(pid, None)

    def spawn(self, config: dict[str, Any], channel: int, control: int) -> None:
        """Ask the zygote to fork a worker that serves the other ends of the two sockets."""
        assert self._channel is not None
        with self._lock:
            self._grants.setdefault(self.pid, ForkAllowance()).left += 1
        socket.send_fds(self._channel, [json.dumps(config).encode()], [channel, control])

    def strays(self) -> list[int]:
        """Return the orphaned processes of this zygote that no session knows."""
        return [pid for pid, parent in self.unknown_processes().items() if parent == self.group]

    def unknown_processes(self) -> dict[int, int]:
        """Return the processes of this zygote that no session knows, each with its parent."""
        parents: dict[int, int] = {}
        known = {*self.members, self.pid, self.group}
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and int(entry) not in known:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == self.group:
                        parents[int(entry)] = int(fields[1])
        return parents

    def close(self) -> None:
        """End the zygote and all its sessions; safe to call twice."""
        self.alive = False
        self._close_descriptors()
        if self._process is not None and self._owner == os.getpid():
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _close_descriptors(self) -> None:
        with self._closing:
            if self._channel is not None:
                self._channel.close()
            life, self._life = self._life, -1
            listener, self.listener = self.listener, -1
            for descriptor in (life, listener):
                if descriptor >= 0:
                    os.close(descriptor)

    def forget(self) -> None:
        """Release what belongs to the original, in a forked copy of the host."""
        self.alive = False
        self._closing = threading.Lock()  # a thread of the original may hold it
        self._close_descriptors()
        if self._process is not None:
            self._process.returncode = 0  # not our child: never wait for it


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _refuse_few_descriptors() -> None:
    """Raise if the descriptor limit is too low for the socket number that the filter expects."""
    import resource  # not available on Windows

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= most < MIN_DESCRIPTORS:
        raise InterpreterUnavailableError(
            f"the sandbox needs {MIN_DESCRIPTORS} descriptors, and this process may have {most}: raise its hard "
            "limit (ulimit -Hn)"
        )


def _thread_count(pid: int) -> int:
    """Return how many threads a process has, or more than allowed if it has ended."""
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[17])
    except (OSError, ValueError, IndexError):
        return MOST_THREADS


def _search_path(modules: tuple[str, ...]) -> list[str]:
    """Return the search path for third-party modules, empty if none are requested."""
    if not modules and importlib.util.find_spec("re2") is None:
        return []
    return [entry for entry in sys.path if entry]


_zygotes: dict[ZygoteSettings, Zygote] = {}
_starting = threading.Lock()


def running_zygote(setting: ZygoteSettings) -> Zygote:
    """Return this process's zygote for ``setting``, starting one if needed or if it died."""
    with _starting:
        zygote = _zygotes.get(setting)
        if zygote is None or not zygote.alive:
            if zygote is not None:
                zygote.close()
            zygote = _zygotes[setting] = Zygote(setting)
        return zygote


def replacement_zygote(dead: Zygote) -> Zygote:
    """Return a replacement for a zygote that no longer answers; its live sessions keep the old one."""
    with _starting:
        zygote = _zygotes.get(dead.setting)
        if zygote is None or zygote is dead or not zygote.alive:
            zygote = _zygotes[dead.setting] = Zygote(dead.setting)
            _retired[:] = [old for old in _retired if old.alive] + [dead]
        return zygote


_retired: list[Zygote] = []


@contextlib.contextmanager
def _above_standard(descriptor: int) -> Iterator[int]:
    """Yield a descriptor that a child can keep; 0 to 2, which may be free in a host, become its standard streams."""
    if descriptor > 2:
        yield descriptor
        return
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        yield copy
    finally:
        os.close(copy)


_on_end: list[Callable[[], None]] = []


def on_end(action: Callable[[], None]) -> None:
    """Register ``action`` to be called when the zygotes end, and in a forked copy of the host."""
    _on_end.append(action)


def close_all() -> None:
    """End every zygote of this process."""
    for action in _on_end:
        action()
    for zygote in [*_zygotes.values(), *_retired]:
        zygote.close()
    _zygotes.clear()
    _retired.clear()


def _after_fork() -> None:
    global _starting
    _starting = threading.Lock()
    for action in _on_end:
        action()
    for zygote in [*_zygotes.values(), *_retired]:
        zygote.forget()
    _zygotes.clear()
    _retired.clear()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
