"""A server that speaks the wire of Ollama, of OpenAI and of Anthropic, and answers as the offline engine does."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

from dspy.lm15 import Message, Request

from rlm_dspy.lms.offline.offline_engine import OfflineEngine
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer
from servers.wire import send, tokens


def offline_reply(body: Any) -> str:
    """Return the engine's reply to the messages of a request."""
    system, turns = body.get("system") or "", []
    if not isinstance(system, str):
        system = "".join(part["text"] for part in system)
    for message in body["messages"]:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        if message["role"] == "system":
            system += text
        else:
            turns.append(Message.user(text) if message["role"] == "user" else Message.assistant(text))
    return str(OfflineEngine().complete(Request(model="x", messages=tuple(turns), system=system)).text)


# A plan so large that nothing waits.
PLAN = {
    "x-ratelimit-limit-requests": "90000000",
    "x-ratelimit-remaining-requests": "90000000",
    "x-ratelimit-limit-tokens": "900000000",
    "x-ratelimit-remaining-tokens": "900000000",
}


class AnyModelServer(OpenAIServer):
    """Serves every model on OpenAI's, Azure's and Anthropic's wire, with any key."""

    def __init__(self) -> None:
        super().__init__(headers=PLAN)
        self._thread_reply = threading.local()

    def next_turn(self) -> tuple[str, str]:
        """Return the reply to the request of this thread."""
        return self._thread_reply.text, "stop"

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        self.key = (handler.headers.get("Authorization") or "Bearer ").removeprefix("Bearer ")
        if body is not None:
            self.models = (*self.models, body.get("model"))
        if path.endswith("/messages"):
            text = offline_reply(body)
            sent = tokens([{"content": str(body.get("system"))}, *body["messages"]])
            usage = {"input_tokens": sent, "output_tokens": 10}
            reply = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "usage": usage}
            send(handler, 200, reply | {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"})
        elif "api-key" in handler.headers:  # Azure
            send(handler, 200, self._completion(body))
        else:
            super().answer(handler, path, body)

    def _completion(self, body: Any) -> dict[str, Any]:
        self._thread_reply.text = offline_reply(body)
        return super()._completion(body)


class OfflineOllama(OllamaServer):
    """Serves its models on Ollama's wire."""

    def __init__(self) -> None:
        super().__init__(parallel=8)
        self._thread_reply = threading.local()

    def next_turn(self) -> tuple[str, str]:
        """Return the reply to the request of this thread."""
        return self._thread_reply.text, "stop"

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        if path == "/api/chat":
            self._thread_reply.text = offline_reply(body)
        super().answer(handler, path, body)
