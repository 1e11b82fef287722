"""What the batch services of all providers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dspy.lm15 import Request, Response

from rlm_dspy.lms.provider_batches.connection import BatchConnection


@dataclass(frozen=True)
class BatchCall:
    """One request of a batch: its id in the batch, and its body as JSON in the provider's form."""

    custom_id: str
    body: str


@dataclass(frozen=True)
class BatchState:
    """The state of a batch, as its provider reports it.

    Args:
        batch_id: the provider's id of the batch.
        status: the provider's name of the state, in lower case, such as ``in_progress``.
        has_ended: whether the provider has finished with it, so that its results can be read.
        done, total: the number of finished requests, and of all.
        result_paths: where the results are, to be passed to ``stream_rows``.
        problem: why the whole batch failed, as the body of an error.
        retry_after: seconds until the provider wants to be asked again, if it says so.
    """

    batch_id: str
    status: str
    has_ended: bool
    done: int = 0
    total: int = 0
    result_paths: tuple[str, ...] = ()
    problem: Any = None
    retry_after: float | None = None


@dataclass(frozen=True)
class RowResult:
    """The result of one request: a reply's body, or an error's status and body, or neither if it was not processed."""

    custom_id: str
    reply: dict[str, Any] | None = None
    status: int | None = None
    problem: Any = None


class BatchProtocol(Protocol):
    """How one provider takes batches. Every method raises an lm15 error that says who must act.

    ``is_labelled`` says whether a batch carries our label, so that one that is found again is certainly ours.
    """

    is_labelled: bool
    connection: BatchConnection

    def make_body(self, request: Request) -> dict[str, Any]:
        """Return a request in the provider's form."""

    def parse_reply(self, request: Request, body: dict[str, Any]) -> Response:
        """Return a reply from its body in the provider's form."""

    def upload(self, wave_id: str, calls: Sequence[BatchCall]) -> str | None:
        """Upload the requests, which costs nothing, and return the file's id; None if they come with the batch."""

    def create_batch(self, wave_id: str, file_id: str | None, calls: Sequence[BatchCall]) -> str:
        """Create the batch and return its id."""

    def find_batches(self, wave_id: str, file_id: str | None, size: int, since: float) -> list[str]:
        """Return the ids of batches that were created since this time (Unix seconds) and may be this wave's."""

    def fetch_state(self, batch_id: str) -> BatchState:
        """Return the state of a batch."""

    def parse_row(self, row: dict[str, Any]) -> RowResult:
        """Return the result of one request from a row of a file of results."""

    def cancel_batch(self, batch_id: str) -> None:
        """Ask the provider to cancel a batch."""
