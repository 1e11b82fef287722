"""Feeds either end of a session with hostile frames. As a script: ``python fuzz.py 1000000``."""

import contextlib
import json
import random
import socket
import sys
import time
from collections import Counter

from rlm_dspy.sandbox.cell import Cell
from rlm_dspy.sandbox.link import Link, parse_frame
from rlm_dspy.sandbox.process import ProtocolError, WorkerGoneError

PID = 4242


class Tape(Link):
    """A link whose worker is a socket that we write to."""

    def __init__(self):
        self.generation, self.blocked, self.standbys, self.taken = 0, False, 0, 0
        self._incoming, self._channel, self._far = {}, None, None
        self.renew()

    def renew(self):
        """Begin with a new worker, as the host does after a breach."""
        from collections import deque
        from threading import Event, Lock
        from types import SimpleNamespace

        self.let_go()
        self._channel, self._far = socket.socketpair()
        self._far.setblocking(False)
        self._channel.setblocking(False)
        self._incoming, self._frames, self._writing = {}, deque(), Lock()
        self._awake = Event()
        self._awake.set()
        self.active = SimpleNamespace(pid=PID, descriptor=-1, signal=lambda number: None)
        self.zygote = SimpleNamespace(pid=PID, group=-1)
        self.standby = None
        self._renew_poll()

    def let_go(self):
        for end in (self._channel, self._far):
            if end is not None:
                end.close()

    def adopt(self, pid, serial):
        raise ProtocolError("a copy from nowhere")


class Now:
    """Threads that serve at once."""

    @staticmethod
    def takes(weight):
        return True

    @staticmethod
    def submit(task, weight=0):
        task()


def frame(body):
    return len(body).to_bytes(4, "little") + body


SEEDS = [
    {"t": "result", "n": 1, "out": "x", "err": "", "cut": False, "names": ["a"], "copies": 0},
    {"t": "call", "id": 1, "name": "tool", "a": [{"$": "int", "v": "0xff"}], "k": {"x": {"$": "set", "v": [1]}}},
    {"t": "standby", "n": 1, "after": True},
    {"t": "hello"},
    {"t": "resumed"},
]


def hostile(chance, seeds=SEEDS):
    """Return bytes of a frame, or of what pretends to be one."""
    body = bytearray(json.dumps(chance.choice(seeds)).encode())
    how = chance.random()
    if how < 0.5:
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.choice(b'{}[]",:0129tfn\\$\x00\xff')
    elif how < 0.7:
        at = chance.randrange(len(body))
        body[at:at] = chance.choice(
            [b"[" * 2000, b'{"$":', b"9" * 5000, b"NaN", b'"\\ud800"', b"1e999", b"-0", b"null"]
        )
    elif how < 0.8:
        return chance.randbytes(chance.randint(1, 64))
    elif how < 0.85:
        return chance.choice([2**32 - 1, 2**25 + 1, 2**31]).to_bytes(4, "little") + bytes(body)
    return frame(bytes(body))


COMMANDS = [
    {"t": "exec", "n": 1, "code": "tool()", "cpu": 2.0, "save": False, "always": False, "renew": False, "vars": []},
    {"t": "exec", "n": 2, "code": "x = 1", "cpu": 2.0, "save": True, "always": True, "renew": True, "vars": [],
     "tools": ["tool"], "fields": ["answer"], "main": "text"},
    {"t": "exec", "n": 3, "code": "text", "cpu": 2.0, "save": False, "always": False, "renew": False,
     "vars": [{"name": "text", "kind": "text", "width": 1, "chars": 9, "ascii": True, "size": 10}]},
    {"t": "ret", "id": 1, "v": {"$": "int", "v": "0xff"}},
    {"t": "ret", "id": 1, "e": {"name": "ValueError", "text": "x"}},
    {"t": "keep", "n": 4},
]  # fmt: skip


def torment(link, chance, count):
    """Feed a worker with hostile commands and end its input; return (how many, whether it ended, frames it wrote)."""
    link.resume(forks=0)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < count:
            honest = chance.random() < 0.6  # a worker that has done something is in another state than a fresh one
            whole = frame(json.dumps(chance.choice(COMMANDS)).encode())
            link._channel.sendall(whole if honest else hostile(chance, COMMANDS))
            sent += 1
        link._channel.shutdown(socket.SHUT_WR)
    written, ends, limit = [], 0, time.monotonic() + 20
    while ends < 2 and time.monotonic() < limit:  # a first error may come before what was written earlier
        try:
            found = link.receive(time.monotonic() + 0.5)
        except WorkerGoneError:
            ends += 1
        except ProtocolError:  # it may say back what it was told, NaN for a number too
            written.append("refused")
        else:
            written += [found[1]["t"]] if found is not None else []
    return sent, ends > 0, written


def drain(tape):
    """Read the answers, as a worker would."""
    with contextlib.suppress(BlockingIOError):
        tape._far.recv(1 << 16)


def fuzz(count, seed=0):
    """Play ``count`` hostile frames against the host and count how each ended; nothing else may be raised."""
    chance = random.Random(seed)
    tape, ends = Tape(), Counter()
    tools = {"tool": lambda *a, **k: None}
    for _ in range(count):
        cell = Cell(tape, Now, tools, 1, 1.0)
        try:
            tape._far.send(hostile(chance))
            tape._read_frames()
            while tape._frames:
                pid, body = tape._frames.popleft()
                message = parse_frame(body)
                ends[
                    "result" if cell._handle_message(pid, message) else "call" if message["t"] == "call" else "other"
                ] += 1
            if tape._incoming[PID]:
                ends["incomplete"] += 1
                tape.renew()
            drain(tape)
        except (ProtocolError, WorkerGoneError) as error:
            ends[type(error).__name__] += 1
            tape.renew()
    tape.let_go()
    return ends


if __name__ == "__main__":
    began = time.perf_counter()
    total = int(sys.argv[1])
    print(dict(fuzz(total)), f"{total:,} frames in {time.perf_counter() - began:.0f} s, no crash and no hang")
