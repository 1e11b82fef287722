"""A sandbox for each test that asks for one."""

import pytest

from rlm_dspy.sandbox import Sandbox


@pytest.fixture
def sandbox():
    with Sandbox(timeout=5.0) as made:
        yield made
