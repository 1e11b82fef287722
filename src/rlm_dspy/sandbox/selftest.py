"""Test the isolation: try each forbidden operation from inside a sandbox and report the result.

Every probe runs as a cell of a throw-away sandbox and bypasses all Python-level checks: it takes the C library
from the worker's own memory and makes the system call. A probe counts as refused if the call fails with an
errno of refusal, or if the worker is killed.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_dspy.errors import ConfigurationError

from . import policy
from . import zygote_host as zygotes
from .interpreter import Sandbox
from .worker import syscalls


@dataclass(frozen=True)
class ProbeResult:
    """One probe: what was tried, whether it was refused, and how."""

    name: str
    refused: bool
    detail: str


_PRELUDE = """
import sys, errno
ctypes = sys.modules['rlm_worker.confine'].ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    return 'DONE' if result >= 0 else 'refused: ' + errno.errorcode.get(ctypes.get_errno(), '?')
def L(number): return ctypes.c_long(number)
"""

# name -> (x86-64 and aarch64 number, arguments as Python source)
_CALLS: dict[str, tuple[int, int, str]] = {
    "open a file": (257, 56, "L(-100), canary, L(0), L(0)"),
    "create a file": (257, 56, "L(-100), beside, L(0o102), L(0o600)"),
    "stat a file": (262, 79, "L(-100), canary, ctypes.create_string_buffer(256), L(0)"),
    "read a link": (267, 78, "L(-100), b'/proc/self/exe', ctypes.create_string_buffer(99), L(99)"),
    "list a folder": (257, 56, "L(-100), b'/', L(0o200000), L(0)"),
    "change a file's mode": (268, 53, "L(-100), canary, L(0o777)"),
    "delete a file": (263, 35, "L(-100), canary, L(0)"),
    "rename a file": (316, 276, "L(-100), canary, L(-100), beside, L(0)"),
    "make a memory file": (319, 279, "b'x', L(0)"),
    "open a socket": (41, 198, "L(2), L(1), L(0)"),
    "open a unix socket": (41, 198, "L(1), L(1), L(0)"),
    "connect": (42, 203, "L(40), address, L(16)"),
    "make a process": (56, 220, "L(17), None, None, None, None"),
    "make a process (vfork)": (56, 220, "L(0x4111), None, None, None, None"),
    "make a process (clone3)": (435, 435, "ctypes.create_string_buffer(88), L(88)"),
    "run a program": (59, 221, "b'/bin/true', None, None"),
    "trace a process": (101, 117, "L(16), L(host), None, None"),
    "read another's memory": (310, 270, "L(host), None, L(0), None, L(0), L(0)"),
    "kill the host": (62, 129, "L(host), L(0)"),
    "signal siblings": (62, 129, "L(-1), L(0)"),
    "signal by thread": (234, 131, "L(host), L(host), L(0)"),
    "open /proc of the host": (257, 56, "L(-100), host_proc, L(0), L(0)"),
    "open own memory": (257, 56, "L(-100), b'/proc/self/mem', L(2), L(0)"),
    "new namespaces": (272, 97, "L(0x10000000)"),
    "new privileges": (105, 146, "L(0)"),
    "raise a limit": (302, 261, "L(0), L(2), (ctypes.c_uint64 * 2)(1 << 50, 1 << 50), None"),
    "map executable memory": (9, 222, "None, L(4096), L(7), L(0x22), L(-1), L(0)"),
    "make memory executable": (10, 226, "ctypes.c_void_p(page), L(4096), L(5)"),
    "take filled memory out of the count": (10, 226, "ctypes.c_void_p(page), L(4096), L(1)"),
    "hide filled memory": (10, 226, "ctypes.c_void_p(page), L(4096), L(0)"),
    "map more than there is": (9, 222, "None, L(1 << 40), L(1), L(0x4022), L(-1), L(0)"),
    "map shared memory": (9, 222, "None, L(4096), L(3), L(0x21), L(-1), L(0)"),
    "load a BPF program": (321, 280, "L(0), None, L(0)"),
    "use io_uring": (425, 425, "L(1), ctypes.create_string_buffer(120)"),
    "mount": (165, 40, "b'x', b'/', b'tmpfs', L(0), None"),
    "set the clock": (227, 112, "L(0), ctypes.create_string_buffer(16)"),
}


def selftest(isolation: policy.Isolation = "best-effort") -> list[ProbeResult]:
    """Try every forbidden operation from inside a sandbox and return the results.

    Raises:
        ConfigurationError: isolation is "none", so the operations would succeed.
        SandboxUnavailableError: No sandbox can be made here.
    """
    if isolation == "none":
        raise ConfigurationError("selftest needs isolation: with isolation='none' the operations would succeed")
    if syscalls.canonical_machine(platform.machine()) == syscalls.X86_64:
        column = 0
    else:
        column = 1
    with _probe_targets() as (setup, intact), Sandbox(isolation=isolation, timeout=5.0, checkpoint="never") as sandbox:
        setup = _PRELUDE + setup
        checks = []
        for name, (x86, arm, arguments) in _CALLS.items():
            number = (x86, arm)[column]
            checks.append(_run_probe(sandbox, name, setup, f"call({number}, {arguments})"))
        checks.append(
            _run_probe(sandbox, "inherited environment", setup, "'DONE' if libc.getenv(b'PATH') else 'refused: empty'")
        )
        checks.append(ProbeResult("canaries are untouched", intact(), "file, listener and host"))
    return checks


def _run_probe(sandbox: Sandbox, name: str, setup: str, code: str) -> ProbeResult:
    done = sandbox.run(f"{setup}print({code})")
    if done.kind == "ok":
        return ProbeResult(name, "DONE" not in done.stdout, done.stdout.strip())
    if done.exception is not None and "crashed or was killed" in done.exception:
        return ProbeResult(name, True, "killed")
    return ProbeResult(name, False, (done.exception or done.text).rpartition("\n")[2][:120])


@contextmanager
def _probe_targets() -> Iterator[tuple[str, Any]]:
    """Set up a file and a listener as targets, and yield the code that names them for the probes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        os.chmod(folder, 0o755)
        canary = Path(folder, "canary")
        canary.write_text("canary")
        canary.chmod(0o666)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        port = listener.getsockname()[1].to_bytes(2, "big")
        setup = (
            f"canary = {str(canary).encode()!r}; beside = canary + b'2'; host = {os.getpid()}\n"
            f"host_proc = b'/proc/{os.getpid()}/environ'\n"
            f"address = {(bytes([2, 0]) + port + bytes([127, 0, 0, 1]) + bytes(8))!r}\n"
            "import array; held = array.array('b', bytes(8192)); page = (held.buffer_info()[0] + 4095) & ~4095\n"
        )

        def intact() -> bool:
            try:
                listener.accept()
            except BlockingIOError:
                return canary.read_text() == "canary" and canary.stat().st_mode & 0o777 == 0o666
            return False

        yield setup, intact


def report(isolation: policy.Isolation = "best-effort") -> dict[str, Any]:
    """Return the isolation layers that are active on this machine, as the zygote found them.

    Raises:
        SandboxUnavailableError: The requested isolation is not available here.
    """
    return dict(zygotes.running_zygote(zygotes.ZygoteSettings(isolation)).report)
