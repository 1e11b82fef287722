"""One sum of money for all questions of a batch, divided beforehand.

A ledger can be shared by threads but not by processes, so each question is given a sum of its own as its ``max_cost``.
What is handed out and what is spent never exceed the total together; what a question leaves over goes back.
"""

from __future__ import annotations


class Purse:
    """Divides ``total`` US dollars (None: without end) among questions of which none costs less than ``least``."""

    def __init__(self, total: float | None, least: float = 0.0) -> None:
        self._left = total  # neither spent nor handed out
        self._least = least
        self._asked = 0
        self.spent = 0.0
        self.unknown = False  # whether the price of any answer is unknown

    def take(self, free: int) -> float | None:
        """Return the sum for the next question, which ``free`` places share with others to come.

        None means no limit; 0 that what is left would not pay for a usual question: wait for what those in flight
        give back, or stop. A question begun on less would cost money and give no answer.
        """
        if self._left is None:
            return None
        usual = max(self._least, self.spent / self._asked if self._asked else 0.0)
        if self._left <= 0 or self._left < usual:
            return 0.0
        # An even share, but no less than twice the usual price while there is as much: many small shares answer less.
        share = min(self._left, max(self._left / free, 2 * usual))
        self._left -= share
        return share

    def give_back(self, share: float | None, cost: float | None) -> None:
        """Book what a question cost, and take back the rest of its share."""
        self._asked += 1
        self.unknown = self.unknown or cost is None
        self.spent += cost or 0.0
        if self._left is not None:
            self._left += (share or 0.0) - (cost or 0.0)
