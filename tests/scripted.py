"""A scripted model at the wire: an engine whose replies are given, and which keeps every request it was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events


def action(code: str, reasoning: str = "next") -> str:
    """A reply in the form that ChatAdapter asks for."""
    return f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def fields(**values: str) -> str:
    """A reply that gives the named output fields."""
    return "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items()) + "[[ ## completed ## ]]"


Reply = str | Exception | Callable[[str], Any]


class Script:
    """Replies in order; the last one repeats. A callable reply is given the last message and may raise or wait."""

    def __init__(self, *replies: Reply, delay: float = 0.0) -> None:
        self.replies: Sequence[Reply] = replies
        self.delay = delay
        self.requests: list[Request] = []
        self.reports = True  # whether the engine tells what a call used
        self.window: int | None = None  # tokens, as an engine that allocates them tells
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        with self._lock:
            index = len(self.requests)
            self.requests.append(request)
        time.sleep(self.delay)
        reply = self.replies[min(index, len(self.replies) - 1)]
        if callable(reply):
            reply = reply(request.messages[-1].text or "")
        if isinstance(reply, Exception):
            raise reply
        sent = sum(len(text) for text in texts(request))
        usage = Usage(input_tokens=sent // 4, output_tokens=len(reply) // 4) if self.reports else Usage()
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(reply)]),
            finish_reason="stop",
            usage=usage,
            provider_data={"cost": 0.001},
        )


    def stream(self, request: Request) -> Any:
        return response_to_events(self.complete(request))


class AsyncScript:
    """The async twin, which never blocks the loop."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def complete(self, request: Request) -> Response:
        import asyncio

        return await asyncio.to_thread(self.script.complete, request)

    async def stream(self, request: Request) -> Any:
        for event in response_to_events(await self.complete(request)):
            yield event


def texts(request: Request) -> list[str]:
    """The system text and each message, as the model reads them."""
    system = request.system
    first = system if isinstance(system, str) else "".join(part.text for part in system or ())
    return [first, *(f"{message.role}: {message.text}" for message in request.messages)]


def scripted(
    *replies: Reply, delay: float = 0.0, cache: bool = False, model: str = "scripted/model"
) -> tuple[dspy.LM, Script]:
    """Return an LM that replies as scripted, and the script with the requests it saw."""
    script = Script(*replies, delay=delay)
    return dspy.LM(model, engine=script, async_engine=AsyncScript(script), cache=cache, num_retries=0), script
