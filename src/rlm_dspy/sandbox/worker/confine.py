"""Lock this process down with kernel mechanisms, through ``ctypes`` and without compiled dependencies.

Holds: after ``lock``, this process and all its forks can name no file, socket, process or namespace.
Does not hold: against bugs in the few system calls left, or on systems other than Linux.

The order matters: drop root before making a user namespace (so that "nobody" owns it), become dumpable again
before writing ``uid_map``, drop capabilities after the namespaces, and install the filter last.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the C module, which loads instantly
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable
from typing import Any

from . import bpf, syscalls

NOBODY = 65534

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

NAMESPACES = {"user": 0x10000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "mnt": 0x00020000}
NEW_PID_NAMESPACE = 0x20000000

LANDLOCK_FILES = {1: 13, 2: 14, 3: 15, 4: 15}  # number of rights by Landlock version
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8

Report = dict[str, Any]


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _load_libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _errno_name() -> str:
    return errno.errorcode.get(ctypes.get_errno(), "error")


def drop_root(report: Report) -> None:
    """Become "nobody" if started as root."""
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        report["setuid"] = True
    except OSError as error:
        report["setuid"] = errno.errorcode.get(error.errno or 0, "error")
    _load_libc().prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def enter_namespaces(report: Report) -> None:
    """Enter new user, net, ipc, uts, mount and pid namespaces, if the system allows it."""
    libc = _load_libc()
    uid, gid = os.getuid(), os.getgid()
    flags = NEW_PID_NAMESPACE
    for flag in NAMESPACES.values():
        flags |= flag
    if libc.unshare(flags) != 0:
        report["namespaces"] = _errno_name()
        return
    report["namespaces"] = True
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError as error:
        report["uid_map"] = errno.errorcode.get(error.errno or 0, "error")


def die_with_parent() -> None:
    """Ask the kernel to send SIGKILL when the thread that made this process ends."""
    _load_libc().prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies."""
    _load_libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def give_up_privileges(report: Report) -> None:
    """Drop every capability for good and become opaque to other processes of the same user."""
    libc = _load_libc()
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    report["no_new_privs"] = libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 or _errno_name()
    header, data = _CapHeader(0x20080522, 0), (_CapData * 2)()
    dropped = libc.capset(ctypes.byref(header), ctypes.byref(data)) == 0
    report["capabilities"] = dropped or _errno_name()
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(limit, (0, 0))
    if hasattr(resource, "RLIMIT_MSGQUEUE"):
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (256, 256))


def apply_landlock(report: Report) -> None:
    """Restrict every right that this kernel's Landlock knows, and grant none."""
    libc = _load_libc()
    version = libc.syscall(ctypes.c_long(syscalls.LANDLOCK_CREATE_RULESET), None, ctypes.c_long(0), ctypes.c_long(1))
    if version < 1:
        report["landlock"] = _errno_name()
        return
    report["landlock_abi"] = int(version)
    for attributes in _landlock_attributes(int(version)):
        ruleset = libc.syscall(
            ctypes.c_long(syscalls.LANDLOCK_CREATE_RULESET),
            ctypes.create_string_buffer(attributes, len(attributes)),
            ctypes.c_long(len(attributes)),
            ctypes.c_long(0),
        )
        if ruleset >= 0:
            restricted = libc.syscall(
                ctypes.c_long(syscalls.LANDLOCK_RESTRICT_SELF), ctypes.c_long(ruleset), ctypes.c_long(0)
            )
            report["landlock"] = restricted == 0 or _errno_name()
            os.close(ruleset)
            return
    report["landlock"] = _errno_name()


def _landlock_attributes(version: int) -> list[bytes]:
    """Return ruleset attributes to try, strictest first (some vendor kernels overstate their version)."""
    files = (1 << LANDLOCK_FILES.get(version, 16)) - 1
    if version >= 6:
        length = 24
    elif version >= 4:
        length = 16
    else:
        length = 8
    full = struct.pack("<QQQ", files, 3, 3)[:length]
    tries = [full]
    if length == 24:
        tries.append(struct.pack("<QQQ", files, 3, 1))
    return [*tries, *(full[:shorter] for shorter in (16, 8) if shorter < length)]


def filter_calls(report: Report, rules: bpf.Filter) -> int:
    """Install the seccomp filter; return the descriptor for fork requests, or -1 without one."""
    libc = _load_libc()
    call = ctypes.c_long(syscalls.SECCOMP[rules.machine])
    code = bpf.assemble_filter(rules)
    program, keep = _filter_program(code)
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER if rules.fork == "ask" else 0
    result = libc.syscall(call, ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(flags), ctypes.byref(program))
    del keep
    report["seccomp"] = result >= 0 or _errno_name()
    report["fork_control"] = result >= 0 and rules.fork == "ask"
    if result >= 0 and flags:
        return int(result)
    return -1


def _filter_program(code: bytes) -> tuple[_Program, Any]:
    buffer = ctypes.create_string_buffer(code, len(code))
    return _Program(len(code) // 8, ctypes.addressof(buffer)), buffer


def last_filter(rules: bpf.Filter) -> Callable[[], None]:
    """Return a function that adds one more filter; prepared early, because it needs ``ctypes`` and memory."""
    libc = _load_libc()
    program, keep = _filter_program(bpf.assemble_filter(rules))

    def install() -> None:
        if libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"second filter refused ({len(keep)} bytes, {rules.machine})")

    return install


def machine() -> str | None:
    """Return the name of this machine's system call table, or None."""
    return syscalls.canonical_machine(os.uname().machine)
