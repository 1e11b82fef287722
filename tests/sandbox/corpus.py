"""Runs the attack corpus inside sandboxes beside four canaries and tells what was exposed or died."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlm_dspy.sandbox import Sandbox, cell, zygote_host
from sandbox.attacks import ATTACKS, PRELUDE

SECRET = "SECRET-" + os.urandom(8).hex()
TIMEOUT = 0.3
NOBODY = 65534
BLUNDER = re.compile("(Attribute|Name|Key|Index|UnboundLocal|NotImplemented)Error")


@dataclass
class Result:
    """What the whole corpus came to."""

    user: int
    payloads: int = 0
    problems: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)


@dataclass
class Canaries:
    """A file, a listener and a process that must not notice anything; the secret is in all, and in the environment."""

    file: Path
    listener: socket.socket
    victim: subprocess.Popen

    def variables(self):
        return {
            "canary": str(self.file),
            "port": self.listener.getsockname()[1],
            "victim": self.victim.pid,
            "host": os.getpid(),
            "library": os.path.dirname(os.__file__),
        }

    def harmed(self):
        if self.victim.poll() is not None:
            return "the victim died"
        if (
            not self.file.exists()
            or self.file.read_text() != SECRET
            or sorted(os.listdir(self.file.parent)) != ["canary"]
        ):
            return "the file was touched"
        if self.file.stat().st_mode & 0o777 != 0o666:
            return "the file's mode was changed"
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return None
        return "the listener was reached"


@contextmanager
def canaries():
    os.environ["CANARY"] = SECRET
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        os.chmod(folder, 0o777)
        file = Path(folder, "canary")
        file.write_text(SECRET)
        file.chmod(0o666)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        victim = subprocess.Popen(["sleep", "1000"], env={"CANARY": SECRET})
        try:
            yield Canaries(file, listener, victim)
        finally:
            victim.kill()
            victim.wait()
            del os.environ["CANARY"]


def attack(name, code, planted, tools=None, **options):
    """Run one payload in a sandbox of its own; return (what went wrong, how the cell ended)."""
    tools = {"tool": lambda *a, **k: 1, "slow": lambda: time.sleep(0.05), **(tools or {})}
    with Sandbox(tools=tools, memory_mb=128, max_output_chars=20_000, timeout=5.0, **options) as sandbox:
        done = sandbox.run(PRELUDE + code, planted.variables(), timeout=TIMEOUT)
        shown = f"{done.text}{done.final!r}"
        if SECRET in shown:
            return "the secret was shown", done.kind
        if "DONE" in done.stdout:
            return f"it succeeded: {done.stdout[:80]!r}", done.kind
        blunder = mistake(name.partition("/")[0], done.exception or "")
        if blunder:
            return f"it failed by its own mistake: {blunder}", done.kind
        if len(shown) > 100_000:
            return "the output is too long", done.kind
        after = next((told for told in (sandbox.run("print(42)") for _ in range(4)) if "42" in told.text), None)
        if after is None:
            return f"the session did not go on after {done.text[:300]!r}", done.kind
    return None, done.kind


def mistake(group, told):
    """Return the error of a payload that got no further than itself: what breaks the interpreter may end in any."""
    last = told.rstrip().rpartition("\n")[2][:200]
    refused = group != "imports" and "is not allowed in this sandbox" in last
    return last if group != "crashes" and (refused or BLUNDER.match(last)) else None


def hurry():
    """Wait less for what will not come; only the speed of refusals depends on these."""
    cell.GRACE_SECONDS = 0.2
    cell.COPY_SECONDS = cell.LATE_SECONDS = 1.0


def run_all(attacks=ATTACKS, harms=lambda planted: {}, **options):
    """Run every payload and return the result; ``harms`` gives tools by which a control exposes a canary itself."""
    result = Result(os.getuid())
    lock = threading.Lock()
    with canaries() as planted:

        def one(item):
            name, code = item
            wrong, kind = attack(name, code, planted, harms(planted), **options)
            with lock:
                result.payloads += 1
                result.kinds[kind] = result.kinds.get(kind, 0) + 1
                harm = planted.harmed()
                for problem in (wrong, harm):
                    if problem:
                        result.problems.append(f"{name}: {problem}")

        groups = reversed(attacks.items())  # those that wait for their time to run out come last there, and first here
        items = [(f"{group}/{name}", code) for group, cells in groups for name, code in cells.items()]
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(one, items))
    return result


def as_nobody(folder):
    """Run everything in a copy of this process that is an ordinary user, who can read only what is in ``folder``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become_nobody(folder)
            os.write(writing, json.dumps(run_all().__dict__).encode())
        except BaseException:
            os.write(writing, json.dumps({"problems": [traceback.format_exc()]}).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as told:
        result = told.read()
    os.waitpid(child, 0)
    return json.loads(result)


def become_nobody(folder):
    """Drop to an ordinary user, with the Python and the worker's files that were put into ``folder`` for it."""
    zygote_host.FOLDER = Path(folder, "sandbox")
    sys.executable = str(Path(folder, "start"))
    os.environ["HOME"] = tempfile.tempdir = "/tmp"
    os.chdir("/")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
