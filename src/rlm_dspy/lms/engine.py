"""The engine over LiteLLM: single attempts, provider defaults, errors by who must act, cost, no silent truncation."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from dspy import lm15
from dspy.clients.engines.lifecycle import aclosing_stream
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine
from dspy.lm15 import Request, Response

from rlm_dspy import local_servers
from rlm_dspy._dspy import ChatStream, get_litellm
from rlm_dspy.counting import CHARS_PER_TOKEN
from rlm_dspy.deadlines import items_of, result_of
from rlm_dspy.garbage_pause import paused_garbage_collection
from rlm_dspy.lms import errors, rate_limits, streams, transport
from rlm_dspy.lms.offline.offline_engine import MODEL, AsyncOfflineEngine
from rlm_dspy.lms.providers import OFFLINE, Route
from rlm_dspy.lms.rate_limits import LONGEST_WAIT, RetryState
from rlm_dspy.lms.transport import bound_replies
from rlm_dspy.metering import FREE_PROVIDERS, MOST_TOKENS, metered_wait, note_request, token_cost

logger = logging.getLogger(__name__)

_FALL_BACK = (*rate_limits.PASSING_ERRORS, lm15.BillingError)

# The entry of the LM's ``metadata`` that names its server. It is not sent. DSPy's cache key contains the metadata but
# not the engine's address, so this entry separates the replies of two servers to the same prompt.
SERVER = "server_address"

_EXPECTED_REPLY_TOKENS = 1_000  # estimated tokens of a reply, unless its limit is lower

SILENCE_SECONDS = 15.0  # seconds of silence between warnings
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_MOST_CHARS = 2_000_000  # longest reply accepted: parsing and storing longer ones takes DSPy many seconds

_ANSWERED: set[str] = set()  # servers that have answered this process


class _TranslatedErrors:
    """Translates LiteLLM's exceptions to one line and a class that shows who must act."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def __enter__(self) -> None:
        self._arrivals = transport.watch_arrivals()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        translated: BaseException | None = error
        if isinstance(error, Exception):
            translated = errors.translate_error(error, self._route, has_answered=self._arrivals.any)
        if isinstance(translated, lm15.ContextLengthError):
            local_servers.forget_server(self._route.own_base)  # it may have been restarted with another window
        if error is not None and translated is not None and translated is not error:
            raise translated from errors.cause(error, self._route)


