"""The ledger of a tree: reserve before, settle after, charge every ancestor."""

from __future__ import annotations

import logging

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from pydantic import ValidationError

import rlm_dspy
from rlm_dspy.budget import Budget, Ledger, Reservation
from rlm_dspy.errors import BudgetExceededError, ConfigurationError, DepthExceededError
from rlm_dspy.metering import token_cost
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.run import Usage


@pytest.mark.parametrize("depth", [1, 10, 50])
def test_depths_up_to_fifty_are_accepted(depth: int) -> None:
    assert Budget(max_depth=depth).max_depth == depth


@pytest.mark.parametrize(
    "limits",
    [{"max_depth": 51}, {"max_iters": 0}, {"max_llm_calls": -1}, {"max_cost": 0}, {"max_seconds": -1}, {"max": 3}],
)
def test_limits_that_cannot_work_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Budget(**limits)  # type: ignore[arg-type]


def test_a_depth_over_twenty_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Budget(max_depth=21)
    assert "High recursion depth: 21" in caplog.text


def test_a_depth_error_names_both_depths() -> None:
    error = DepthExceededError(3, 2)
    assert (error.depth, error.max_depth, str(error)) == (3, 2, "Depth 3 exceeds max 2")


def test_a_child_charges_every_ancestor() -> None:
    root = Ledger(Budget(max_llm_calls=2))
    grandchild = Ledger(Budget(), Ledger(Budget(), root))
    grandchild.reserve(10, sub_call=True).settle(Usage(calls=1, prompt_tokens=7, completion_tokens=3, cost=0.5))
    assert root.usage == Usage(calls=1, prompt_tokens=7, completion_tokens=3, cost=0.5)
    assert root.sub_calls == 1
    grandchild.reserve(10, sub_call=True)
    with pytest.raises(BudgetExceededError, match="2 \\+ 1 > 2"):
        grandchild.reserve(10, sub_call=True)


def test_what_is_used_of_a_limit_is_that_of_the_ledger_with_the_least_left() -> None:
    root = Ledger(Budget(max_llm_calls=50, max_tokens=1_000))
    child = Ledger(Budget(max_llm_calls=5, max_tokens=2_000), root)
    child.reserve(10, sub_call=True).settle(Usage(calls=1, prompt_tokens=400, cost=0.5))
    assert child.used_text("max_llm_calls") == "1 of 5 sub-calls"
    assert child.used_text("max_tokens") == "400 of 1,000 tokens"
    assert child.used_text("max_cost") == child.used_text("stop") == child.used_text("max_iters") == ""


def test_a_cost_is_overspent_wherever_in_the_tree_it_is_limited() -> None:
    root = Ledger(Budget(max_tokens=100, max_cost=0.5))
    child = Ledger(Budget(), root)
    assert not child.is_overspent
    child.charge(Usage(calls=1, prompt_tokens=400, cost=0.5))
    assert child.exhausted() == "max_tokens"
    assert child.is_overspent


def test_a_settlement_counts_once() -> None:
    ledger = Ledger(Budget())
    reservation = ledger.reserve(5, sub_call=True)
    reservation.settle(Usage(calls=1, prompt_tokens=2))
    reservation.settle(Usage(calls=1, prompt_tokens=2))
    assert ledger.usage.prompt_tokens == 2


