"""One pace for all workers of a Dask cluster, kept by its scheduler.

The scheduler keeps it, not an actor: an actor is lost with its worker, but the scheduler outlives every worker, and a
batch ends with it anyway. Needs ``distributed``; the scheduler must be able to import this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.utils import sync

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.file_pace import SHARED_WINDOW_SECONDS
from rlm_dspy.lms.rate_limits import RateLimiter

_OPERATION = "rlm_dspy_pace"


class SchedulerPace(SchedulerPlugin):
    """Keeps the limiters in the scheduler's process."""

    name = "rlm-dspy-pace"
    idempotent = True  # a second batch of the cluster shares the pace of the first

    def __init__(self) -> None:
        self._limiters: dict[tuple[str, str, int | None], RateLimiter] = {}

    async def start(self, scheduler: Any) -> None:
        """Register the operation that workers call."""
        scheduler.handlers[_OPERATION] = self.answer_worker

    def __getstate__(self) -> dict[str, Any]:
        return {"_limiters": {}}  # locks cannot be sent

    def answer_worker(self, key: tuple[str, str, int | None], method: str, arguments: Mapping[str, Any]) -> Any:
        """Return what a method of a model's limiter returns."""
        server_key, model, per_minute = key
        fresh = RateLimiter(per_minute, window=SHARED_WINDOW_SECONDS)
        limiter = self._limiters.setdefault((server_key, model, per_minute), fresh)
        methods: dict[str, Callable[..., Any]] = {
            "reserve": limiter.reserve,
            "give_back": limiter.give_back,
            "token_wait": limiter.token_wait,
            "learn_limits": limiter.learn_limits,
        }
        return methods[method](**arguments)


@dataclass(frozen=True)
class DaskPace:
    """Keeps the requests and tokens per minute of all workers of a Dask cluster; :func:`share_pace` returns one."""

    def limiter(self, server_key: str, model: str, per_minute: int | None) -> SchedulerLimiter:
        """Return the limiter that all workers share for a server's model."""
        return SchedulerLimiter(server_key, model, per_minute)


def share_pace(client: distributed.Client) -> DaskPace:
    """Let the scheduler of a cluster keep the pace, and return what a job needs to use it.

    Example:
        >>> job = Job("context, question -> answer", ("docs",), "openai/gpt-4o-mini", pace=share_pace(client))
        ... # doctest: +SKIP
    """
    client.register_plugin(SchedulerPace())
    return DaskPace()


class SchedulerLimiter:
    """Asks the limiter in the scheduler's process.

    Every method raises :class:`~rlm_dspy.errors.ConfigurationError` if this is not a task of a Dask worker.
    """

    def __init__(self, server_key: str, model: str, per_minute: int | None) -> None:
        self._key = (server_key, model, per_minute)

    def reserve(self) -> float:
        """Reserve the next start and return the seconds until then."""
        wait: float = self._ask_scheduler("reserve")
        return wait

    def give_back(self, seconds: float) -> None:
        """Give back a reserved start that is these seconds away."""
        self._ask_scheduler("give_back", seconds=seconds)

    def token_wait(self, tokens: int) -> float:
        """Take the tokens of a request, or return the seconds until the next try."""
        wait: float = self._ask_scheduler("token_wait", tokens=tokens)
        return wait

    def learn_limits(self, limits: Mapping[str, str], *, stretch: bool = False) -> None:
        """Learn from a reply's headers; ``stretch`` if their request limit is per day."""
        self._ask_scheduler("learn_limits", limits=dict(limits), stretch=stretch)

    def _ask_scheduler(self, method: str, **arguments: Any) -> Any:
        try:
            worker = distributed.get_worker()
        except ValueError as error:
            raise ConfigurationError("a DaskPace works only in tasks of Dask workers; leave pace out here") from error
        question = getattr(worker.scheduler, _OPERATION)
        return sync(worker.loop, question, key=self._key, method=method, arguments=arguments)