class _Routed:
    """What the sync and the async engine share."""

    route: Route
    notes_requests = True

    def load(self) -> None:
        """Import LiteLLM, which takes seconds, before a run's clock starts."""
        with paused_garbage_collection():
            get_litellm(feature="rlm_dspy.lm")

    def _check_key(self) -> None:
        key = self.route.key
        if key is None and not self.route.keyless:
            raise errors.missing_key(self.route)
        if key and (not key.isascii() or any(char.isspace() or ord(char) < 32 for char in key)):
            raise errors.bad_key(self.route)
        if key and key[0] in "'\"" and key[0] == key[-1]:
            raise errors.quoted_key(self.route)

    @property
    def window(self) -> int | None:
        """The window in tokens that the server allocates, if it is the user's own and reports it."""
        return self.route.served_window()

    def _check_response(self, request: Request, response: Response) -> Response:
        """Refuse a reply to a truncated prompt, and one longer than any model writes."""
        self._mark_reachable()
        if len(response.text or "") > _MOST_CHARS:
            raise errors.invalid_reply(self.route, f"has {len(response.text or ''):,} characters")
        self._check_prompt_was_read(request, response.usage.input_tokens)
        return response

    def _check_prompt_was_read(self, request: Request, read: int | None) -> None:
        """Refuse a reply whose server read fewer tokens than the prompt must have."""
        sent = transport.cut_prompt_tokens(request, read)
        if sent is not None and read is not None:
            raise errors.cut_prompt(self.route, read, sent)

    def _mark_reachable(self) -> None:
        _ANSWERED.add(self.route.server_key)

    def _retry_delay(self, tries: RetryState, error: Exception) -> float | None:
        """Return how long to wait before the next attempt; a server that has answered before may come back."""
        was_there = self.route.server_key in _ANSWERED
        if isinstance(error, lm15.TransportError) and was_there:
            error.final = False
        return tries.pause(error, garbled=was_there and getattr(error, "garbled", False))

    def _show_wait(self, seconds: float, *, retry: bool = False) -> Any:
        """Return a context manager that counts and shows a wait."""
        return metered_wait(self.route.model, self.route.server_name, seconds, retry=retry)

    def _can_fall_back(self, error: Exception) -> bool:
        """Whether the fallback should answer instead."""
        return self.route.fallback is not None and isinstance(error, _FALL_BACK)

    def _fallback_route(self) -> Route | None:
        """Return the route of the fallback; None means the offline engine."""
        if self.route.fallback == OFFLINE:
            return None
        return self.route.fallback_route()

    def _check_stream_end(self, request: Request, event: Any, source: Any) -> Any:
        """Check and complete the end of a stream like a finished reply."""
        self._mark_reachable()
        self._check_prompt_was_read(request, event.usage.input_tokens if event.usage else None)
        if event.usage:
            price = cost_from_table(self.route.model, event)
        else:
            price = None
        return replace(event, provider_data={**(event.provider_data or {}), "cost": price, **reported_limits(source)})

    def _checked_reply(self, raw: Any) -> Any:
        """Return LiteLLM's reply if it has any choices."""
        if not getattr(raw, "choices", None):
            raise errors.invalid_reply(self.route, "has no choices")
        counts = [getattr(getattr(raw, "usage", None), name, None) for name in _COUNTS]
        if any(isinstance(count, int) and not 0 <= count <= MOST_TOKENS for count in counts):
            logger.warning("%s reports an impossible usage of %s tokens: it is estimated", self.route.model, counts)
            raw.usage = None
        return raw

    def _with_cost(self, response: Response, raw: Any) -> Response:
        """Return the response with its cost and the provider's limits."""
        data = {**(response.provider_data or {}), "cost": self._reply_cost(response, raw), **reported_limits(raw)}
        return replace(response, provider_data=data)

    def _reply_cost(self, response: Response, raw: Any) -> float | None:
        """Return what a reply cost; LiteLLM's figure, which trusts any count that it is sent, is the last resort."""
        price = cost_from_table(self.route.model, response)
        if price is not None:
            return price
        estimate: float | None = (getattr(raw, "_hidden_params", None) or {}).get("response_cost")
        return estimate or None

    async def _call_limiter(self, call: Callable[[rate_limits.RequestLimiter], Any]) -> Any:
        """Return what a call of the model's limiter returns; that of many processes is called in a thread."""
        route = self.route
        per_minute = route.requests_per_minute or route.provider.per_minute
        pace = route.pace
        if pace is None:
            return call(rate_limits.shared_limiter(route.server_key, route.model, per_minute))
        return await asyncio.to_thread(lambda: call(pace.limiter(route.server_key, route.model, per_minute)))

    async def _learn_limits(self, reply: Any) -> None:
        """Learn from the limits that a finished reply, or the end of a stream, reports."""
        limits = (reply.provider_data or {}).get("limits")
        if limits:
            stretch = self.route.requests_per_minute is None
            await self._call_limiter(lambda limiter: limiter.learn_limits(limits, stretch=stretch))

    async def _token_waits(self, request: Request) -> AsyncIterator[float]:
        """Yield successive waits in seconds until the provider has tokens left for a request."""
        size = transport.request_chars(request) // CHARS_PER_TOKEN + min(
            request.config.max_tokens or _EXPECTED_REPLY_TOKENS, _EXPECTED_REPLY_TOKENS
        )
        while wait := await self._call_limiter(lambda limiter: limiter.token_wait(size)):
            if wait > LONGEST_WAIT:
                raise errors.no_tokens_left(self.route, wait)
            yield wait

    async def _await_turn(self) -> None:
        """Wait for the next start within the provider's limit; a call that is cancelled meanwhile gives it back."""
        wait = await self._call_limiter(lambda limiter: limiter.reserve())
        if not wait:  # even an empty sleep yields the processor
            return
        loop = asyncio.get_running_loop()
        start = loop.time() + wait
        try:
            with self._show_wait(wait):
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            await self._call_limiter(lambda limiter: limiter.give_back(start - loop.time()))
            raise

    def _server_slot(self) -> threading.Semaphore | None:
        return rate_limits.server_slot(self.route.server_key, self.route.slots)

    def dump_state(self) -> dict[str, Any]:
        """Return the state for a saved program: the route without its secrets."""
        return self.route.state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Any:
        """Restore the engine of a saved program; its key comes from the environment."""
        return cls(Route(**state))  # type: ignore[call-arg]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.route.model!r})"


