"""The pages: messages that they explain exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAQ = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### (.+)$", FAQ, re.MULTILINE)


@pytest.fixture(scope="module")
def source() -> str:
    """Every string of the package, joined as the compiler joins them."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))


@pytest.mark.parametrize("message", MESSAGES)
def test_each_explained_message_is_one_of_the_program(message: str, source: str) -> None:
    parts = [part.strip(" .:;,") for part in re.split(r"…|[.] ", message)]
    missing = [part for part in parts if len(part) > 3 and part not in source]
    assert not missing
