"""Batches in OpenAI's form: upload a file of requests, create a batch of it, read its output and its errors.

Groq uses the same form, and so do vLLM and llama.cpp behind a gateway that adds batches. Together's form differs in
some places, and its batches have no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from dspy.lm15 import Request, Response, response_from_openai_chat

from rlm_dspy._dspy import chat_body
from rlm_dspy.lms import errors
from rlm_dspy.lms.engine import without_address
from rlm_dspy.lms.provider_batches.connection import BatchConnection, count_at, dict_at, rows_at, text_at
from rlm_dspy.lms.provider_batches.protocol import BatchCall, BatchState, RowResult
from rlm_dspy.lms.providers import Route

_ENDPOINT = "/v1/chat/completions"
_LABEL = "rlm_dspy"  # the entry of a batch's metadata that names the wave
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_NOT_PROCESSED = frozenset({"batch_expired", "batch_cancelled"})  # codes of requests that cost nothing
_MOST_PAGES = 10
_PAGE = 100  # batches listed at once


class OpenAIBatches:
    """The batches of one route in OpenAI's form, or Together's variant of it."""

    is_labelled = True

    def __init__(self, route: Route, base: str) -> None:
        key = route.key
        self.connection = BatchConnection(route, base, {"Authorization": f"Bearer {key}"} if key else {})
        self._route = route
        self._is_together = route.provider.batches == "together"

    def make_body(self, request: Request) -> dict[str, Any]:
        """Return a request in OpenAI's form."""
        return {"model": self._route.name, **without_address(chat_body(request, "chat"))}

    def parse_reply(self, request: Request, body: dict[str, Any]) -> Response:
        """Return a reply from a chat completion."""
        if not rows_at(body, "choices"):
            raise errors.invalid_reply(self._route, "has no choices")
        return response_from_openai_chat(body, model=request.model)

    def upload(self, wave_id: str, calls: Sequence[BatchCall]) -> str | None:
        """Upload the requests as JSONL and return the file's id."""
        if self._is_together:
            head, purpose, path = "", "batch-api", "files/upload"
        else:
            head, purpose, path = f'"method": "POST", "url": "{_ENDPOINT}", ', "batch", "files"
        lines = [f'{{"custom_id": "{call.custom_id}", {head}"body": {call.body}}}\n' for call in calls]
        file = (f"rlm-dspy-{wave_id}.jsonl", "".join(lines).encode(), "application/jsonl")
        reply, _ = self.connection.fetch_json(
            "POST", path, creates=True, data={"purpose": purpose}, files={"file": file}
        )
        return self._id_in(reply)

    def create_batch(self, wave_id: str, file_id: str | None, calls: Sequence[BatchCall]) -> str:
        """Create a batch of an uploaded file; its metadata names the wave."""
        body: dict[str, Any] = {"input_file_id": file_id, "endpoint": _ENDPOINT, "completion_window": "24h"}
        if not self._is_together:
            body["metadata"] = {_LABEL: wave_id}
        reply, _ = self.connection.fetch_json("POST", "batches", creates=True, json=body)
        return self._id_in(_unwrapped(reply))

    def find_batches(self, wave_id: str, file_id: str | None, size: int, since: float) -> list[str]:
        """Return the batch of this wave, found by its label or its file, if there is one."""
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            reply, _ = self.connection.fetch_json("GET", "batches", params={"limit": _PAGE, **after})
            rows = [row for row in rows_at(reply, "data") if text_at(row, "id")]
            for row in rows:
                is_ours = file_id is not None and text_at(row, "input_file_id") == file_id
                if is_ours or text_at(dict_at(row, "metadata"), _LABEL) == wave_id:
                    return [row["id"]]
            if not rows or isinstance(reply, list) or reply.get("has_more") is not True:
                break
            after = {"after": rows[-1]["id"]}
        return []

    def fetch_state(self, batch_id: str) -> BatchState:
        """Return the state of a batch."""
        reply, retry_after = self.connection.fetch_json("GET", f"batches/{quote(batch_id, safe='')}")
        row = _unwrapped(reply)
        status = text_at(row, "status").lower()
        counts = dict_at(row, "request_counts")
        files = [text_at(row, name) for name in ("output_file_id", "error_file_id")]
        problems = rows_at(dict_at(row, "errors"), "data")
        problem = problems[0] if problems else text_at(row, "error")
        return BatchState(
            batch_id,
            status,
            status in _ENDED,
            done=count_at(counts, "completed") + count_at(counts, "failed"),
            total=count_at(counts, "total"),
            result_paths=tuple(f"files/{quote(name, safe='')}/content" for name in files if name),
            problem={"error": problem} if problem else None,
            retry_after=retry_after,
        )

    def parse_row(self, row: dict[str, Any]) -> RowResult:
        """Return the result of one request."""
        name, response = text_at(row, "custom_id"), dict_at(row, "response")
        body, status = response.get("body"), response.get("status_code")
        if status == 200 and isinstance(body, dict):
            return RowResult(name, reply=body)
        problem = row.get("error") or body
        code = text_at(problem, "code") or text_at(dict_at(problem, "error"), "code")
        if code in _NOT_PROCESSED:
            return RowResult(name)
        if type(status) is not int or not 400 <= status <= 599:
            status = 500 if problem is None else 400
        return RowResult(name, status=status, problem=problem if isinstance(problem, dict) else {"error": problem})

    def cancel_batch(self, batch_id: str) -> None:
        """Cancel a batch; what was answered until then can be read and is billed."""
        self.connection.fetch_json("POST", f"batches/{quote(batch_id, safe='')}/cancel")

    def _id_in(self, reply: Any) -> str:
        name = text_at(reply, "id")
        if not name:
            raise errors.invalid_reply(self._route, "names no id")
        return name


def _unwrapped(reply: Any) -> Any:
    """Return the batch itself; Together wraps a new one in ``job``."""
    return dict_at(reply, "job") or reply
