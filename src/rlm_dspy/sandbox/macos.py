"""macOS: Apple's Seatbelt confines the zygote. Written from the documentation, untested here.

Holds, by the profile: no file but Python's own library, no network, no process, no signal to others.
Does not hold: forks are not mediated (so there are no checkpoints), and memory limits are advisory.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

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


def profile() -> str:
    """Return the Seatbelt profile for this interpreter: it may read its own library and nothing else."""
    folders = {sys.base_prefix, sysconfig.get_path("stdlib"), str(Path(__file__).parent), "/usr/lib", "/System/Library"}
    readable = " ".join(f"(subpath {_quoted(folder)})" for folder in sorted(folders))
    return PROFILE.format(executable=_quoted(str(Path(sys.executable).resolve())), readable=readable)


def wrap(command: list[str]) -> list[str]:
    """Return the command that runs ``command`` under the profile."""
    return [SANDBOX_EXEC, "-p", profile(), *command]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
