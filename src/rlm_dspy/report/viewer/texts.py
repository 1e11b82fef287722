"""The texts of a page: each kept once, with secrets masked and control characters escaped."""

from __future__ import annotations

from rlm_dspy.redact import Redactor
from rlm_dspy.report.render import printable_text

MAX_CHARS = 1_000_000  # of one text


class TextTable:
    """Unique texts by number.

    Every text of a record passes through it on its way into a page, so that nothing is shown unmasked.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._numbers: dict[str, int] = {}  # by the text as recorded
        self.texts: list[str] = []

    def number_of(self, text: str) -> int:
        """Return the number of a text; the same text always has the same."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(self.shown_text(text))
        return number

    def shown_text(self, text: str, limit: int = MAX_CHARS) -> str:
        """Return a text as a page shows it; what is left out beyond ``limit`` characters is stated at its end."""
        masked = self._redactor.text(text)  # before the cut, which could leave a part of a secret
        left_out = len(masked) - limit
        shown = printable_text(masked[:limit])
        if left_out > 0:
            shown += f"\n[… {left_out:,} more characters are not in this page; `rlm-dspy trace RUN --json` has them]"
        return shown.encode("utf-8", "replace").decode()
