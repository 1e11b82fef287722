"""Losses when many runs meet hostile cells and broken servers at once, and when commands are killed.

    python benchmarks/run_endurance.py [--runs 3000] [--threads 64] [--kills 40]       prints Markdown tables

A loopback server answers every second request correctly, and the others with one of its faults. Every reply is a cell:
some submit at once, the others first loop, fill the memory, crash the worker, fork, start threads, flood the output or
patch the library. A run may end with an answer or with an error that names who must act; anything else is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import psutil
from dspy.utils.exceptions import LMError

import rlm_dspy

LIMIT = 25.0  # seconds of a run
IN_FLIGHT_SECONDS = 0.3  # an answer that was sent so shortly before a kill may not have been stored
SUBMIT = "SUBMIT(answer='done')"
CELLS = (
    SUBMIT,
    "print(len(context))\n" + SUBMIT,
    "while True: pass",
    "x = bytearray(2 << 30)",
    "import ctypes; ctypes.string_at(0)",
    "import os\nfor _ in range(50): os.fork()",
    "import threading\nfor _ in range(6000): threading.Thread(target=threading.Event().wait).start()",
    "print('x' * 50_000_000)",
    "import json, ast\njson.dumps = ast.walk = None",
    "import builtins; vars(builtins).clear()",
    "SUBMIT(answer=[[]] * 10_000_000)",
    "SUBMIT(answer='9' * 30_000_000)",
    "from decimal import Decimal\nSUBMIT(answer=Decimal('1E+999999999'))",
    "def f(): f()\nf()",
    "raise SystemExit(3)",
    "llm_query('a')\n" + SUBMIT,
)


def completion(text: str, **changes: object) -> bytes:
    """Return the JSON of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 2_000, "completion_tokens": 20, "total_tokens": 2_020}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice], "usage": usage}
    return json.dumps({**body, **changes}).encode()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return the bytes of an HTTP response."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close"]).encode() + b"\r\n\r\n" + body


GOOD = completion("```python\nSUBMIT(answer='done')\n```")
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
FAULTS: tuple[bytes, ...] = (
    b"", b"\x15\x03\x01\x00\x02\x02\x28", b"SSH-2.0-OpenSSH_9.6\r\n", b"220 mail ESMTP\r\n", CHUNKED + b"ZZZ\r\n",
    CHUNKED + b"ff\r\nabc", response(GOOD)[:80], response(GOOD)[:200], response(GOOD, *["X: 1"] * 500),
    response(GOOD, "X: " + "a" * 100_000), response(b"no gzip", "Content-Encoding: gzip"),
    response(gzip.compress(GOOD)[:40], "Content-Encoding: gzip"),
    response(gzip.compress(b" " * (80 << 20)), "Content-Encoding: gzip"), response(GOOD.replace(b"done", b"\xff")),
    response(b"", "Location: http://192.0.2.1/", status="307 Temporary Redirect"),
    response(b"", status="302 Found"), response(b""), response(b"null"), response(b"[]"), response(b"<html></html>"),
    response(b'{"error": "broken"}'), response(b'{"error": {"message": "slow", "code": 429}}'),
    response(completion("a", usage=None)), response(completion("a", usage={"prompt_tokens": -5})),
    response(completion("a", usage={"prompt_tokens": "many"})), response(completion("a", choices=[])),
    response(completion("a", choices=None)), response(completion("")), response(completion("no code")),
    response(b"[" * 100_000), response(GOOD.replace(b"2000", b"9" * 5_000)),
    response(b'{"error": {"message": "key"}}', status="401 Unauthorized"), response(b"", status="403 Forbidden"),
    response(b"<html></html>", status="404 Not Found"), response(b"", status="413 Too Large"),
    response(b"", "Retry-After: 99999", status="429 Too Many"), response(b"", "Retry-After: 0", status="429 Too Many"),
    response(b"", status="500 Error"), response(b"<html></html>", status="502 Bad Gateway"),
    response(b"", "Retry-After: -1", status="503 Unavailable"),
)  # fmt: skip


