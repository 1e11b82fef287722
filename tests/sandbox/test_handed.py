"""Large variables travel as descriptors beside the message; each arrives as the variable that it is."""

import pytest

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.sandbox import Sandbox

LARGE = 70_000


class Bad:
    """A value whose own code fails when it is set up inside."""

    def sandbox_setup(self):
        return ""

    def to_sandbox(self):
        return b"x" * LARGE

    def sandbox_assignment(self, name, raw):
        return "1/0"


@pytest.mark.parametrize("count", [17, 64, 200])
def test_many_large_variables_arrive_at_once(sandbox, count):
    def given(mark):
        return {f"v{number}": f"{mark}{number}." * (LARGE // 3) for number in range(count)}

    for mark in "ab":
        done = sandbox.run(f"SUBMIT([globals()[f'v{{n}}'][:5] for n in range({count})])", given(mark))
        assert done.final["output"] == [text[:5] for text in given(mark).values()]


def test_more_large_variables_than_the_kernel_passes_on_are_refused_in_words(sandbox):
    with pytest.raises(ConfigurationError, match="more than 253 large variables at once"):
        sandbox.run("1", {f"v{number}": "x" * LARGE for number in range(254)})
    assert sandbox.run("1").value == "1"


@pytest.mark.parametrize("first", [{"bad": Bad()}, {"bad": bytes(64 << 20)}])
def test_a_refused_variable_leaves_nothing_for_the_next_one(first):
    with Sandbox(memory_mb=16) as sandbox:
        with pytest.raises(ConfigurationError, match="'bad'"):
            sandbox.run("1", first | {"old": "OLD " * LARGE, "older": b"OLDER " * LARGE})
        assert sandbox.run("new[:4], len(new)", {"new": "NEW " * LARGE}).value == f"('NEW ', {4 * LARGE})"


def test_refused_variables_leave_no_descriptors_behind(sandbox):
    for _ in range(120):
        with pytest.raises(ConfigurationError):
            sandbox.run("1", {"bad": Bad(), "a": "a" * LARGE, "b": "b" * LARGE})
    assert sandbox.run("a[0] + b[0]", {"a": "a" * LARGE, "b": "b" * LARGE}).value == "'ab'"
