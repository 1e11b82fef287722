"""Anthropic's Message Batches: the requests come with the batch, which carries no label of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from dspy.lm15 import Request, Response

from rlm_dspy._dspy import anthropic_body, anthropic_reply
from rlm_dspy.lms import errors
from rlm_dspy.lms.engine import SERVER
from rlm_dspy.lms.provider_batches.connection import BatchConnection, count_at, dict_at, rows_at, text_at
from rlm_dspy.lms.provider_batches.protocol import BatchCall, BatchState, RowResult
from rlm_dspy.lms.providers import Route

_VERSION = "2023-06-01"
_CLOCK_SLACK = 3_600.0  # seconds by which the provider's clock may differ from ours
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_COUNTS = ("succeeded", "errored", "canceled", "expired")


class AnthropicBatches:
    """The batches of one route at Anthropic."""

    is_labelled = False

    def __init__(self, route: Route, base: str) -> None:
        base = base.rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        headers = {"anthropic-version": _VERSION, "x-api-key": route.key or ""}
        self.connection = BatchConnection(route, self._base, headers)
        self._route = route

    def make_body(self, request: Request) -> dict[str, Any]:
        """Return a request in Anthropic's form."""
        extensions = dict(request.config.extensions or {})
        metadata = {name: value for name, value in extensions.pop("metadata", {}).items() if name != SERVER}
        if metadata:
            extensions["metadata"] = metadata
        plain = replace(request, model=self._route.name, config=replace(request.config, extensions=extensions or None))
        return anthropic_body(plain)

    def parse_reply(self, request: Request, body: dict[str, Any]) -> Response:
        """Return a reply from a message."""
        if not isinstance(body.get("content"), list):
            raise errors.invalid_reply(self._route, "has no content")
        return anthropic_reply(request, body)

    def upload(self, wave_id: str, calls: Sequence[BatchCall]) -> str | None:
        """Return None: the requests come with the batch."""
        return None

    def create_batch(self, wave_id: str, file_id: str | None, calls: Sequence[BatchCall]) -> str:
        """Create a batch of these requests."""
        rows = [f'{{"custom_id": "{call.custom_id}", "params": {call.body}}}' for call in calls]
        reply, _ = self.connection.fetch_json(
            "POST",
            "messages/batches",
            creates=True,
            content=f'{{"requests": [{", ".join(rows)}]}}'.encode(),
            headers={"content-type": "application/json"},
        )
        name = text_at(reply, "id")
        if not name:
            raise errors.invalid_reply(self._route, "names no id")
        return name

    def find_batches(self, wave_id: str, file_id: str | None, size: int, since: float) -> list[str]:
        """Return the recent batches of this size, oldest first; only their results show whose they are."""
        reply, _ = self.connection.fetch_json("GET", "messages/batches", params={"limit": 100})
        names = []
        for row in rows_at(reply, "data"):
            counts = dict_at(row, "request_counts")
            total = sum(count_at(counts, name) for name in (*_COUNTS, "processing"))
            if total == size and _created_at(row) >= since - _CLOCK_SLACK and text_at(row, "id"):
                names.append(row["id"])
        return names[::-1]

    def fetch_state(self, batch_id: str) -> BatchState:
        """Return the state of a batch."""
        row, retry_after = self.connection.fetch_json("GET", f"messages/batches/{quote(batch_id, safe='')}")
        counts = dict_at(row, "request_counts")
        done = sum(count_at(counts, name) for name in _COUNTS)
        status = text_at(row, "processing_status")
        place = text_at(row, "results_url")
        return BatchState(
            batch_id,
            status,
            status == "ended",
            done=done,
            total=done + count_at(counts, "processing"),
            result_paths=(self._own_path(place),) if place else (),
            retry_after=retry_after,
        )

    def parse_row(self, row: dict[str, Any]) -> RowResult:
        """Return the result of one request."""
        name, result = text_at(row, "custom_id"), dict_at(row, "result")
        kind, message = text_at(result, "type"), result.get("message")
        if kind == "succeeded" and isinstance(message, dict):
            return RowResult(name, reply=message)
        if kind in ("canceled", "expired"):
            return RowResult(name)
        outer = dict_at(result, "error")
        problem = dict_at(outer, "error") or outer or {"message": json.dumps(result)[:300]}
        return RowResult(name, status=_STATUS.get(text_at(problem, "type"), 500), problem={"error": problem})

    def cancel_batch(self, batch_id: str) -> None:
        """Cancel a batch; what was answered until then can be read and is billed."""
        self.connection.fetch_json("POST", f"messages/batches/{quote(batch_id, safe='')}/cancel")

    def _own_path(self, address: str) -> str:
        """Return an address that the server names, if it is on the same server: the key is sent to no other."""
        own = urlsplit(self._base)
        try:
            named = urlsplit(address)
        except ValueError:
            raise errors.invalid_reply(self._route, "names a place that is not an address") from None
        if (named.scheme, named.netloc) not in (("", ""), (own.scheme, own.netloc.rpartition("@")[2])):
            raise errors.invalid_reply(self._route, "has its results at another server, which is not asked")
        return f"{own.scheme}://{own.netloc}{named.path}"


def _created_at(row: Any) -> float:
    try:
        return datetime.fromisoformat(text_at(row, "created_at")).timestamp()
    except ValueError:
        return 0.0
