"""Fake servers of one's own with OpenAI's wire: what llama.cpp, LM Studio and vLLM answer when asked what they are.

The shapes are those that the real ones send: llama-server's were taken down from one, the others' are as documented.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any

from servers.openai import OpenAIServer, error
from servers.wire import send, tokens

NAME = "qwen2.5-coder-0.5b"


class LocalServer(OpenAIServer):
    """Serves ``pages`` (path -> JSON, or (status, body, headers)) to GET requests, and chats without a key."""

    def __init__(self, pages: dict[str, Any], *, key: str = "", window: int = 32_768, **options: Any) -> None:
        super().__init__(models=options.pop("models", (NAME,)), headers={}, tier=False, **options)
        self.pages = pages
        self.needs_key = key
        self.window = window

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        """Serve one request."""
        if self.needs_key and handler.headers.get("Authorization") != f"Bearer {self.needs_key}":
            send(handler, 401, error("Invalid API Key", "authentication_error", 401))
        elif handler.command == "GET":
            page = self.pages.get(path, (404, error("File Not Found", "not_found_error", 404), {}))
            send(handler, *(page if isinstance(page, tuple) else (200, page)))
        elif tokens(body["messages"]) > self.window:
            send(handler, 400, _overflow(tokens(body["messages"]), self.window))
        else:
            self.key = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
            super().answer(handler, path, body)

    @property
    def asked(self) -> list[str]:
        """The paths that it was asked for by GET, in order."""
        return [seen.path for seen in self.seen if seen.method == "GET"]


def _overflow(sent: int, window: int) -> dict[str, Any]:
    """Refuse a prompt as llama-server does."""
    said = f"request ({sent} tokens) exceeds the available context size ({window} tokens), try increasing it"
    kind = "exceed_context_size_error"
    return {"error": {"code": 400, "message": said, "type": kind, "n_prompt_tokens": sent, "n_ctx": window}}


def llama_cpp(window: Any = 8_192, slots: Any = 2, name: Any = NAME, trained: Any = 32_768) -> dict[str, Any]:
    """The pages of a llama-server; ``window`` is that of one slot."""
    meta = {"vocab_type": 2, "n_vocab": 151936, "n_ctx": window, "n_ctx_train": trained, "n_embd": 896}
    row = {"id": name, "aliases": [name], "object": "model", "created": 1, "owned_by": "llamacpp", "meta": meta}
    settings = {"params": {"n_predict": -1}, "n_ctx": window}
    return {
        "/v1/models": {"models": [{"name": name, "model": name}], "object": "list", "data": [row]},
        "/props": {"default_generation_settings": settings, "total_slots": slots, "model_alias": name},
    }


def lm_studio(*rows: dict[str, Any]) -> dict[str, Any]:
    """The pages of LM Studio, with one loaded model, one that is not, and one for embeddings, unless given."""
    common = {"object": "model", "publisher": "qwen", "arch": "qwen2", "compatibility_type": "gguf"}
    given: Any = rows or (
        {"id": NAME, "type": "llm", "state": "loaded", "max_context_length": 32768, "loaded_context_length": 12288},
        {"id": "qwen3-8b", "type": "llm", "state": "not-loaded", "max_context_length": 40960},
        {"id": "nomic-embed", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
    )
    own = [{**common, **row} for row in given]
    plain = [{"id": row["id"], "object": "model", "owned_by": "organization_owner"} for row in given]
    return {"/v1/models": {"object": "list", "data": plain}, "/api/v0/models": {"object": "list", "data": own}}


def vllm(window: Any = 16_384, name: str = NAME) -> dict[str, Any]:
    """The pages of vLLM."""
    row = {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "root": name, "max_model_len": window}
    return {"/v1/models": {"object": "list", "data": [row]}, "/version": {"version": "0.11.0"}}


def plain(*names: str) -> dict[str, Any]:
    """The pages of a server that tells names only."""
    return {"/v1/models": {"object": "list", "data": [{"id": name, "object": "model"} for name in names or (NAME,)]}}
