"""Choose the objects of a listing to read, by the same rules as the files of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pathspec import GitIgnoreSpec

from rlm_dspy.corpus.corpus import Skipped
from rlm_dspy.corpus.ignore_rules import Layer
from rlm_dspy.corpus.object_stores import StoredObject
from rlm_dspy.corpus.screening import noise_folder
from rlm_dspy.corpus.walking import FileSelection, is_wanted, printable_name, reason_to_skip

_ENVIRONMENT = "pyvenv.cfg"


class ObjectFilter:
    """Decides about names below a root; ``layers`` are the ignore rules by the folder they are in."""

    def __init__(
        self, root: str, choice: FileSelection, only: GitIgnoreSpec | None, layers: Mapping[str, Layer]
    ) -> None:
        self._root = root
        self._choice = choice
        self._only = only
        self._layers = layers
        self._reasons: dict[str, str | None] = {}  # why a folder is not read, by its name below the root

    def choose_objects(self, objects: Iterable[StoredObject]) -> Iterator[StoredObject | Skipped]:
        """Yield the objects to read, and the skipped ones; a skipped folder is one entry."""
        found = sorted(objects, key=lambda one: one.name)
        environments = {one.name.rpartition("/")[0] for one in found if one.name.endswith("/" + _ENVIRONMENT)}
        told: set[str] = set()
        for one in found:
            if one.name.endswith("/") and not one.size:
                continue  # an empty object that stands for a folder
            if (wrong := _wrong_name(one.name)) is not None:
                yield Skipped(printable_name(one.name) or ".", wrong)
                continue
            closed = self._closed_folder(one.name, environments)
            if closed is not None:
                if closed not in told:
                    told.add(closed)
                    yield Skipped(printable_name(closed + "/"), self._reasons[closed] or "")
            elif is_wanted(one.name, self._choice, self._only):
                reason = self._reason_for(one.name, is_folder=False)
                yield one if reason is None else Skipped(printable_name(one.name), reason)

    def _closed_folder(self, name: str, environments: set[str]) -> str | None:
        """Return the highest folder above a name that is not read, or None."""
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._reasons:
                entries = frozenset({_ENVIRONMENT}) if folder in environments else frozenset[str]()
                reason = self._reason_for(folder, is_folder=True)
                self._reasons[folder] = reason or noise_folder(parts[depth - 1], entries)
            if self._reasons[folder] is not None:
                return folder
        return None

    def _reason_for(self, name: str, *, is_folder: bool) -> str | None:
        parts = name.split("/")
        above = ["/".join(parts[:depth]) for depth in range(len(parts))]
        layers = tuple(self._layers[folder] for folder in above if folder in self._layers)
        return reason_to_skip(f"{self._root}/{name}", name, layers, self._choice, is_folder=is_folder)


def _wrong_name(name: str) -> str | None:
    """Return why a name cannot be that of a file, or None."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "its name is not a path: it has an empty part, . or .."
    if "?versionId=" in name:
        return "its name asks for a version of another object"
    return None
