"""Limits of a provider: spaced by the minute, and by what its headers tell; the clock is simulated where it can be."""

from __future__ import annotations

import random

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.lms import lm, rate_limits
from rlm_dspy.metering import Meter
from servers.openai import LIMITS, OpenAIServer

MODEL = "groq/openai/gpt-oss-20b"


class Bucket:
    """A provider's tokens of a minute, which flow back all the time, and what its headers say of them."""

    def __init__(self, most: int, now: list[float]) -> None:
        self.most, self.now = most, now
        self.left, self.at = float(most), now[0]

    def _refill(self) -> None:
        self.left = min(self.most, self.left + (self.now[0] - self.at) * self.most / 60)
        self.at = self.now[0]

    def take(self, tokens: int) -> bool:
        self._refill()
        if tokens > self.left:
            return False
        self.left -= tokens
        return True

    def headers(self) -> dict[str, str]:
        self._refill()
        return {
            "x-ratelimit-limit-tokens": str(self.most),
            "x-ratelimit-remaining-tokens": str(int(self.left)),
            "x-ratelimit-reset-tokens": f"{(self.most - self.left) / self.most * 60:.3f}s",
        }


def groq(server: OpenAIServer, **options: object) -> dspy.LM:
    return lm(MODEL, **{"api_base": server.url, "api_key": server.key, "cache": False, **options})


def left(tokens: int, reset: str) -> dict[str, str]:
    return LIMITS | {"x-ratelimit-remaining-tokens": str(tokens), "x-ratelimit-reset-tokens": reset}


def test_the_limit_per_minute_holds_in_every_minute() -> None:
    now = [0.0]
    limit = rate_limits.RateLimiter(30, clock=lambda: now[0])
    starts = []
    for _ in range(200):
        now[0] += limit.reserve()
        starts.append(now[0])
        now[0] += 0.5
    assert all(later - first >= 60 for first, later in zip(starts, starts[30:], strict=False))
    assert starts[-1] < 6.7 * 60


def test_a_start_that_was_given_back_is_reserved_again() -> None:
    now = [0.0]
    limit = rate_limits.RateLimiter(2, clock=lambda: now[0])
    assert [limit.reserve() for _ in range(6)] == [0, 0, 60, 60, 120, 120]
    now[0] = 1.0
    for seconds in (119, 59, 59, 119):
        limit.give_back(seconds)
    assert [limit.reserve() for _ in range(3)] == [59, 59, 119]


@given(st.lists(st.tuples(st.sampled_from(["reserve", "give back", "wait"]), st.integers(0, 40)), max_size=60))
def test_no_minute_has_too_many_starts_whatever_is_given_back(steps: list[tuple[str, int]]) -> None:
    now = [0.0]
    limit = rate_limits.RateLimiter(3, clock=lambda: now[0])
    starts: list[float] = []
    for step, number in steps:
        waiting = [start for start in starts if start > now[0]]
        if step == "reserve":
            starts.append(now[0] + limit.reserve())
        elif step == "wait":
            now[0] += number
        elif waiting:
            start = waiting[number % len(waiting)]
            limit.give_back(start - now[0])
            starts.remove(start)
    starts.sort()
    assert all(later - first >= 60 for first, later in zip(starts, starts[3:], strict=False))


def test_runs_that_end_while_they_wait_for_their_turn_do_not_hold_up_later_ones() -> None:
    with OpenAIServer() as server:
        model = groq(server, requests_per_minute=2)
        limit = rate_limits.shared_limiter(server.url, MODEL, 2)
        with dspy.context(lm=model):
            for _ in range(2):
                model("hi")
            for _ in range(4):
                with pytest.raises(BudgetExceededError):
                    rlm_dspy.RLM("question -> answer", max_seconds=0.3)(question="q")
        assert limit.reserve() <= 60


@pytest.mark.parametrize("seed", range(5))
def test_no_request_is_refused_for_its_tokens_and_none_waits_longer_than_a_minute(seed: int) -> None:
    chance, now = random.Random(seed), [0.0]
    bucket, limit = Bucket(8_000, now), rate_limits.RateLimiter(None, clock=lambda: now[0])
    sent = 0
    for _ in range(200):
        size = chance.randint(100, 6_000)
        while wait := limit.token_wait(size):
            assert wait <= 60
            now[0] += wait
        assert bucket.take(size)
        limit.learn_limits(bucket.headers())
        sent += size
        now[0] += chance.random() * 3
    assert now[0] < 2.5 * 60 * sent / bucket.most  # at the worst, every refill is waited for to its end


