"""Engines whose requests go to the provider in batches, and LMs that have them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any, NoReturn, Self

import dspy
from dspy import lm15
from dspy.lm15 import Request, Response

from rlm_dspy.deadlines import result_of
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import errors
from rlm_dspy.lms.engine import AsyncRoutedEngine, RoutedEngine, cost_from_table
from rlm_dspy.lms.provider_batches.anthropic import AnthropicBatches
from rlm_dspy.lms.provider_batches.openai import OpenAIBatches
from rlm_dspy.lms.provider_batches.pending import Lane
from rlm_dspy.lms.provider_batches.protocol import BatchProtocol
from rlm_dspy.lms.provider_batches.waves import FALL_BACK, Waves
from rlm_dspy.lms.providers import Route
from rlm_dspy.metering import MOST_TOKENS, note_request

logger = logging.getLogger(__name__)


class _Wave:
    """What the sync and the async engine share."""

    def load(self) -> None:
        """Do nothing: LiteLLM is needed only after the deadline."""

    def stream(self, request: Request) -> NoReturn:
        """Refuse: a batch has no stream.

        Raises:
            lm15.UnsupportedFeatureError: always.
        """
        raise lm15.UnsupportedFeatureError("A provider batch does not stream; make an ordinary call.")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class AsyncWaveEngine(_Wave, AsyncRoutedEngine):
    """Waits for a wave to bring the reply; after the waves' deadline, performs the request itself."""

    def __init__(self, route: Route, waves: Waves, lane: Lane) -> None:
        super().__init__(route)
        self._waves = waves
        self._lane = lane

    async def complete(self, request: Request) -> Response:
        """Return the reply that a wave brings.

        Raises:
            lm15.LM15Error: the request failed, or its batch.
            BatchStoppedError: no caller is waiting for the batch.
        """
        note_request()
        self._check_key()
        protocol = self._lane.protocol
        future = self._waves.ask(self._lane, protocol.make_body(request))
        body = await asyncio.wrap_future(future)
        if body is FALL_BACK:
            return await AsyncRoutedEngine(self.route).complete(request)
        try:
            response = protocol.parse_reply(request, body)
        except lm15.LM15Error as error:
            raise errors.translate_error(error, self.route) from errors.cause(error, self.route)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a body of another form
            broken = errors.invalid_reply(self.route, "is not one in the provider's form")
            raise broken from errors.cause(error, self.route)
        used = response.usage
        if any(
            count is not None and not 0 <= count <= MOST_TOKENS for count in (used.input_tokens, used.output_tokens)
        ):
            logger.warning("%s reports an impossible usage: it is estimated", self.route.model)
            response = replace(response, usage=lm15.Usage())
        price = cost_from_table(self.route.model, response, in_batch=True)
        priced = replace(response, provider_data={**(response.provider_data or {}), "cost": price})
        return self._check_response(request, priced)


class WaveEngine(_Wave, RoutedEngine):
    """Blocks until a wave has brought the reply; ``in_batch`` says that its calls have the price of a batch."""

    in_batch = True

    def __init__(self, route: Route, engine: AsyncWaveEngine) -> None:
        super().__init__(route)
        self._engine = engine

    def complete(self, request: Request) -> Response:
        """Return the reply that a wave brings."""
        response: Response = result_of(self._engine.complete(request))
        return response


def batched_lm(lm: dspy.LM, waves: Waves) -> dspy.LM:
    """Return a copy of an LM whose calls go to its provider in batches.

    Args:
        lm: made by :func:`rlm_dspy.lm`.
        waves: collects the calls; LMs that share it share their waves.

    Raises:
        ConfigurationError: the LM was made in another way, or its provider has no batches.
    """
    engine = getattr(lm, "engine", None)
    name = getattr(lm, "model", type(lm).__name__)
    if isinstance(engine, WaveEngine):
        return lm
    if not isinstance(engine, RoutedEngine):
        advice = "name a model of a provider that has them, in Python by rlm_dspy.lm"
        raise ConfigurationError(f"{name} cannot be asked in provider batches: {advice}")
    route = engine.route
    lane = waves.open_lane(route, str(route.batch_base), make_protocol(route))
    asynchronous = AsyncWaveEngine(route, waves, lane)
    return lm.copy(engine=WaveEngine(route, asynchronous), async_engine=asynchronous)


def make_protocol(route: Route) -> BatchProtocol:
    """Return the client for the batches of a route's provider.

    Raises:
        ConfigurationError: the provider has none, or its address is unknown.
    """
    kind, base = route.provider.batches, route.batch_base
    if kind is None or base is None:
        raise ConfigurationError(str(errors.no_batches(route, None)))
    if kind == "anthropic":
        return AnthropicBatches(route, base)
    return OpenAIBatches(route, base)
