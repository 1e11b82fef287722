"""Fake batch services in OpenAI's and in Anthropic's form: late, out of order, partial, expired, broken.

A request is paid when it is answered, whether or not anybody reads the answer; ``paid`` has them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from servers.openai import error
from servers.wire import Fault, Server, send, tokens

Outcome = str  # ok, expired, missing, garbage, twice, stranger, or an HTTP status such as 400


@dataclass
class FakeBatch:
    """One batch: its rows, how often it was asked about, and what came of each row."""

    name: str
    rows: list[tuple[str, Any]]
    wave: str = ""
    file: str = ""
    polls: int = 0
    status: str = "in_progress"
    outcomes: dict[str, Outcome] = field(default_factory=dict)


class BatchServer(Server):
    """Serves batches in both forms, and ordinary chat completions.

    Args:
        reply: the text of the reply to a request's body.
        outcome: what becomes of a request, by its body and how often it was sent before.
        polls: how often a batch must be asked about until it ends; -1: it never does.
        lost_creates: so many batches are created, but the answer is a 500.
        broken_polls: so many polls are answered with a 503.
        failing: the message with which every batch fails at its validation.
        retry_after: the header of each answer.
    """

    url_of_rows: str | None = "/v1/chat/completions"

    def __init__(
        self,
        *faults: Fault,
        reply: Callable[[Any], str] = lambda body: "hello",
        outcome: Callable[[Any, int], Outcome] = lambda body, before: "ok",
        polls: int = 1,
        lost_creates: int = 0,
        broken_polls: int = 0,
        failing: str = "",
        retry_after: str = "0.1",
    ) -> None:
        super().__init__(*faults)
        self.reply, self.outcome, self.polls = reply, outcome, polls
        self.lost_creates, self.broken_polls, self.failing = lost_creates, broken_polls, failing
        self.retry_after = retry_after
        self.held: set[str] = set()  # the names of batches that do not end
        self.paid: list[Any] = []  # the bodies of the requests that were answered in batches
        self.ordinary: list[Any] = []  # those of ordinary calls
        self.batches: dict[str, FakeBatch] = {}
        self._files: dict[str, list[tuple[str, Any]]] = {}
        self._sent: dict[str, int] = {}

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        with self._lock:
            status, found = self._respond(handler, path.removeprefix("/v1"), body)
        send(handler, status, found, {"Retry-After": self.retry_after})

    def _respond(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> tuple[int, Any]:
        method, parts = handler.command, path.strip("/").split("/")
        is_anthropic = parts[0] == "messages"
        key = handler.headers.get("x-api-key") if is_anthropic else handler.headers.get("Authorization")
        if key not in ("right-key", "Bearer right-key"):
            return 401, error("Invalid API Key", "authentication_error")
        if is_anthropic:
            parts = parts[1:]
        if path == "/chat/completions":
            self.ordinary.append(body)
            return 200, _completion(body, self.reply(body))
        if parts[0] == "files":
            return self._respond_file(method, parts, body)
        if parts[0] != "batches":
            return 404, error(f"Unknown request URL: {path}", "invalid_request_error", "unknown_url")
        if method == "POST" and len(parts) == 1:
            return self._create(body, is_anthropic)
        if len(parts) == 1:
            shown = [self._shown(batch, is_anthropic) for batch in reversed(self.batches.values())]
            return 200, {"data": shown, "has_more": False}
        if parts[1] not in self.batches:
            return 404, error("No such batch", "not_found_error")
        batch = self.batches[parts[1]]
        if parts[-1] == "cancel":
            self._end(batch, "cancelled")
        elif parts[-1] == "results":
            return 200, self._results(batch, is_anthropic)
        elif self.broken_polls:
            self.broken_polls -= 1
            return 503, error("overloaded", "server_error")
        else:
            self._poll(batch)
        return 200, self._shown(batch, is_anthropic)

    def _respond_file(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        if method == "POST":
            name = f"file-{len(self._files)}"
            lines = re.findall(rb"^\{.*\}\r?$", body, re.M)
            rows = [json.loads(line) for line in lines]
            assert all(row.get("url") == self.url_of_rows for row in rows)
            self._files[name] = [(row["custom_id"], row["body"]) for row in rows]
            return 200, {"id": name, "object": "file", "purpose": "batch"}
        batch = self.batches[parts[1].removeprefix("out-").removeprefix("err-")]
        return 200, self._results(batch, False, parts[1][:3])

    def _create(self, body: Any, is_anthropic: bool) -> tuple[int, Any]:
        name = f"batch_{len(self.batches)}"
        if is_anthropic:
            batch = FakeBatch(name, [(row["custom_id"], row["params"]) for row in body["requests"]])
        else:
            file = body["input_file_id"]
            batch = FakeBatch(name, self._files[file], body.get("metadata", {}).get("rlm_dspy", ""), file)
        assert len({custom_id for custom_id, _ in batch.rows}) == len(batch.rows)
        self.batches[name] = batch
        if self.lost_creates:
            self.lost_creates -= 1
            return 500, error("the answer is lost", "server_error")
        return 200, self._shown(batch, is_anthropic)

    def _poll(self, batch: FakeBatch) -> None:
        batch.polls += 1
        if batch.status == "in_progress" and self.failing:
            batch.status = "failed"
        elif batch.status == "in_progress" and batch.name not in self.held and 0 <= self.polls <= batch.polls:
            self._end(batch, "completed")

    def _end(self, batch: FakeBatch, status: str) -> None:
        if batch.status != "in_progress":
            return
        batch.status = status
        for custom_id, body in batch.rows:
            text = json.dumps(body, sort_keys=True)
            before = self._sent.get(text, 0)
            self._sent[text] = before + 1
            batch.outcomes[custom_id] = "expired" if status == "cancelled" else self.outcome(body, before)
            if batch.outcomes[custom_id] not in ("expired", "missing") and not batch.outcomes[custom_id].isdecimal():
                self.paid.append(body)
        if status == "completed" and "expired" in batch.outcomes.values():
            batch.status = "expired"

    def _shown(self, batch: FakeBatch, is_anthropic: bool) -> dict[str, Any]:
        ended = batch.status != "in_progress"
        done = len(batch.rows) if ended else 0
        if is_anthropic:
            counts = {
                "processing": len(batch.rows) - done,
                "succeeded": done,
                "errored": 0,
                "canceled": 0,
                "expired": 0,
            }
            return {
                "id": batch.name,
                "type": "message_batch",
                "processing_status": "ended" if ended else "in_progress",
                "request_counts": counts,
                "created_at": "2099-01-01T00:00:00Z",
                "results_url": f"{self.url}/v1/messages/batches/{batch.name}/results" if ended else None,
            }
        return {
            "id": batch.name,
            "object": "batch",
            "status": batch.status,
            "input_file_id": batch.file,
            "output_file_id": f"out-{batch.name}" if ended and not self.failing else None,
            "error_file_id": f"err-{batch.name}" if ended and not self.failing else None,
            "errors": {"data": [{"code": "invalid", "message": self.failing}]} if batch.status == "failed" else None,
            "request_counts": {"total": len(batch.rows), "completed": done, "failed": 0},
            "metadata": {"rlm_dspy": batch.wave},
        }

    def _results(self, batch: FakeBatch, is_anthropic: bool, which: str = "") -> str:
        """Return the lines of results, last request first."""
        lines = []
        for custom_id, body in reversed(batch.rows):
            outcome = batch.outcomes[custom_id]
            is_error = outcome.isdecimal() or outcome == "expired"
            if outcome == "missing" or (which and is_error != (which == "err")):
                continue
            made = self._anthropic_row if is_anthropic else self._openai_row
            line = json.dumps(made(custom_id, body, outcome))
            lines += [line[: len(line) // 2] if outcome == "garbage" else line]
            if outcome == "twice":
                lines += [line]
            if outcome == "stranger":
                lines += [line.replace(custom_id, "somebody-else")]
        return "".join(f"{line}\n" for line in lines)

    def _openai_row(self, custom_id: str, body: Any, outcome: Outcome) -> dict[str, Any]:
        if outcome == "expired":
            gone = {"code": "batch_expired", "message": "This request could not be executed in time."}
            return {"id": "r", "custom_id": custom_id, "response": None, "error": gone}
        if outcome.isdecimal():
            told = error(f"refused with {outcome}", "invalid_request_error")
            response = {"status_code": int(outcome), "request_id": "q", "body": told}
        else:
            response = {"status_code": 200, "request_id": "q", "body": _completion(body, self.reply(body))}
        return {"id": "r", "custom_id": custom_id, "response": response, "error": None}

    def _anthropic_row(self, custom_id: str, body: Any, outcome: Outcome) -> dict[str, Any]:
        if outcome == "expired":
            return {"custom_id": custom_id, "result": {"type": "expired"}}
        if outcome.isdecimal():
            kind = {"400": "invalid_request_error", "529": "overloaded_error"}[outcome]
            told = {"type": "error", "error": {"type": kind, "message": f"refused with {outcome}"}}
            return {"custom_id": custom_id, "result": {"type": "errored", "error": told}}
        text = self.reply(body)
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": tokens(body["messages"]), "output_tokens": max(1, len(text) // 4)},
        }
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": message}}


def _completion(body: Any, text: str) -> dict[str, Any]:
    sent, wrote = tokens(body["messages"]), max(1, len(text) // 4)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": sent, "completion_tokens": wrote, "total_tokens": sent + wrote},
    }


class TogetherServer(BatchServer):
    """The differences of Together, as documented: another upload, no label, a wrapped job, capitals, a plain list."""

    url_of_rows = None

    def _respond(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> tuple[int, Any]:
        if path == "/files":
            return 404, error("Not found")
        status, found = super()._respond(handler, path.removesuffix("/upload"), body)
        if path == "/batches" and handler.command == "POST" and status == 200:
            return status, {"job": found, "warning": ""}
        return status, found["data"] if path == "/batches" and status == 200 else found

    def _shown(self, batch: FakeBatch, is_anthropic: bool) -> dict[str, Any]:
        shown = super()._shown(batch, is_anthropic)
        del shown["metadata"]
        return {**shown, "status": shown["status"].upper()}
