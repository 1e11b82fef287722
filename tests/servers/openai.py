"""A fake Groq, or any other server with OpenAI's chat completions."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any

from servers.wire import Fault, Server, send, tokens

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
        self.reply = reply
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
        else:
            send(handler, 200, self._completion(body), self.headers)

    def _completion(self, body: Any) -> dict[str, Any]:
        sent, wrote = tokens(body["messages"]), max(1, len(self.reply) // 4)
        usage = {
            "prompt_tokens": sent,
            "completion_tokens": wrote,
            "total_tokens": sent + wrote,
            "prompt_tokens_details": {"cached_tokens": sent // 2},
        }
        message = {"role": "assistant", "content": self.reply}
        reply: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage,
            "system_fingerprint": "fp_1",
            "x_groq": {"id": "req_1"},
        }
        return reply | ({"service_tier": "on_demand"} if self.tier else {})


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error body as Groq and OpenAI write it."""
    return {"error": {"message": message, "type": kind, **({"code": code} if code else {})}}