class AsyncRoutedEngine(_Routed, AsyncLiteLLMEngine):  # type: ignore[misc]
    """Performs requests through LiteLLM; never blocks the event loop, and cancelling ends any wait."""

    complete_legacy = None  # else DSPy would bypass the route

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route

    async def complete(self, request: Request) -> Response:
        """Perform one request, or the fallback's if it fails in a way that allows one."""
        (response,) = [item async for item in self._perform_request(request, self._complete_once)]
        return response

    def stream(self, request: Request) -> AsyncIterator[Any]:
        """Perform one request as a stream of events; once text has arrived, a failure is final."""
        return self._perform_request(request, self._stream_once)

    async def _perform_request(
        self, request: Request, attempt: Callable[[Request], AsyncGenerator[Any]]
    ) -> AsyncGenerator[Any]:
        """Yield the items of the first attempt that works, or of the fallback."""
        note_request()
        tries = RetryState(self.route.retries)
        while True:
            begun = False
            try:
                async with aclosing(attempt(request)) as items:
                    async for item in items:
                        begun = True
                        yield item
                return
            except lm15.LM15Error as error:
                pause = None if begun else self._retry_delay(tries, error)
                if pause is None and (begun or not self._can_fall_back(error)):
                    raise
            if pause is None:
                break
            with self._show_wait(pause, retry=True):
                await asyncio.sleep(pause)
        fallback = self._fallback_route()
        engine: Any = AsyncRoutedEngine(fallback) if fallback else AsyncOfflineEngine()
        request = replace(request, model=fallback.model if fallback else MODEL)
        if attempt != self._stream_once:
            yield _with_model_name(await engine.complete(request), request.model)
            return
        async with aclosing(engine.stream(request)) as items:
            async for item in items:
                yield _with_model_name(item, request.model)

    async def _await_start(self, request: Request) -> None:
        self._check_key()
        await asyncio.to_thread(self._load_slow_parts)
        async for wait in self._token_waits(request):
            with self._show_wait(wait):
                await asyncio.sleep(wait)
        await self._await_turn()

    async def _complete_once(self, request: Request) -> AsyncGenerator[Response]:
        is_shown = streams.ON_TEXT.get() is not None
        if is_shown or await asyncio.to_thread(lambda: self.route.is_streamed):  # the server may have to be asked first
            events = streams.shown_events(self._stream_once(request))
            yield await lm15.amaterialize_response(events, request)
            return
        await self._await_start(request)
        async with _HeldSlot(self._server_slot()):
            with _TranslatedErrors(self.route), bound_replies(), _reporting_silence(self.route):
                async with asyncio.timeout(self.route.timeout):
                    response = await super().complete(request)
        await self._learn_limits(response)
        yield self._check_response(request, response)

    async def _stream_once(self, request: Request) -> AsyncGenerator[Any]:
        await self._await_start(request)
        codec, ready = ChatStream(request), []
        silence = _Silence(self.route)
        async with _HeldSlot(self._server_slot()):
            with _TranslatedErrors(self.route):
                litellm = get_litellm(feature="rlm_dspy.lm")
                arguments = self._arguments(request, streaming=True)
                source = await silence.wait_for(litellm.acompletion(**arguments))
                streams.watch_lines(source, self.route)
                async with aclosing_stream(source):
                    while (chunk := await silence.wait_for(anext(source, None))) is not None:
                        ready += codec.feed(chunk)
                        if ready and ready[-1].type != "start":  # a start event carries no text yet
                            silence.end()
                            for event in ready:
                                yield event
                            ready = []
                    streams.check_end(source, self.route)
                    end = self._check_stream_end(request, codec.finish(litellm), source)
                    await self._learn_limits(end)
                    for event in [*ready, end]:
                        yield event

    def _load_slow_parts(self) -> None:
        """Do the slow work in a thread: import LiteLLM, ask the server for its window and slots."""
        self.load()
        self.route.arguments()
        _ = self.route.slots

    def _arguments(self, request: Request, *, streaming: bool = False) -> dict[str, Any]:
        data: dict[str, Any] = super()._arguments(request, streaming=streaming)
        return without_address(data) | self.route.arguments() | {"model": self.route.wire_model}

    def _response(self, raw: Any, request: Request) -> Response:
        return self._with_cost(super()._response(self._checked_reply(raw), request), raw)


