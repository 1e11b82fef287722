"""The files and folders that the command has written, which later questions about a folder around them do not read.

The home has a list of them. A file named explicitly is read even if the command wrote it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from rlm_dspy.cli.home_files import home_folder, read_home_texts, write_home_json

OUTPUTS = "outputs.json"  # in the home: absolute paths, the oldest first
MAX_OUTPUTS = 1_000
BESIDE_PATTERNS = (".waves", ".bak", ".bak[0-9]*")  # the journal of provider batches, copies of earlier answers


def remember_output(path: Path) -> None:
    """Note that the command has written a file or a folder; where the home cannot be written, nothing is noted."""
    place = str(path.resolve())
    noted = [one for one in _noted_outputs() if one != place]
    write_home_json(home_folder(), OUTPUTS, [*noted, place][-MAX_OUTPUTS:])


def check_replaceable(path: Path | None, name: str) -> None:
    """Refuse an output file that exists and that this command did not write: it may be the only copy.

    Raises:
        click.UsageError: the file is somebody else's; the message names the option ``name``.
    """
    if path is None or not os.path.isfile(path) or not path.stat().st_size or str(path.resolve()) in _noted_outputs():
        return
    raise click.UsageError(f"{name} {path} exists and was not written by rlm-dspy. Choose another file, or remove it.")


def outputs_below(paths: Sequence[str]) -> list[Path]:
    """Return the outputs in the folders of these paths, with the journals and copies beside them.

    Those that are named in the paths themselves are left out.
    """
    named = {Path(os.path.expanduser(path)).resolve() for path in paths if "://" not in path and path != "-"}
    return [place for place in _existing_outputs() if place not in named and named & set(place.parents)]


def _existing_outputs() -> Iterator[Path]:
    for noted in map(Path, _noted_outputs()):
        with contextlib.suppress(OSError):  # its folder is gone, or may not be read
            for place in sorted(noted.parent.iterdir()):
                if is_output_or_beside(place, noted):
                    yield place


def is_output_or_beside(place: Path, output: Path) -> bool:
    """Return whether a path is that of an output, or of a journal or a copy beside it."""
    beside = place.name.removeprefix(output.name)
    if place.parent != output.parent or not place.name.startswith(output.name):
        return False
    return not beside or any(fnmatch.fnmatchcase(beside, pattern) for pattern in BESIDE_PATTERNS)


def _noted_outputs() -> list[str]:
    return [place for place in read_home_texts(OUTPUTS) if "\0" not in place]
