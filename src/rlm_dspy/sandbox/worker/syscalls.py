"""System call numbers of the two architectures the filter supports.

x86-64 from ``arch/x86/entry/syscalls/syscall_64.tbl``; aarch64 from ``include/uapi/asm-generic/unistd.h``.
None means that the call does not exist on that architecture.
"""

from __future__ import annotations

X86_64 = "x86_64"
AARCH64 = "aarch64"

AUDIT_ARCH = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}

# Calls that are harmless with any argument: they act only on this process and its open descriptors.
HARMLESS: dict[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "ppoll": (271, 73),
    "poll": (7, None),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "close": (3, 57),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "set_tid_address": (218, 96),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrandom": (318, 278),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "select": (23, None),
    "pselect6": (270, 72),
    "restart_syscall": (219, 128),
    "getrusage": (98, 165),
    "membarrier": (324, 283),
}

# Calls that are allowed only with certain arguments, which the filter lists.
GUARDED: dict[str, tuple[int, int]] = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fcntl": (72, 25),
    "prlimit64": (302, 261),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "prctl": (157, 167),
}

# Calls that no honest program makes here: they kill the process instead of failing.
FATAL: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "execve": (59, 221),
    "execveat": (322, 281),
}

# Used once, before the filter is on.
SECCOMP = {X86_64: 317, AARCH64: 277}
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_RESTRICT_SELF = 446


def call_number(
    table: dict[str, tuple[int, int | None]] | dict[str, tuple[int, int]], name: str, machine: str
) -> int | None:
    """Return the number of system call ``name`` on ``machine``, or None if it does not exist."""
    return table[name][0 if machine == X86_64 else 1]


def canonical_machine(machine: str) -> str | None:
    """Return the table name for a value of ``platform.machine()``, or None if unsupported."""
    return {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}.get(machine.lower())
