"""The folder of runs: each ``ask`` saves its record there, and the oldest are dropped."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rlm_dspy import safe_files
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report import json_output
from rlm_dspy.report.run_log import read_log
from rlm_dspy.run import RECORD_FORMAT, Run

MAX_RUNS = 200
_RUN_FILE = re.compile(r"[0-9a-f]{12}\.jsonl?")


@dataclass(frozen=True)
class StoredRun:
    """A run and its file."""

    run: Run
    path: Path
    when: datetime


Judgement = Literal["right", "wrong"]
MARKS = "marks"  # the folder of marks, in that of the runs


@dataclass(frozen=True)
class Mark:
    """A person's judgement of a run."""

    mark: Judgement
    note: str = ""
    when: str = ""


class RunStore:
    """The runs in a folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[Path] = []  # files that `runs` could not read

    def put(self, run: Run, redactor: Redactor) -> Path:
        """Save a run and delete the oldest beyond ``MAX_RUNS``; only files with our naming pattern are deleted.

        A run with a mark stays.
        """
        safe_files.make_private(self.folder)
        place = json_output.save_run(run, self.folder / f"{run.id}.json", redactor)
        for path in self._run_paths()[MAX_RUNS:]:
            if not self._mark_path(path.stem).exists():
                path.unlink(missing_ok=True)
        return place

    def runs(self) -> Iterator[StoredRun]:
        """Yield the runs, newest first; unreadable files are added to ``damaged``."""
        self.damaged = []
        for path in self._run_paths():
            try:
                yield load_run(path)
            except RLMError:
                self.damaged.append(path)

    def find(self, name: str) -> StoredRun:
        """Return a run by file, id, id prefix, or ``last``.

        Raises:
            RLMError: no run matches, or more than one.
        """
        path = Path(name)
        # Unlike ``Path.is_file``, ``os.path.isfile`` does not raise for a name that no file can have.
        if path.suffix in {".json", ".jsonl"} or os.path.isfile(path):
            return load_run(path)
        paths = self._run_paths()
        if not paths and name == "last":
            raise RLMError(f"there are no runs in {self.folder} yet")
        if not name:
            raise RLMError("the name of a run is empty; `rlm-dspy runs` lists all runs")
        if name == "last":
            matches = paths[:1]
        else:
            matches = [path for path in paths if path.stem.startswith(name)]
        if len(matches) == 1:
            return load_run(matches[0])
        if matches:
            raise RLMError(f"{len(matches)} runs begin with {name!r}; give more of the id (`rlm-dspy runs` lists them)")
        raise RLMError(
            f"there is no run {name!r} in {self.folder}; `rlm-dspy runs` lists all runs. It has the last {MAX_RUNS} of "
            "ask and chat; those of a batch are not saved: ask the question again to trace it"
        )

    def put_mark(self, run_id: str, mark: Judgement, note: str, redactor: Redactor) -> None:
        """Save a person's judgement of a run; a later mark replaces an earlier one.

        Raises:
            OSError: the mark cannot be written.
        """
        judged = Mark(mark, note, datetime.now().astimezone().isoformat(timespec="seconds"))
        safe_files.make_private(self.folder / MARKS)
        safe_files.write_private(self._mark_path(run_id), json_output.redacted_json(asdict(judged), redactor) + "\n")

    def mark_of(self, run_id: str) -> Mark | None:
        """Return the mark of a run, None if it has none.

        Raises:
            RLMError: its file is damaged.
        """
        path = self._mark_path(run_id)
        try:
            return Mark(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RLMError(f"{path} is not a mark of this version: {error}; mark the run again") from error

    def _mark_path(self, run_id: str) -> Path:
        return self.folder / MARKS / f"{run_id}.json"

    def holds_file(self, path: Path) -> bool:
        """Return whether a path is, or would be, a run's file of this folder."""
        return bool(_RUN_FILE.fullmatch(path.name)) and path.absolute().parent.resolve() == self.folder.resolve()

    def _run_paths(self) -> list[Path]:
        """Return the files of runs, newest first; the log of a run is left out if its whole record is there."""
        found = []
        try:
            paths = [path for path in self.folder.iterdir() if _RUN_FILE.fullmatch(path.name)]
            whole = {path.stem for path in paths if path.suffix == ".json"}
            for path in paths:
                if path.suffix == ".json" or path.stem not in whole:
                    with contextlib.suppress(FileNotFoundError):  # another process may clean up, too
                        found.append((path.stat().st_mtime, path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise RLMError(f"{self.folder} cannot be read: {error.strerror}") from error
        return [path for _, path in sorted(found, reverse=True)]


def load_run(path: Path) -> StoredRun:
    """Read one run, or the part recorded so far if it is running or was killed.

    Raises:
        RLMError: the file cannot be read, or is not a run that this version can read.
    """
    try:
        if path.exists() and not path.is_file():
            raise RLMError(f"{path} is not a file")
        if path.suffix == ".jsonl":
            run = read_log(path)
        else:
            run = Run.model_validate_json(path.read_bytes())
        when = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except OSError as error:
        raise RLMError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RLMError(f"{path} is not a run of this version: {_reason(path, error)}") from error
    return StoredRun(run, path, when)


def _reason(path: Path, error: ValidationError) -> str:
    """Return why a file is not a run of this version: its format is newer, or the first problem in it."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        written = json.loads(path.read_bytes()).get("format", 1)
        if isinstance(written, int) and written > RECORD_FORMAT:
            return f"it has format {written}, this version reads up to {RECORD_FORMAT}; update rlm-dspy"
    return error.errors()[0]["msg"]
