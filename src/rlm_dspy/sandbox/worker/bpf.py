"""The seccomp filter as a classic BPF program, assembled by hand.

Holds: every system call that is not listed is refused; no page becomes executable; no process, file, socket or
memory object is created; a fork happens only if the host approves it.
Does not hold: allowed calls may still reveal time and load (side channels).
"""

from __future__ import annotations

import struct

from . import syscalls

LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06

ALLOW = 0x7FFF0000
KILL = 0x80000000
ASK_HOST = 0x7FC00000
EPERM, ENOSYS = 1, 38

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_GROWSDOWN = 0x01, 0x100
CLONE_VM, CLONE_THREAD = 0x100, 0x10000
# Every namespace, plus CLONE_PTRACE, CLONE_VFORK, CLONE_PARENT and CLONE_UNTRACED.
CLONE_FORBIDDEN = 0x7E020080 | 0x2000 | 0x4000 | 0x8000 | 0x800000
F_DUPFD_CLOEXEC, F_GETFD, F_GETFL = 1030, 1, 3
PR_SET_NAME, PR_SET_SECCOMP = 15, 22

Instruction = tuple[int, int, int, int]


class Filter:
    """The calls that one filter allows beyond the harmless ones.

    Attributes:
        machine: The table of ``syscalls`` to use.
        receive_on: Descriptors on which ``recvmsg`` may receive messages (and descriptors).
        send_on: Descriptors on which ``sendmsg`` may be used.
        fork: "ask" sends forks and new threads to the host's supervisor; "allow" and "refuse" decide about forks
            directly, and allow every thread.
        stack: Whether one more filter may be added later (only without a supervisor).
    """

    def __init__(
        self,
        machine: str,
        receive_on: tuple[int, ...] = (),
        send_on: tuple[int, ...] = (),
        *,
        fork: str = "ask",
        stack: bool = False,
    ) -> None:
        self.machine = machine
        self.receive_on = receive_on
        self.send_on = send_on
        self.fork = fork
        self.stack = stack


def errno_action(number: int = EPERM) -> int:
    """Return the filter result that fails the call with this errno."""
    return 0x00050000 | number


def assemble_filter(rules: Filter) -> bytes:
    """Return the program for ``rules``, ready for the kernel."""
    code = _machine_check(rules.machine)
    for name in syscalls.HARMLESS:
        number = syscalls.call_number(syscalls.HARMLESS, name, rules.machine)
        if number is not None:
            code += _when_called(number, [(RETURN, 0, 0, ALLOW)])
    for name, body in _guarded_rules(rules).items():
        number = syscalls.call_number(syscalls.GUARDED, name, rules.machine)
        assert number is not None
        code += _when_called(number, body)
    for name in syscalls.FATAL:
        number = syscalls.call_number(syscalls.FATAL, name, rules.machine)
        assert number is not None
        code += _when_called(number, [(RETURN, 0, 0, KILL)])
    code.append((RETURN, 0, 0, errno_action()))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _machine_check(machine: str) -> list[Instruction]:
    code = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, syscalls.AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
    ]
    if machine == syscalls.X86_64:
        code += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, KILL)]  # the x32 table
    return code


def _when_called(number: int, body: list[Instruction]) -> list[Instruction]:
    return [(EQUAL, 0, len(body), number), *body]


def _load_argument(index: int) -> Instruction:
    """Load the low half of an argument, which holds every value tested here."""
    return (LOAD, 0, 0, 16 + 8 * index)


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow the call if the argument is one of ``values``, else refuse it."""
    code = [_load_argument(index)]
    for position, value in enumerate(values):
        code.append((EQUAL, len(values) - position, 0, value))
    return [*code, (RETURN, 0, 0, errno_action()), (RETURN, 0, 0, ALLOW)]


def _guarded_rules(rules: Filter) -> dict[str, list[Instruction]]:
    no = (RETURN, 0, 0, errno_action())
    yes = (RETURN, 0, 0, ALLOW)
    return {
        # Shared and downward-growing maps would escape RLIMIT_DATA.
        "mmap": [
            _load_argument(2),
            (ANY_BIT, 3, 0, PROT_EXEC),
            _load_argument(3),
            (ANY_BIT, 1, 0, MAP_SHARED | MAP_GROWSDOWN),
            yes,
            no,
        ],
        # RLIMIT_DATA counts only writable pages, so filled pages must stay writable. The C library only needs to make
        # reserved pages writable, for thread stacks and heaps.
        "mprotect": _one_of(2, (PROT_READ | PROT_WRITE,)),
        "clone": _clone_rules(rules.fork),
        # Its arguments are in memory, which a filter cannot read: make glibc fall back to clone.
        "clone3": [(RETURN, 0, 0, errno_action(ENOSYS))],
        "fcntl": _one_of(1, (F_DUPFD_CLOEXEC, F_GETFD, F_GETFL)),
        "prlimit64": _one_of(0, (0,)),  # only for itself; a hard limit can only be lowered
        "sendmsg": _one_of(0, rules.send_on) if rules.send_on else [no],
        "recvmsg": _one_of(0, rules.receive_on) if rules.receive_on else [no],
        "prctl": _one_of(0, (PR_SET_NAME, PR_SET_SECCOMP) if rules.stack else (PR_SET_NAME,)),
    }


def _clone_rules(fork: str) -> list[Instruction]:
    """Decide about threads and forks, and refuse anything between (vfork, shared memory without thread)."""
    verdict = {"ask": ASK_HOST, "allow": ALLOW, "refuse": errno_action()}[fork]
    thread = ASK_HOST if fork == "ask" else ALLOW
    return [
        _load_argument(0),
        (ANY_BIT, 5, 0, CLONE_FORBIDDEN),
        (AND, 0, 0, CLONE_THREAD | CLONE_VM),
        (EQUAL, 2, 0, CLONE_THREAD | CLONE_VM),
        (EQUAL, 0, 2, 0),
        (RETURN, 0, 0, verdict),
        (RETURN, 0, 0, thread),
        (RETURN, 0, 0, errno_action()),
    ]
