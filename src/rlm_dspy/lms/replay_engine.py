"""An LM whose calls a record may answer; all others go to its own engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, ThinkingPart, Usage, response_to_events

from rlm_dspy._dspy import WrappedEngine, async_engine_of, engine_of
from rlm_dspy.replay import REPLY, RecordedReply


class ReplayingEngine(WrappedEngine):
    """Returns the recorded reply of a call, if there is one, else calls its engine."""

    def complete(self, request: Request) -> Response:
        """Perform one request."""
        return _recorded_response(request) or self.engine.complete(request)

    def stream(self, request: Request) -> Iterator[Any]:
        """Perform one request as a stream of events."""
        recorded = _recorded_response(request)
        if recorded is None:
            yield from self.engine.stream(request)
        else:
            yield from response_to_events(recorded)


class AsyncReplayingEngine(WrappedEngine):
    """The async twin of :class:`ReplayingEngine`."""

    async def complete(self, request: Request) -> Response:
        """Perform one request."""
        return _recorded_response(request) or await self.engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Perform one request as a stream of events."""
        if recorded := _recorded_response(request):
            for event in response_to_events(recorded):
                yield event
            return
        async for event in self.engine.stream(request):
            yield event


def replaying_lm(lm: Any) -> dspy.LM:
    """Return a copy of an LM that the record of a resumed run may answer; DSPy's cache is not asked."""
    own_async = async_engine_of(lm)
    if own_async is None:
        async_engine = None
    else:
        async_engine = AsyncReplayingEngine(own_async)
    return lm.copy(engine=ReplayingEngine(engine_of(lm)), async_engine=async_engine, cache=False)


def _recorded_response(request: Request) -> Response | None:
    """Return the response that the record has for the call, None if there is none."""
    reply = REPLY.get()
    if reply is None:
        return None
    return response_of(reply, request)


def response_of(reply: RecordedReply, request: Request) -> Response:
    """Return a recorded reply as the response to a request."""
    thinking = [ThinkingPart(reply.thinking)] if reply.thinking else []
    said = [TextPart(reply.text)] if reply.text or not thinking else []
    used = reply.usage
    finish: Any = reply.finish or "stop"
    return Response(
        id=None,
        model=request.model,
        message=Message.assistant([*thinking, *said]),
        finish_reason=finish,
        usage=Usage(
            input_tokens=used.prompt_tokens,
            output_tokens=used.completion_tokens,
            cache_read_tokens=used.cached_tokens,
        ),
        provider_data={"cost": used.cost},
    )