class Server:
    """Answers chat completions; ``faulty`` is the share of replies that it breaks.

    ``steps`` are the cells of each run, one for each step; without them the first is one of CELLS.
    """

    def __init__(self, faulty: float, steps: tuple[str, ...] = (), delay: float = 0.0) -> None:
        self.faulty = faulty
        self.steps = steps
        self.delay = delay
        self.bodies: list[bytes] = []
        self._answers: list[tuple[float, bytes]] = []  # when each request was answered
        self._chance = random.Random(1)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.settimeout(30)
                request = read_request(peer)
                if request.startswith("GET"):
                    peer.sendall(response(b'{"data": [{"id": "x"}]}'))
                    return
                body = hashlib.sha256(request.partition("\r\n\r\n")[2].encode()).digest()
                self.bodies.append(body)
                time.sleep(self.delay)
                if self._chance.random() < self.faulty:
                    peer.sendall(self._chance.choice(FAULTS))
                    return
                cell = self._next_cell(request.replace(": ", ":").count('"role":"assistant"'))
                peer.sendall(response(completion(f"```python\n{cell}\n```")))
                self._answers.append((time.monotonic(), body))
        except OSError:
            return

    def _next_cell(self, step: int) -> str:
        if self.steps:
            return self.steps[min(step, len(self.steps) - 1)]
        # The second step of a run submits, so that damage by the first one does not decide.
        return SUBMIT if step else self._chance.choice(CELLS)

    def answered(self, before: float) -> list[bytes]:
        """Return the digests of the requests that were answered before a moment."""
        return [body for moment, body in self._answers if moment < before]


