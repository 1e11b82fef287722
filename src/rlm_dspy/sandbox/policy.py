"""Choose the isolation for a platform, with pure functions that the tests run for every platform."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .worker import syscalls

Isolation = Literal["strong", "best-effort", "none"]
Checkpoint = Literal["auto", "always", "never"]
Backend = Literal["linux", "macos", "plain", "wasm", "refuse"]

ISOLATIONS = ("strong", "best-effort", "none")
CHECKPOINTS = ("auto", "always", "never")


@dataclass(frozen=True)
class Choice:
    """The backend for a platform, and the reason."""

    backend: Backend
    reason: str


def choose(platform: str, machine: str, isolation: Isolation) -> Choice:
    """Return the backend for ``sys.platform`` and ``platform.machine()``; never weaker than requested.

    "linux" confines natively, "macos" uses Seatbelt, "plain" is a process without confinement, "wasm" means
    DSPy's ``PythonInterpreter``, "refuse" that nothing here satisfies the request.
    """
    if isolation == "none" and platform not in ("win32", "cygwin", "emscripten", "wasi"):
        return Choice("plain", "isolation='none' was asked for")
    if platform.startswith("linux"):
        return _choose_linux(machine, isolation)
    if platform == "darwin":
        return Choice("macos", "Seatbelt profile and resource limits; no fork control, no checkpoints")
    return Choice("wasm", f"no native isolation is known for {platform}")


def _choose_linux(machine: str, isolation: Isolation) -> Choice:
    if syscalls.canonical_machine(machine) is not None:
        return Choice("linux", "seccomp, Landlock and namespaces")
    if isolation == "strong":
        return Choice("refuse", f"there is no system call table for {machine}")
    return Choice("linux", f"without seccomp: there is no system call table for {machine}")


def missing_layers(report: Mapping[str, Any]) -> str | None:
    """Return what a zygote's own report lacks for "strong" isolation, None if nothing.

    Strong means: the system call filter, no new privileges, and one more independent layer, Landlock or
    namespaces. Forks need no check: with the filter the host controls them, or each worker gives them up.
    """
    missing = []
    if report.get("seccomp") is not True:
        missing.append(f"seccomp ({_failure_reason(report, 'seccomp')})")
    if report.get("no_new_privs") is not True:
        missing.append(f"no_new_privs ({_failure_reason(report, 'no_new_privs')})")
    if report.get("landlock") is not True and report.get("namespaces") is not True:
        why = f"{_failure_reason(report, 'landlock')}, {_failure_reason(report, 'namespaces')}"
        missing.append(f"Landlock or namespaces ({why})")
    return "; ".join(missing) or None


def _failure_reason(report: Mapping[str, Any], layer: str) -> str:
    value = report.get(layer)
    if value is None or value is False:
        return "not tried"
    return str(value)


def unsupported_message(reason: str) -> str:
    """Return the message for an unsupported platform."""
    return (
        f"{reason}. Run it in WSL (Windows) or in Docker, where the native sandbox works, or use "
        "interpreter_factory=dspy.PythonInterpreter (WASM, which needs Deno)."
    )


def unavailable_message(lacking: str) -> str:
    """Return the message for a machine that lacks the requested isolation."""
    return (
        f"isolation='strong' is not available here: missing {lacking}. Run where the kernel allows it (Linux 5.13 or "
        "newer; in Docker, a seccomp profile that permits seccomp and landlock), or pass "
        "isolation='best-effort' for the layers available, or use interpreter_factory=dspy.PythonInterpreter."
    )


ENDED_AT_START = (
    "the sandbox's process ended while it was starting. A limit of this machine on CPU time, memory or processes may "
    "end it: see `ulimit -a`."
)

SANDBOX_EXEC = "/usr/bin/sandbox-exec"

PROFILE = """(version 1)
(deny default)
(allow process-fork)
(allow process-exec (literal {executable}))
(allow sysctl-read)
(allow signal (target self))
(allow file-read-metadata)
(allow file-read* {readable} (literal "/dev/null") (literal "/dev/urandom") (literal "/dev/random"))
(allow file-write-data (literal "/dev/null"))
(deny network*)
(deny mach-lookup)
"""


def seatbelt_profile() -> str:
    """Return the Seatbelt profile for this interpreter, which allows it to read only its own library."""
    folders = {sys.base_prefix, sysconfig.get_path("stdlib"), str(Path(__file__).parent), "/usr/lib", "/System/Library"}
    readable = " ".join(f"(subpath {_quoted_text(folder)})" for folder in sorted(folders))
    return PROFILE.format(executable=_quoted_text(str(Path(sys.executable).resolve())), readable=readable)


def confined_command(command: list[str]) -> list[str]:
    """Return the command that runs ``command`` under the profile."""
    return [SANDBOX_EXEC, "-p", seatbelt_profile(), *command]


def _quoted_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