def test_an_unknown_price_warns_once_and_stays_unknown(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(Budget(max_cost=1.0))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ledger.reserve(1, sub_call=True).settle(Usage(calls=1, cost=None))
    assert caplog.text.count("unknown") == 1
    assert ledger.usage.cost is None


def test_a_call_of_unknown_price_does_not_lift_the_cap_on_the_others() -> None:
    root = Ledger(Budget(max_cost=1.0))
    child = Ledger(Budget(), root)
    child.charge(Usage(calls=1, cost=None))
    child.charge(Usage(calls=1, cost=1.5))
    assert root.usage.cost is None
    assert child.exhausted() == "max_cost"
    with pytest.raises(BudgetExceededError, match="max_cost"):
        child.reserve(1, sub_call=True)


def test_the_nearest_clock_of_the_chain_counts() -> None:
    now = [0.0]
    root = Ledger(Budget(max_seconds=10), clock=lambda: now[0])
    child = Ledger(Budget(max_seconds=100), root, clock=lambda: now[0])
    now[0] = 9.0
    assert child.seconds_left == 1.0
    now[0] = 11.0
    assert child.seconds_left == 0.0
    assert child.exhausted() == "max_seconds"


class Tree(RuleBasedStateMachine):
    """Any interleaving of reservations and settlements in a tree keeps the root within its limits."""

    PRICE = 1 / 1024  # US dollars per token; sums of it are exact
    ledgers = Bundle("ledgers")
    flights = Bundle("flights")

    def __init__(self) -> None:
        super().__init__()
        self.root = Ledger(Budget(max_llm_calls=12, max_tokens=1000, max_cost=700 * self.PRICE))
        self.open = 0
        self.largest = 0

    @rule(target=ledgers)
    def begin(self) -> Ledger:
        return Ledger(Budget(max_llm_calls=8), self.root)

    @rule(target=ledgers, parent=ledgers)
    def descend(self, parent: Ledger) -> Ledger:
        return Ledger(Budget(max_llm_calls=5), parent)

    @rule(target=flights, ledger=ledgers, tokens=st.integers(1, 200))
    def reserve(self, ledger: Ledger, tokens: int) -> tuple[Reservation, int] | None:
        try:
            reservation = ledger.reserve(tokens, sub_call=True, cost=tokens * self.PRICE)
        except BudgetExceededError:
            return None
        self.open += tokens
        return reservation, tokens

    @rule(flight=consumes(flights), real=st.integers(0, 200))
    def settle(self, flight: tuple[Reservation, int] | None, real: int) -> None:
        if flight:
            used = min(real, flight[1])
            flight[0].settle(Usage(calls=1, prompt_tokens=used, cost=used * self.PRICE))
            self.open -= flight[1]

    @invariant()
    def the_root_holds_its_limits(self) -> None:
        assert self.root.sub_calls <= 12
        assert self.root.usage.total_tokens + self.open <= 1000
        assert self.root.known_cost + self.open * self.PRICE <= 700 * self.PRICE


Tree.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestTree = Tree.TestCase


def test_a_budget_replaces_the_separate_limits_and_excludes_them() -> None:
    budget = rlm_dspy.Budget(max_iters=3, max_cost=0.5)
    assert rlm_dspy.RLM("context, question -> answer", budget=budget).budget is budget
    with pytest.raises(ConfigurationError, match="budget= holds all limits"):
        rlm_dspy.RLM("context, question -> answer", max_iters=3, budget=budget)


def test_a_budget_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="budget must be an rlm_dspy"):
        rlm_dspy.RLM("context, question -> answer", budget={"max_iters": 3})
    with pytest.raises(ConfigurationError, match="budget must be"):
        Direct("context, question -> answer", budget={"max_iters": 3})


def test_children_are_shown_to_optimizers_only_where_the_budget_has_them() -> None:
    rlm = rlm_dspy.RLM("context, question -> answer", budget=Budget(max_depth=0), tune_children=True)
    assert [name for name, _ in rlm.named_predictors()] == ["generate_action", "extract"]


def test_programs_of_the_same_task_share_no_signature() -> None:
    first, second = (rlm_dspy.RLM("context, question -> answer") for _ in range(2))
    first.generate_action.signature.instructions = "Only count."
    assert second.generate_action.signature.instructions != "Only count."
    assert rlm_dspy.RLM("context, question -> answer").generate_action.signature.instructions != "Only count."


def test_a_long_prompt_is_priced_as_its_provider_does() -> None:
    model = "gemini/gemini-2.5-pro"  # twice the price above 200,000 tokens, and one and a half times for the reply
    assert token_cost(model, 200_000, 1_000) == pytest.approx(200_000 * 1.25e-6 + 1_000 * 1e-5)
    assert token_cost(model, 400_000, 1_000) == pytest.approx(400_000 * 2.5e-6 + 1_000 * 1.5e-5)
    cached = 100_000 * 2.5e-7
    assert token_cost(model, 400_000, 0, 100_000) == pytest.approx(300_000 * 2.5e-6 + cached)


def test_a_price_of_long_caching_is_none_of_long_prompts() -> None:
    assert token_cost("anthropic/claude-opus-4-5", 150_000) == pytest.approx(150_000 * 5e-6)


@pytest.mark.parametrize("limit", ["max_seconds", "max_cost"])
def test_infinity_means_no_limit(limit: str) -> None:
    assert getattr(Budget(**{limit: float("inf")}), limit) is None
