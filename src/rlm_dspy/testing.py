"""A scripted model, to test a program without a server, a key or a model.

Its replies are given beforehand, in order or as a function of what the model is shown, and every request is kept. It is
an engine for ``dspy.LM``, so all of DSPy runs as it does with a real model: adapters, callbacks, cache, streams.

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

from rlm_dspy.errors import ConfigurationError

_CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class ScriptedReply:
    """A reply with more to it than its text.

    Args:
        text: what the model says; it may be empty.
        finish_reason: why it ended there: ``length`` is a reply cut short, ``content_filter`` one held back.
        reasoning: the hidden thinking that the server hands over apart from the text.
        usage: the tokens that the server reports; ``counted`` reckons four characters each, None reports none.
    """

    text: str
    finish_reason: Literal["stop", "length", "tool_call", "content_filter", "error"] = "stop"
    reasoning: str | None = None
    usage: Usage | Literal["counted"] | None = "counted"


Said = str | ScriptedReply | Exception
"""What a model may do: say a text, say it in a certain way, or fail."""

Scripted = Said | Callable[[str], Said]
"""One entry of a script: what the model does, or a function that is shown the last message and tells it."""


class Engine(Protocol):
    """What DSPy asks of a synchronous engine."""

    def complete(self, request: Request) -> Response:
        """Perform one request."""
        ...


class Script:
    """An engine that says what it was told to say.

    Args:
        *replies: what it says at the first call, the second, and so on; the last entry repeats. A text or a ``Reply``
            is said; an exception is raised in its place, as a provider that fails would
            (``dspy.lm15.RateLimitError("slow down")``); a function is called with the text of the last message, and
            may return any of these, raise or wait.
        delay: seconds that every reply takes.
        window: the tokens that the model can be given at once, or None if nobody says.

    Attributes:
        requests: every request so far, as the model was shown it; ``texts`` makes it readable.
        reports: whether the server tells what calls used; a ``Reply`` may say otherwise of itself.
    """

    def __init__(self, *replies: Scripted, delay: float = 0.0, window: int | None = None) -> None:
        if not replies:
            raise ConfigurationError("A script needs at least one reply.")
        self.replies = replies
        self.delay = delay
        self.window = window
        self.requests: list[Request] = []
        self.reports = True
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        """Perform one request: keep it, and say what is due."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        if self.delay:
            time.sleep(self.delay)
        due = self.replies[min(number, len(self.replies) - 1)]
        said = due(request.messages[-1].text or "") if callable(due) else due
        if isinstance(said, Exception):
            raise said
        return self._make_response(request, ScriptedReply(said) if isinstance(said, str) else said)

    def stream(self, request: Request) -> Iterator[Any]:
        """Perform one request as a stream of events."""
        yield from response_to_events(self.complete(request))

    def _make_response(self, request: Request, reply: ScriptedReply) -> Response:
        thinking = [] if reply.reasoning is None else [ThinkingPart(reply.reasoning)]
        said = [TextPart(reply.text)] if reply.text or not thinking else []
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([*thinking, *said]),
            finish_reason=reply.finish_reason,
            usage=self._reported_usage(request, reply),
            provider_data={"cost": 0.001},
        )

    def _reported_usage(self, request: Request, reply: ScriptedReply) -> Usage:
        if reply.usage is None or not self.reports:
            return Usage()
        if reply.usage != "counted":
            return reply.usage
        sent = sum(len(text) for text in texts(request))
        written = len(reply.text) + len(reply.reasoning or "")
        return Usage(input_tokens=sent // _CHARS_PER_TOKEN, output_tokens=written // _CHARS_PER_TOKEN)


class AsyncScript:
    """The twin for async callers of any synchronous engine; it never blocks the event loop."""

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
    """Return an LM that replies as scripted, and its script with the requests that it saw.

    Args:
        *replies: what it says, one call after the other; see ``Script``.
        delay: seconds that every reply takes.
        cache: whether DSPy may answer a request that it has seen before.
        model: the name under which calls are counted.
        window: the tokens of the model's window, or None if nobody says.

    Raises:
        ConfigurationError: there are no replies.

    Example:
        >>> lm, script = scripted("first", RuntimeError("down"), lambda shown: shown.upper())
    """
    script = Script(*replies, delay=delay, window=window)
    return dspy.LM(model, engine=script, async_engine=AsyncScript(script), cache=cache, num_retries=0), script


def action(code: str, reasoning: str = "next") -> str:
    """Return the reply in which a model has ``code`` run."""
    return f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def fields(**values: str) -> str:
    """Return the reply that gives the named output fields, as to ``dspy.Predict``."""
    given = [f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items()]
    return "".join(given) + "[[ ## completed ## ]]"


def texts(request: Request) -> list[str]:
    """Return the system text and each message with its role, as the model reads them."""
    system = request.system
    first = system if isinstance(system, str) else "".join(part.text for part in system or ())
    return [first, *(f"{message.role}: {message.text}" for message in request.messages)]