def read_request(peer: socket.socket) -> str:
    """Return a complete request."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := peer.recv(65_536)):
            return ""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += peer.recv(65_536)
    return (head + b"\r\n\r\n" + body).decode("utf-8", "replace")


def run_many(count: int, threads: int) -> None:
    """Run everything, and print the outcomes."""
    server = Server(faulty=0.25)
    model = rlm_dspy.lm("openai/x", api_base=server.url, api_key="sk-0000000000", cache=False, num_retries=1)
    kinds: Counter[str] = Counter()
    late: list[float] = []
    lost: list[str] = []

    def one(number: int) -> None:
        started = time.monotonic()
        try:
            with dspy.context(lm=model, disable_history=True, trace=None):  # by default DSPy keeps 10,000 calls of each
                sandbox = lambda: rlm_dspy.Sandbox(timeout=2.0, memory_mb=256)  # noqa: E731
                rlm = rlm_dspy.RLM("context, question -> answer", max_seconds=LIMIT, max_iters=4)
                run = rlm(interpreter_factory=sandbox, context="some text\n" * 200, question=f"number {number}?").run
            kinds[run.status] += 1
        except (rlm_dspy.RLMError, LMError) as error:
            kinds[f"error: {type(error).__name__}"] += 1
        except Exception as error:  # any other error is a loss that this benchmark reports
            lost.append(f"{type(error).__name__}: {str(error)[:200]}")
        if (took := time.monotonic() - started) > LIMIT * 1.2:
            late.append(took)

    process = psutil.Process()

    def state() -> tuple[int, int, float]:
        return process.num_fds(), threading.active_count(), process.memory_info().rss / 1e6

    first = min(count, max(200, count // 5))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(first)))
    before = state()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(first, count)))
    after = state()
    growth = (after[2] - before[2]) / max(1, count - first) * 100
    print(f"{count} runs on {threads} threads, {len(FAULTS)} faults, {len(CELLS)} cells: {dict(kinds)}\n")
    print("| lost | beyond limit × 1.2 | descriptors | threads | MB per 100 runs |\n| --- | --- | --- | --- | --- |")
    print(f"| {len(lost)} | {len(late)} | {after[0] - before[0]:+} | {after[1] - before[1]:+} | {growth:.2f} |\n")
    for line, times in Counter(lost).most_common(10):
        print(f"- lost {times}: {line}")


# Each command as it is started, and what its user adds to resume it.
KILLED = {
    "ask": (["ask", "which is item 001?", "text.txt", "--mode", "rlm", "--max-iters", "8"], []),
    "chat": (["chat", "text.txt", "--mode", "rlm", "--max-iters", "8"], []),
    "batch": (["batch", "questions.jsonl", "text.txt", "--mode", "rlm", "--out", "answers.jsonl"], ["--resume"]),
    "eval": (["eval", "data.jsonl", "--compare", "rlm,direct"], []),
    "optimize": (["optimize", "data.jsonl", "--optimizer", "bootstrap", "--max-calls", "400", "-y"], ["--resume"]),
}
ENDINGS = (0, 3, 7)  # answered; a limit ended it; nothing was found
QUESTIONS = [f"which is item {number:03}?" for number in range(12)]


def kill_commands(times: int) -> None:
    """Kill each command at a random point and resume it; count model calls that are answered and paid for twice."""
    chance = random.Random(2)
    print("| command | kills | calls answered before | of these paid for twice | did not finish |")
    print("| --- | --- | --- | --- | --- |")
    for name, (arguments, resuming) in KILLED.items():
        answered = twice = unfinished = killed = 0
        for _ in range(times):
            was_killed, done, again, ending = kill_once(arguments, resuming, chance.randrange(12), chance.random())
            killed += was_killed
            answered += done
            twice += again
            unfinished += ending not in ENDINGS
        print(f"| {name} | {killed} | {answered} | {twice} | {unfinished} |", flush=True)


def kill_once(arguments: list[str], resuming: list[str], calls: int, seconds: float) -> tuple[bool, int, int, int]:
    """Kill a command so many seconds after its model has been called so many times, and resume it.

    Returns:
        Whether it still ran, the calls answered by then, those asked again, and the last exit code.
    """
    fields = "answer='done'" if arguments[0] in ("eval", "optimize") else "answer='done', evidence=[]"
    looks = [f"print({number} + len(str(context)))" for number in range(3)]
    server = Server(faulty=0.0, steps=(*looks, f"SUBMIT({fields})"), delay=0.2)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        (folder / "text.txt").write_text("some text\n" * 50)
        (folder / "questions.jsonl").write_text("\n".join(json.dumps({"question": one}) for one in QUESTIONS) + "\n")
        rows = [{"question": one, "answer": "done", "context": "some text\n" * 50} for one in QUESTIONS]
        (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        keys = {"OPENAI_API_KEY": "sk-0000000000", "OPENAI_API_BASE": server.url, "RLM_DSPY_MODEL": "openai/x"}
        env = {**os.environ, **keys, "HOME": home, "RLM_DSPY_HOME": home, "DSPY_CACHEDIR": f"{home}/dspy"}
        command = [sys.executable, "-m", "rlm_dspy", *arguments, "-q"]
        lines = "\n".join(QUESTIONS[:3]) + "\n"
        child = subprocess.Popen(
            command,
            cwd=home,
            env=env,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        child.stdin.write(lines)  # type: ignore[union-attr]
        child.stdin.close()  # type: ignore[union-attr]
        while child.poll() is None and len(server.bodies) < calls:
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        was_killed = child.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        before = Counter(server.answered(before=time.monotonic() - IN_FLIGHT_SECONDS))
        asked = len(server.bodies)
        ended = subprocess.run(
            [*command, *resuming], cwd=home, env=env, input=lines, text=True, check=False, stdout=subprocess.DEVNULL
        )
        again = Counter(body for body in server.bodies[asked:])
        return was_killed, before.total(), (before & again).total(), ended.returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3_000)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--kills", type=int, default=40)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("rlm_dspy").setLevel(logging.ERROR)
    if options.runs:
        run_many(options.runs, options.threads)
    if options.kills:
        kill_commands(options.kills)