class RoutedEngine(_Routed):
    """Performs requests with the async engine, and blocks until they are done."""

    def __init__(self, route: Route) -> None:
        self.route = route

    def complete(self, request: Request) -> Response:
        """Perform one request, or the fallback's if it fails in a way that allows one."""
        response: Response = result_of(AsyncRoutedEngine(self.route).complete(request))
        return response

    def stream(self, request: Request) -> Iterator[Any]:
        """Perform one request as a stream of events; once text has arrived, a failure is final."""
        return items_of(AsyncRoutedEngine(self.route).stream(request))

    def close(self) -> None:
        """Do nothing: connections are shared by the process."""


def without_address(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without the server's address, which is only for the cache."""
    metadata = {name: value for name, value in (arguments.pop("metadata", None) or {}).items() if name != SERVER}
    return arguments | ({"metadata": metadata} if metadata else {})


class _Silence:
    """Limits how long a stream may be silent; keep-alives and empty chunks count as silence."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._shown = "has not answered"
        self._since = asyncio.get_running_loop().time()

    def end(self) -> None:
        """Restart the timeout, because something arrived."""
        self._shown = "has sent no more of its reply"
        self._since = asyncio.get_running_loop().time()

    async def wait_for(self, step: Awaitable[Any]) -> Any:
        """Await a step of the stream.

        Raises:
            TimeoutError: the step takes too long.
        """
        with bound_replies(), _reporting_silence(self._route, self._since, self._shown):
            async with asyncio.timeout_at(self._since + self._route.timeout):
                return await step


_reported: dict[str, float] = {}


@contextmanager
def _reporting_silence(route: Route, since: float | None = None, silence: str = "has not answered") -> Iterator[None]:
    """Warn every ``SILENCE_SECONDS`` seconds while a server does not answer, once for all calls that wait for it."""
    loop = asyncio.get_running_loop()
    started = loop.time() if since is None else since
    timers: list[asyncio.TimerHandle] = []

    def report() -> None:
        now = loop.time()
        if now - _reported.get(route.model, -SILENCE_SECONDS) >= SILENCE_SECONDS - 1:
            _reported[route.model] = now
            shown = (route.server_name, route.model, silence, now - started, route.timeout)
            logger.warning("%s (%s) %s for %.0f s; one try may take %g s (timeout)", *shown)
        timers[:] = [loop.call_later(SILENCE_SECONDS, report)]

    timers.append(loop.call_at(max(loop.time(), started + SILENCE_SECONDS), report))
    try:
        yield
    finally:
        timers[0].cancel()


class _HeldSlot:
    """Holds a slot of a server; waiting for it does not block the event loop."""

    def __init__(self, slot: threading.Semaphore | None) -> None:
        self._slot = slot

    async def __aenter__(self) -> None:
        while self._slot is not None and not self._slot.acquire(blocking=False):
            await asyncio.sleep(0.02)

    async def __aexit__(self, *_: object) -> None:
        if self._slot is not None:
            self._slot.release()


def reported_limits(raw: Any) -> dict[str, Any]:
    """Return the provider's limits from the headers of LiteLLM's reply, as ``limits`` if there are any."""
    headers = dict(getattr(raw, "_response_headers", None) or {})
    limits = {name.lower(): value for name, value in headers.items() if "ratelimit" in name.lower()}
    if limits:
        return {"limits": limits}
    return {}


def cost_from_table(model: str, response: Any, *, in_batch: bool = False) -> float | None:
    """Return what a reply cost in US dollars by the packaged table; 0.0 on this machine, None if unknown."""
    used = response.usage
    if used.input_tokens is None or used.output_tokens is None:
        if model.startswith(FREE_PROVIDERS):
            return 0.0
        return None
    return token_cost(model, used.input_tokens, used.output_tokens, used.cache_read_tokens or 0, in_batch=in_batch)


def _with_model_name(item: Any, model: str) -> Any:
    """Set the fallback's model name on its response or stream end, so that usage is counted under it."""
    if getattr(item, "type", "end") != "end":
        return item
    return replace(item, provider_data={**(item.provider_data or {}), "answered_by": model})
