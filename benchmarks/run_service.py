"""Load the service of examples/: 200 clients at once against a fake model server on loopback.

    python benchmarks/run_service.py [--clients 200] [--delay 0.2] [--at-once 16]

Prints how many questions were answered, the throughput, the latencies, and what the service used at its peak.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
LOOK = "[[ ## reasoning ## ]]\nlook\n\n[[ ## code ## ]]\n```python\nprint(grep('code')[:3])\n```\n"
SUBMIT = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\n```python\nSUBMIT(answer='4711', evidence=[])\n```\n"


class Model(ThreadingHTTPServer):
    """Answers chat completions after a delay: first a look, then the answer."""

    daemon_threads = True
    request_queue_size = 512
    calls = 0

    def __init__(self, delay: float) -> None:
        self.delay = delay
        super().__init__(("127.0.0.1", 0), ModelHandler)


class ModelHandler(BaseHTTPRequestHandler):
    """One request of the fake model server."""

    protocol_version = "HTTP/1.1"
    server: Model

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay)
        self.server.calls += 1
        said = SUBMIT if len(body["messages"]) > 2 else LOOK
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


async def ask_once(client: httpx.AsyncClient, number: int) -> tuple[str, float]:
    """Return the last event of a question, and its seconds."""
    started, last = time.perf_counter(), "nothing"
    try:
        async with client.stream("POST", "/ask", json={"question": f"What is the code ({number})?"}) as reply:
            async for line in reply.aiter_lines():
                last = line.removeprefix("event: ") if line.startswith("event: ") else last
    except httpx.HTTPError as error:
        last = type(error).__name__
    return last, time.perf_counter() - started


async def watch_process(process: psutil.Process, peaks: dict[str, float]) -> None:
    """Keep the peak of memory and of processes of the service and its children."""
    while True:
        tree = [process, *process.children(recursive=True)]
        size = 0.0
        for one in tree:
            try:
                info = one.memory_full_info() if len(tree) < 64 else one.memory_info()
                size += getattr(info, "pss", info.rss) / 2**20
            except psutil.Error:
                continue
        peaks["processes"] = max(peaks.get("processes", 0), len(tree))
        peaks["MB"] = max(peaks.get("MB", 0), size)
        await asyncio.sleep(0.25)


async def load_service(url: str, clients: int, pid: int) -> None:
    """Ask all questions at once and print the figures."""
    peaks: dict[str, float] = {}
    watcher = asyncio.create_task(watch_process(psutil.Process(pid), peaks))
    started = time.perf_counter()
    limits = httpx.Limits(max_connections=clients + 1)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        found = await asyncio.gather(*(ask_once(client, number) for number in range(clients)))
        seconds = time.perf_counter() - started
        metrics = (await client.get("/metrics")).text
    watcher.cancel()
    ends = sorted(last for last, _ in found)
    times = sorted(taken for _, taken in found)
    print({end: ends.count(end) for end in dict.fromkeys(ends)})
    print(f"{clients} questions in {seconds:.1f} s = {clients / seconds:.1f} a second")
    print(f"seconds of a question: median {times[len(times) // 2]:.1f}, last {times[-1]:.1f}")
    print(f"peak: {peaks.get('MB', 0):,.0f} MB, {peaks.get('processes', 0):.0f} processes")
    print(metrics)


def main() -> None:
    """Start both servers and load the service."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0.2)
    parser.add_argument("--at-once", type=int, default=16)
    args = parser.parse_args()
    model = Model(args.delay)
    Thread(target=model.serve_forever, daemon=True).start()
    port = free_port()
    environ = {
        **os.environ,
        "OPENAI_API_BASE": f"http://127.0.0.1:{model.server_address[1]}/v1",
        "OPENAI_API_KEY": "none",
        "RLM_DSPY_MODEL": "openai/m",
        "RLM_DSPY_CORPUS": str(ROOT / "docs"),
        "SERVICE_MAX_AT_ONCE": str(args.at_once),
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples"), "service:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, env=environ) as service:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                httpx.get(f"{url}/health", timeout=2)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        asyncio.run(load_service(url, args.clients, service.pid))
        service.terminate()
    print(f"{model.calls} calls of the model")


if __name__ == "__main__":
    main()
