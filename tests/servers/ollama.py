"""A fake Ollama: the chat, tags, show, ps and version end points, with windows, truncation and slots."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from itertools import accumulate
from typing import Any

from servers.wire import Fault, Server, send, send_stream, tokens

DEFAULT_NUM_CTX = 4096


class OllamaServer(Server):
    """Serves ``models`` (name -> {"window", "size", "modified_at", "family"}) and replies with ``reply``.

    ``rounds`` are numbers of streams that come together: none of a round ends before all that have a slot have begun,
    so that what overlaps is known whatever the machine is doing.
    """

    def __init__(
        self,
        *faults: Fault,
        models: dict[str, dict[str, Any]] | None = None,
        reply: str = "hello",
        thinking: str = "",
        parallel: int = 1,
        queue: int = 512,
        rounds: tuple[int, ...] = (),
    ) -> None:
        super().__init__(*faults)
        self.models = models or {"qwen3:8b": {}}
        self.turns = [(reply, "stop")]
        self.thinking = thinking
        self.busiest = 0
        self._slots = threading.Semaphore(parallel)
        ends = zip(rounds, accumulate(rounds), strict=True)
        self._together = [end - size + min(size, parallel) for size, end in ends for _ in range(size)]
        self._begun = 0
        self._beginning = threading.Condition()
        self._queue = queue
        self._waiting = 0
        self._counting = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        if path == "/api/chat":
            self._chat(handler, body)
        elif path == "/api/show":
            self._show(handler, body)
        elif path in self._lists:
            send(handler, 200, self._lists[path](self))
        else:
            send(handler, 404, "404 page not found")

    def _chat(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        if body["model"] not in self.models:
            send(handler, 404, {"error": f"model '{body['model']}' not found"})
            return
        if self.models[body["model"]].get("family") == "bert":
            send(handler, 400, {"error": f'"{body["model"]}" does not support chat'})
            return
        with self._counting:
            self._waiting += 1
            self.busiest = max(self.busiest, self._waiting)
            full = self._waiting > self._queue
        try:
            if full:
                busy = "server busy, please try again.  maximum pending requests exceeded"
                send(handler, 503, {"error": busy})
                return
            with self._slots:
                self._generate(handler, body)
        finally:
            with self._counting:
                self._waiting -= 1

    def _generate(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        window = (body.get("options") or {}).get("num_ctx") or DEFAULT_NUM_CTX
        sent = tokens(body["messages"])
        if sent > window and body.get("truncate") is False:
            send(handler, 400, {"error": "the input length exceeds the context length"})
            return
        text, finish = self.next_turn()
        final = {
            "model": body["model"],
            "created_at": _now(),
            "message": {"role": "assistant", "content": text, **({"thinking": self.thinking} if self.thinking else {})},
            "done": True,
            "done_reason": finish,
            "total_duration": 2_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": min(sent, window),  # the start of the prompt was dropped without a word
            "prompt_eval_duration": 500_000,
            "eval_count": max(1, len(text) // 4),
            "eval_duration": 500_000,
        }
        if body.get("stream", True):
            send_stream(handler, "application/x-ndjson", self._lines(final))
        else:
            send(handler, 200, final)

    def _lines(self, final: dict[str, Any]) -> Iterator[bytes]:
        words = re.findall(r"\s*\S+|\s+$", final["message"]["content"])
        said = [{"content": "", "thinking": self.thinking}] if self.thinking else []
        for part in [*said, *({"content": word} for word in words)]:
            row = {"model": final["model"], "created_at": _now(), "done": False}
            yield _line(row | {"message": {"role": "assistant", **part}})
        self._meet()
        yield _line(final | {"created_at": _now(), "message": {"role": "assistant", "content": ""}})

    def _meet(self) -> None:
        with self._beginning:
            number, self._begun = self._begun, self._begun + 1
            self._beginning.notify_all()
            if number < len(self._together):
                self._beginning.wait_for(lambda: self._begun >= self._together[number], timeout=30)

    def _show(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        model = self.models.get(body.get("model") or body.get("name"))
        if model is None:
            send(handler, 404, {"error": f"model '{body.get('model')}' not found"})
            return
        window, family = model.get("window", 40960), model.get("family", "qwen3")
        details = {"family": family, "parameter_size": model.get("parameters", "8.2B"), "format": "gguf"}
        info = {"general.architecture": family, f"{family}.context_length": window}
        capabilities = ["embedding"] if family == "bert" else ["completion", "tools"]
        send(handler, 200, {"details": details, "model_info": info, "capabilities": capabilities})

    def _tags(self) -> Any:
        return {
            "models": [
                {
                    "name": name,
                    "model": name,
                    "modified_at": model.get("modified_at", "2026-01-01T00:00:00Z"),
                    "size": model.get("size", 5_000_000_000),
                    "details": {
                        "family": model.get("family", "qwen3"),
                        "parameter_size": model.get("parameters", "8.2B"),
                    },
                }
                for name, model in self.models.items()
            ]
        }

    def _ps(self) -> Any:
        chats = [seen.body for seen in self.posts if seen.path == "/api/chat"]
        loaded = {
            body["model"]: (body.get("options") or {}).get("num_ctx") or DEFAULT_NUM_CTX
            for body in chats
            if body["model"] in self.models
        }
        return {"models": [{"name": name, "context_length": window} for name, window in loaded.items()]}

    def _version(self) -> Any:
        return {"version": "0.13.0"}

    _lists = {"/api/tags": _tags, "/api/ps": _ps, "/api/version": _version}  # noqa: RUF012  read only


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"
