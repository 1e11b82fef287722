"""A fake Groq, or any other server with OpenAI's chat completions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from servers.wire import Fault, Server, send, send_stream, tokens

LIMITS = {
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-limit-tokens": "8000",
    "x-ratelimit-remaining-requests": "999",
    "x-ratelimit-remaining-tokens": "7500",
    "x-ratelimit-reset-requests": "1m26.4s",
    "x-ratelimit-reset-tokens": "3.75s",
}


class OpenAIServer(Server):
    """Serves chat completions under any prefix, checks the key, and replies with ``reply``."""

    def __init__(
        self,
        *faults: Fault,
        key: str = "gsk_right_key_000000",
        models: tuple[str, ...] = ("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
        reply: str = "hello",
        tier: bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(*faults)
        self.key = key
        self.models = models
        self.turns = [(reply, "stop")]
        self.tier = tier
        self.headers = LIMITS if headers is None else headers

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        if handler.headers.get("Authorization") != f"Bearer {self.key}":
            send(handler, 401, error("Invalid API Key", "invalid_request_error", "invalid_api_key"))
        elif path.endswith("/models"):
            send(handler, 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})
        elif not path.endswith("/chat/completions"):
            send(handler, 404, error(f"Unknown request URL: {path}", "invalid_request_error", "unknown_url"))
        elif body["model"] not in self.models:
            said = f"The model `{body['model']}` does not exist or you do not have access to it."
            send(handler, 404, error(said, "invalid_request_error", "model_not_found"))
        elif body.get("stream"):
            send_stream(handler, "text/event-stream", self._events(body), self.headers)
        else:
            send(handler, 200, self._completion(body), self.headers)

    def _events(self, body: Any) -> Iterator[bytes]:
        whole = self._completion(body)
        usage = whole.pop("usage")
        choice = whole["choices"][0]
        whole["object"] = "chat.completion.chunk"
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in re.findall(r"\s*\S+|\s+$", choice["message"]["content"])]
        for delta in deltas:
            yield _event({**whole, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield _event({**whole, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event({**whole, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _completion(self, body: Any) -> dict[str, Any]:
        text, finish = self.next_turn()
        sent, wrote = tokens(body["messages"]), max(1, len(text) // 4)
        usage = {
            "prompt_tokens": sent,
            "completion_tokens": wrote,
            "total_tokens": sent + wrote,
            "prompt_tokens_details": {"cached_tokens": sent // 2},
        }
        message = {"role": "assistant", "content": text}
        reply: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": usage,
            "system_fingerprint": "fp_1",
            "x_groq": {"id": "req_1"},
        }
        return reply | ({"service_tier": "on_demand"} if self.tier else {})


def _event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def error(message: str, kind: str, code: str | int | None = None) -> dict[str, Any]:
    """An error body as Groq and OpenAI write it."""
    return {"error": {"message": message, "type": kind, **({"code": code} if code else {})}}
