"""A scripted model for testing programs without a server, a key or a model.

Its replies are given in advance, as a list or as functions of the prompt, and every request is recorded. It is an
engine for ``dspy.LM``, so all of DSPy works as with a real model: adapters, callbacks, cache, streams.

    from rlm_dspy.testing import action, scripted

    lm, script = scripted(action("print(len(context))"), action("SUBMIT(answer='long')"))
    with dspy.context(lm=lm):
        assert program(context=text, question="How long is it?").answer == "long"
    assert len(script.requests) == 2
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, ThinkingPart, Usage, response_to_events

from rlm_dspy.counting import CHARS_PER_TOKEN
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.metering import note_request


@dataclass(frozen=True)
class Reply:
    """A reply with details beyond its text.

    Args:
        text: the visible text; may be empty.
        finish_reason: why the reply ended: ``length`` if it was cut short, ``content_filter`` if it was withheld.
        reasoning: hidden thinking that the server returns separately from the text.
        usage: the tokens reported by the server; ``counted`` estimates four characters each, None reports nothing.
    """

    text: str
    finish_reason: Literal["stop", "length", "tool_call", "content_filter", "error"] = "stop"
    reasoning: str | None = None
    usage: Usage | Literal["counted"] | None = "counted"


Said = str | Reply | Exception
"""A scripted action: a text, a detailed reply, or a failure."""

Scripted = Said | Callable[[str], Said]
"""One entry of a script: an action, or a function that maps the last message to one."""


class Engine(Protocol):
    """The interface that DSPy requires of a synchronous engine."""

    def complete(self, request: Request) -> Response:
        """Perform one request."""
        ...


class Script:
    """An engine with scripted replies.

    Args:
        *replies: the reply to the first call, the second, and so on; the last entry repeats. A text or a ``Reply`` is
            returned; an exception is raised, like a failing provider
            (``dspy.lm15.RateLimitError("slow down")``); a function is called with the text of the last message and
            may return any of these, raise or wait.
        delay: seconds that every reply takes.
        window: the size of the model's window in tokens, or None if unknown.

    Attributes:
        requests: every request so far, as the model received it; ``texts`` makes it readable.
        reports: whether the server reports usage; a ``Reply`` may override this for itself.
    """

    notes_requests = True

    def __init__(self, *replies: Scripted, delay: float = 0.0, window: int | None = None) -> None:
        if not replies:
            raise ConfigurationError("A script needs at least one reply. Pass a text, a Reply or a function.")
        self.replies = replies
        self.delay = delay
        self.window = window
        self.requests: list[Request] = []
        self.reports = True
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        """Record one request and return the next reply."""
        note_request()
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        if self.delay:
            time.sleep(self.delay)
        due = self.replies[min(number, len(self.replies) - 1)]
        said = due(request.messages[-1].text or "") if callable(due) else due
        if isinstance(said, Exception):
            raise said
        return self._make_response(request, Reply(said) if isinstance(said, str) else said)

    def stream(self, request: Request) -> Iterator[Any]:
        """Perform one request as a stream of events."""
        yield from response_to_events(self.complete(request))

    def _make_response(self, request: Request, reply: Reply) -> Response:
        if reply.reasoning is None:
            thinking = []
        else:
            thinking = [ThinkingPart(reply.reasoning)]
        said = [TextPart(reply.text)] if reply.text or not thinking else []
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([*thinking, *said]),
            finish_reason=reply.finish_reason,
            usage=self._reported_usage(request, reply),
            provider_data={"cost": 0.001},
        )

    def _reported_usage(self, request: Request, reply: Reply) -> Usage:
        if reply.usage is None or not self.reports:
            return Usage()
        if reply.usage != "counted":
            return reply.usage
        sent = sum(len(text) for text in texts(request))
        written = len(reply.text) + len(reply.reasoning or "")
        return Usage(input_tokens=sent // CHARS_PER_TOKEN, output_tokens=written // CHARS_PER_TOKEN)


class AsyncScript:
    """The async twin of any synchronous engine; it never blocks the event loop."""

    def __init__(self, script: Engine) -> None:
        self.script = script

    async def complete(self, request: Request) -> Response:
        """Perform one request in a thread."""
        return await asyncio.to_thread(self.script.complete, request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Perform one request as a stream of events."""
        for event in response_to_events(await self.complete(request)):
            yield event


def scripted(
    *replies: Scripted,
    delay: float = 0.0,
    cache: bool = False,
    model: str = "scripted/model",
    window: int | None = None,
) -> tuple[dspy.LM, Script]:
    """Return an LM with scripted replies, and its script, which records the requests.

    Args:
        *replies: the replies, one per call; see ``Script``.
        delay: seconds that every reply takes.
        cache: whether DSPy may answer repeated requests from its cache.
        model: the model name under which calls are counted.
        window: the size of the model's window in tokens, or None if unknown.

    Raises:
        ConfigurationError: no replies are given.

    Example:
        >>> lm, script = scripted("first", RuntimeError("down"), lambda shown: shown.upper())
    """
    script = Script(*replies, delay=delay, window=window)
    return dspy.LM(model, engine=script, async_engine=AsyncScript(script), cache=cache, num_retries=0), script


def action(code: str, reasoning: str = "next") -> str:
    """Return a reply that runs ``code``."""
    return f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def fields(**values: str) -> str:
    """Return a reply with the named output fields, as for ``dspy.Predict``."""
    sections = [f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items()]
    return "".join(sections) + "[[ ## completed ## ]]"


def texts(request: Request) -> list[str]:
    """Return the system text and each message with its role, as the model sees them."""
    system = request.system
    if isinstance(system, str):
        first = system
    else:
        first = "".join(part.text for part in system or ())
    return [first, *(f"{message.role}: {message.text}" for message in request.messages)]
