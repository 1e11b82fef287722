"""Run the command as on a platform without what only POSIX has: python as_windows.py [ARGUMENTS].

The libraries are imported first, since theirs is another matter. ``msvcrt`` is a stand-in that refuses the second lock.
Without arguments, each line of stdin is a JSON object: ``arguments`` and ``folder`` of a process of its own, which is
forked here, so that the libraries are imported once. When it has ended, its exit code is printed; its output is in the
folder's files ``stdout`` and ``stderr``.
"""

import asyncio  # noqa: F401
import json
import mmap
import os
import select
import shutil
import signal
import socket
import ssl
import sys
import types

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import click  # noqa: F401
import dspy  # noqa: F401
import litellm  # noqa: F401
import pydantic_settings  # noqa: F401
import urllib3.util.wait

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "readline", "syslog", "curses"}
NAMES = {
    os: "fork forkpty register_at_fork getuid geteuid getgid memfd_create MFD_CLOEXEC pread pwrite set_blocking "
    "O_NONBLOCK O_NOFOLLOW O_CLOEXEC O_DIRECTORY sched_getaffinity pidfd_open killpg setsid mkfifo statvfs sysconf",
    select: "poll epoll",
    socket: "AF_UNIX SCM_RIGHTS",
    signal: "SIGKILL SIGSTOP SIGCONT SIGUSR1 SIGXCPU SIGALRM SIGHUP SIGPIPE pidfd_send_signal setitimer",
    mmap: "MAP_PRIVATE MAP_SHARED PROT_READ PROT_WRITE",
}
locked: set[tuple[int, int]] = set()


class Refuser:
    """Finds none of the modules that Windows lacks."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Refuse a module of POSIX."""
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def lock_byte(descriptor: int, mode: int, count: int) -> None:
    """Do as msvcrt.locking, for as long as this process lives."""
    key = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
    if key in locked:
        raise PermissionError(13, "Permission denied")
    locked.add(key)


def become_windows() -> None:
    """Take away what Windows does not have."""
    urllib3.util.wait.wait_for_socket = urllib3.util.wait.select_wait_for_socket
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Refuser)
    for module, names in NAMES.items():
        for name in names.split():
            delattr(module, name)
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lock_byte)
    ssl.enum_certificates = lambda store: []  # Windows has these two
    shutil._winapi = types.SimpleNamespace(NeedCurrentDirectoryForExePath=lambda command: False)
    sys.platform = "win32"


def run(arguments: list[str]) -> int:
    """Run the command, or code after -c, without what Windows lacks."""
    become_windows()
    if arguments[0] == "-c":
        exec(arguments[1], {"__name__": "__main__"})
        return 0
    from rlm_dspy.cli import main

    return main(arguments) or 0


def run_forked(folder: str, arguments: list[str]) -> int:
    """Run as a child process, with its home in the folder."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.chdir(folder)
    os.environ["RLM_DSPY_HOME"] = f"{folder}/home"
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.exit(run(arguments))


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(run(sys.argv[1:]))
    for line in sys.stdin:
        print(run_forked(**json.loads(line)), flush=True)
