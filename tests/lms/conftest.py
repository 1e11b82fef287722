"""What LiteLLM needs in a test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _loop_that_litellm_asks_for(request: pytest.FixtureRequest) -> Iterator[None]:
    # Its sync calls ask for the current event loop, which makes one that nobody closes.
    if inspect.iscoroutinefunction(request.function):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
