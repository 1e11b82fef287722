"""What the offline engine reads out of a passage for each kind of question and each type of output."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import dspy
import pytest

from rlm_dspy.lms import offline_lm

CODE = """=== src/net.py (40 lines) ===
import os
from base import Node

CACHE_DIR = os.environ.get("APP_CACHEDIR", "/tmp/app")
SIZES = [1, 2, 3]
TIMEOUT_CONFIG = Timeout(connect=5.0)


class Link(Node):
    \"\"\"Joins two nodes.\"\"\"

    def open(self, host, port=9000, *, retries: int = 3, mode: str | None = None) -> bool:
        if not host:
            raise LinkError("no host")
        return True


class FastLink(Link):
    ratio = 0.75


class SlowLink(Link):
    def wait(self):
        raise LinkError("slow")


def connect(limit: int = 8):
    raise TimeoutError("too slow")
"""
PROSE = """=== notes.md (12 lines) ===
# Release

- Version 2.1 was released on 2024-05-06 by Grace Hopper.
- Version 1.0 was released in May 3, 1999.
- The archive holds 12,070 recorded steps and needs 140 MB of memory.
- Start takes 90 ms.

| setting | default |
|---|---|
| `depth` | 3 |

Installing it:

```
pip install thing
```
"""


def ask(question: str, context: str = CODE, kind: Any = str) -> Any:
    signature = dspy.Signature("context, question -> value").with_updated_fields("value", type_=kind)
    with dspy.context(lm=offline_lm()):
        return dspy.Predict(signature)(context=context, question=question).value


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("which classes inherit from Link?", "FastLink, SlowLink"),
        ("which classes raise LinkError?", "Link, SlowLink"),
        ("which functions raise LinkError?", "Link.open, SlowLink.wait"),
        ("which module raises LinkError?", "src/net.py:14"),
        ("what does connect raise?", "TimeoutError"),
        ("what is the base class of Link?", "Node"),
        (
            "what parameters does the open method take?",
            "(self, host, port=9000, *, retries: int = 3, mode: str | None = None)",
        ),
        ("what does the open method return?", "bool"),
        ("which environment variable sets the cache directory?", "APP_CACHEDIR"),
        ("what is the default of retries in Link.open?", "3"),
        ("what is the default port of Link.open?", "9000"),
        ("what is the default mode in Link?", "None"),
        ("what is the default cache directory?", '"/tmp/app"'),
        ("what is SIZES?", "SIZES = [1, 2, 3]"),
        ("what is the value of TIMEOUT_CONFIG?", "Timeout(connect=5.0)"),
        ("which file defines FastLink?", "src/net.py:18"),
        ("what does Link do?", "class Link(Node): Joins two nodes."),
    ],
)
def test_questions_about_code(question: str, answer: str) -> None:
    assert ask(question) == answer


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("when was version 2.1 released?", "2024-05-06"),
        ("who released version 2.1?", "Grace Hopper"),
        ("how many recorded steps does the archive hold?", "12,070"),
        ("how much memory does the archive need?", "140 MB"),
        ("how long does start take?", "90 ms"),
        ("what is the default depth?", "3"),
        ("how is installing done?", "pip install thing"),
        ("what is the capital of France?", "Nothing was found"),
    ],
)
def test_questions_about_prose(question: str, part: str) -> None:
    assert part in ask(question, PROSE)


@pytest.mark.parametrize(
    ("question", "kind", "value"),
    [
        ("when was version 2.1 released?", datetime.date, datetime.date(2024, 5, 6)),
        ("when was version 1.0 released?", datetime.date, datetime.date(1999, 5, 3)),
        ("how many recorded steps does the archive hold?", int, 12070),
        ("how much memory does the archive need?", bool, True),
        ("what is the default depth?", int | None, 3),
        ("what is the default depth?", float, 3.0),
        ("what is the mass of tungsten?", bool, False),
        ("what is the mass of tungsten?", int | None, None),
        ("what is the mass of tungsten?", list[str], []),
        ("what is the mass of tungsten?", dict[str, int], {}),
        ("what is the mass of tungsten?", float, 0.0),
        ("what is the mass of tungsten?", Literal["heavy", "unknown"], "unknown"),
    ],
)
def test_types_are_filled_or_left_empty(question: str, kind: Any, value: Any) -> None:
    assert ask(question, PROSE, kind) == value


def test_lists_are_names_or_numbers() -> None:
    assert ask("which classes inherit from Link?", CODE, list[str]) == ["FastLink", "SlowLink"]
    assert ask("what is the value of SIZES?", CODE, list[int]) == [1, 2, 3]
