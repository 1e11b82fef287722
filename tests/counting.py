"""A model behind a socket that counts its answers, for tests that kill the asking process."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

from rlm_dspy.testing import AsyncScript, action

STEPS = 10


class Server:
    """Answers step by step, and keeps the number of each step that it answered."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self._more = threading.Condition()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
                step = int(prompt.rsplit("[step ", 1)[1].split("/")[0])
                code = f"x{step} = {step}\nprint(x{step})" if step < STEPS else "SUBMIT(answer='end')"
                with server._more:
                    server.answered.append(step)
                    server._more.notify_all()
                body = json.dumps({"reply": action(code)}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]

    def wait_for(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: len(self.answered) >= count, timeout=60)

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class Engine:
    """Asks the server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def complete(self, request: Request) -> Response:
        prompt = "\n".join(message.text or "" for message in request.messages)
        data = json.dumps({"prompt": prompt}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}", data, timeout=30) as reply:
            text = json.load(reply)["reply"]
        usage = Usage(input_tokens=10, output_tokens=10)
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)


def counting_lm(port: int) -> dspy.LM:
    """An LM over the server, with DSPy's disk cache."""
    engine = Engine(port)
    return dspy.LM("scripted/counting", engine=engine, async_engine=AsyncScript(engine), num_retries=0)