def test_threads_that_begin_together_share_what_is_left() -> None:
    now = [0.0]
    limit = rate_limits.RateLimiter(None, clock=lambda: now[0])
    limit.learn_limits(left(5_000, "20s"))
    assert [limit.token_wait(2_000) for _ in range(4)] == [0.0, 0.0, 20.0, 20.0]
    now[0] = 20.0
    assert [limit.token_wait(2_000) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 60.0]


def test_a_request_larger_than_the_limit_does_not_wait_for_what_cannot_come() -> None:
    limit = rate_limits.RateLimiter(None)
    limit.learn_limits(left(0, "59s"))
    assert limit.token_wait(8_001) == 0.0
    assert limit.token_wait(8_000) > 0.0


def test_a_plan_with_many_requests_a_day_is_not_held_to_the_free_ones_minute() -> None:
    limit = rate_limits.RateLimiter(30)
    limit.learn_limits({"x-ratelimit-limit-requests": "14400"}, stretch=True)
    assert limit.per_minute == 30
    limit.learn_limits({"x-ratelimit-limit-requests": "500000"})
    assert limit.per_minute == 30
    limit.learn_limits({"x-ratelimit-limit-requests": "500000"}, stretch=True)
    assert limit.per_minute == 347


@pytest.mark.parametrize(
    ("text", "found"),
    [("7.66s", 7.66), ("1m26.4s", 86.4), ("120ms", 0.12), ("2h3m", 7380.0), ("12", 12.0), ("1d", 86400.0)],
)
def test_durations_are_read_as_headers_have_them(text: str, found: float) -> None:
    assert rate_limits.parse_duration(text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "soon", "1.2.3s", "5 s", "-4s", "s"])
def test_a_header_that_is_no_duration_tells_nothing(text: str) -> None:
    limit = rate_limits.RateLimiter(None)
    limit.learn_limits(left(0, text))
    assert limit.token_wait(10) == 0.0


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_too_few_tokens_left_are_waited_for_counted_and_shown(way: str) -> None:
    shown: list[tuple[str, float]] = []
    meter = Meter(lambda provider, seconds: shown.append((provider, seconds)))
    with OpenAIServer(headers=left(200, "1.2s")) as server, dspy.context(callbacks=[meter]):
        model = groq(server)
        for prompt in ("one", "two"):
            assert (model(prompt) if way == "sync" else await model.acall(prompt)) == ["hello"]
    assert meter.usage.waited_seconds > 0.5
    assert meter.usage.retries == 0
    assert [(provider, 1.0 <= seconds <= 1.2) for provider, seconds in shown] == [("Groq", True)]


def test_a_small_reply_needs_few_tokens_to_be_left() -> None:
    meter = Meter()
    with OpenAIServer(headers=left(200, "59s")) as server, dspy.context(callbacks=[meter]):
        model = groq(server, max_tokens=16)
        assert model("one") == model("two") == ["hello"]
    assert meter.usage.waited_seconds == 0


def test_a_wait_for_tokens_of_more_than_a_minute_is_a_quota_error_before_any_request() -> None:
    with OpenAIServer(headers=left(0, "5m")) as server:
        model = groq(server)
        model("one")
        with pytest.raises(dspy.LMBillingError, match="no tokens left in your quota for 5 min") as caught:
            model("two")
        assert len(server.posts) == 1
    assert 290 < caught.value.retry_after <= 300


def test_each_model_has_tokens_of_its_own() -> None:
    with OpenAIServer(headers=left(0, "5m")) as server:
        groq(server)("one")
        other = lm("groq/openai/gpt-oss-120b", api_base=server.url, api_key=server.key, cache=False)
        assert other("two") == ["hello"]


def test_a_run_that_ends_while_it_waits_says_so_and_is_not_billed_for_what_was_not_sent() -> None:
    with OpenAIServer() as server, dspy.context(lm=groq(server, requests_per_minute=1)):
        dspy.settings.lm("hi")
        with pytest.raises(BudgetExceededError, match=r"the last call was waiting \d+ s for Groq") as caught:
            rlm_dspy.RLM("question -> answer", max_seconds=0.5)(question="q")
    usage = caught.value.run.usage
    assert (usage.calls, usage.estimated_calls, usage.prompt_tokens) == (1, 0, 0)
    assert usage.waited_seconds > 0
