"""The files and folders that the command has written, which later questions about a folder around them do not read.

The home has a list of them. One that is named by itself is read, also if the command wrote it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlm_dspy import folders
from rlm_dspy.cli.startup import home_folder

OUTPUTS = "outputs.json"  # in the home: absolute paths, the oldest first
MAX_OUTPUTS = 1_000
_BESIDE = re.compile(r"\.waves|\.bak\d*")  # the journal of provider batches, copies of earlier answers


def remember_output(path: Path) -> None:
    """Note that the command has written a file or a folder; where the home cannot be written, nothing is noted."""
    from rlm_dspy.report.journal import write_private

    place = str(path.resolve())
    noted = [one for one in _noted_outputs() if one != place]
    home = home_folder()
    with contextlib.suppress(OSError):
        folders.make_private(home)
        write_private(home / OUTPUTS, json.dumps([*noted, place][-MAX_OUTPUTS:]))


def outputs_below(paths: Sequence[str]) -> list[Path]:
    """Return the outputs in the folders of these paths, with the journals and copies beside them.

    One that is itself one of the paths is not returned.
    """
    given = {Path(path).expanduser().resolve() for path in paths if "://" not in path and path != "-"}
    return [place for place in _existing_outputs() if place not in given and given & set(place.parents)]


def _existing_outputs() -> Iterator[Path]:
    for noted in map(Path, _noted_outputs()):
        with contextlib.suppress(OSError):  # its folder is gone, or may not be read
            for place in sorted(noted.parent.iterdir()):
                beside = place.name.removeprefix(noted.name)
                if place.name == noted.name or (beside != place.name and _BESIDE.fullmatch(beside)):
                    yield place


def _noted_outputs() -> list[str]:
    try:
        noted = json.loads((home_folder() / OUTPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet
        return []
    if not isinstance(noted, list):
        return []
    return [one for one in noted if isinstance(one, str) and "\0" not in one]
