"""Links from the page of an evaluation to the records of its runs, which are in a folder beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from rlm_dspy.tuning.evaluation import Row, run_file_name

_HEAD_BYTES = 200  # of a record, which begins with its format and its id


def runs_folder(page: Path) -> Path | None:
    """Return the folder for the runs of a page: ``<page without suffix>-runs``; None if the page is not a file."""
    return page.with_name(f"{page.stem}-runs") if page.is_file() or not page.exists() else None


def run_links(rows: Iterable[Row], folder: Path) -> dict[str, str]:
    """Return the relative address of each row's run by the row's key, as far as the folder has that very run."""
    return {row.key: f"./{quote(f'{folder.name}/{run_file_name(row)}')}" for row in rows if _has_run(row, folder)}


def _has_run(row: Row, folder: Path) -> bool:
    path = folder / run_file_name(row)
    if not row.run or not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"id": "{row.run}"'.encode() in file.read(_HEAD_BYTES)
