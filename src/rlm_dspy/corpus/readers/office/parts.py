"""The parts of office archives and their XML."""

from __future__ import annotations

import contextlib
import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

from .pieces import Notes, RefusedError, counted_noun, joined_with_and

MOST_UNPACKED = 400_000_000  # bytes of all parts
MOST_PART = 100_000_000  # bytes of a part that is parsed into a tree
_MAX_RATIO = 250  # an archive above this and above the bytes below is hostile
_HARMLESS_BYTES = 50_000_000

BROKEN = (expat.ExpatError, ElementTree.ParseError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


_UNREAD = {
    "image": "picture", "package": "embedded file", "oleObject": "embedded file", "aFChunk": "inserted document",
    "audio": "recording", "video": "recording",
}  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """A part or external address that another part references by ``id``; ``kind`` is the last word of its type."""

    id: str
    kind: str
    target: str
    outside: bool


class Package:
    """An archive of parts with case-insensitive names."""

    def __init__(self, data: bytes, notes: Notes) -> None:
        self._notes = notes
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        infos = self._archive.infolist()
        size = sum(info.file_size for info in infos)
        if size > MOST_UNPACKED or size > max(_HARMLESS_BYTES, _MAX_RATIO * len(data)):
            raise RefusedError(
                f"it unpacks to {size / 1e6:,.0f} MB, far more than its size, as a zip bomb does: the limit is "
                f"{_MAX_RATIO} times its size and {MOST_UNPACKED / 1e6:,.0f} MB"
            )
        self._infos = {_normalized_name(info.filename): info for info in infos}
        self._relations: dict[str, dict[str, Relation]] = {}

    def names(self) -> list[str]:
        """Return the names of all parts, in lower case."""
        return list(self._infos)

    def open(self, name: str) -> IO[bytes]:
        """Open a part to read it piece by piece.

        Raises:
            KeyError: There is no such part.
        """
        info = self._infos[_normalized_name(name)]
        if info.flag_bits & 1:
            raise RefusedError("encrypted")
        return self._archive.open(info)

    def read(self, name: str) -> bytes:
        """Return the bytes of a part, empty if there is no such part."""
        if _normalized_name(name) not in self._infos:
            return b""
        with self.open(name) as file:
            data = file.read(MOST_PART + 1)
        if len(data) > MOST_PART:
            raise RefusedError(f"its part {name} has more than {MOST_PART / 1e6:,.0f} MB: split the document")
        return data

    def tree(self, name: str) -> Element:
        """Return a part's root element, empty if the part is missing or broken; a broken part is noted."""
        try:
            return self.root(name)
        except BROKEN:
            self.note_broken_part(name)
            return Element("none")

    def root(self, name: str) -> Element:
        """Return the root element of a required part."""
        data = self.read(name)
        if data.strip():
            return tree_of(data)
        return Element("none")

    def note_broken_part(self, name: str) -> None:
        """Note that a part is broken and was not read to its end."""
        self.note(f"its part {name.lstrip('/')} is broken")

    def note(self, remark: str) -> None:
        """Add a remark on the document, once."""
        if remark not in self._notes:
            self._notes.append(remark)

    def note_unread_parts(self, *, links: bool = False) -> None:
        """Note the pictures, embedded files and, unless the reader follows them, links of a document, by kind."""
        found: dict[str, set[str]] = {}
        # The workbook behind a chart has the values that are read from the chart.
        for name in [one for one in self._infos if one.endswith(".rels") and "/charts/" not in one]:
            folder, _, file = name.rpartition("/")
            part = f"{folder.removesuffix('_rels')}{file.removesuffix('.rels')}"
            for relation in self.relations(part).values():
                kind = _UNREAD.get(relation.kind, "")
                if relation.kind == "hyperlink" and relation.outside and not links:
                    kind = "address of a link"
                if kind:
                    found.setdefault(kind, set()).add(relation.target)
        self.note_unread({kind: len(targets) for kind, targets in found.items()})

    def note_unread(self, counts: dict[str, int]) -> None:
        """Note what is not read of a document: how many of each kind."""
        kinds = [counted_noun(count, kind) for kind, count in sorted(counts.items())]
        if kinds:
            self.note(f"not read: {joined_with_and(kinds)}")

    def relations(self, name: str) -> dict[str, Relation]:
        """Return the relations of a part by id."""
        if name not in self._relations:
            self._relations[name] = self._read_relations(name)
        return self._relations[name]

    def _read_relations(self, name: str) -> dict[str, Relation]:
        folder, _, file = name.rpartition("/")
        relations = {}
        for element in self.tree(f"{folder}/_rels/{file}.rels"):
            target, outside = element.get("Target", ""), element.get("TargetMode", "") == "External"
            if not outside:
                target = posixpath.normpath(posixpath.join("/" + folder, unquote(target))).lstrip("/")
            kind = element.get("Type", "").rpartition("/")[2]
            relations[element.get("Id", "")] = Relation(element.get("Id", ""), kind, target, outside)
        return relations

    def inner_target(self, name: str, relation_id: str) -> str | None:
        """Return the part that a part references by this id; None if there is none, or it is outside the file."""
        relation = self.relations(name).get(relation_id)
        if relation is None or relation.outside:
            return None
        return relation.target

    def main_part(self, usual: str) -> str:
        """Return the name of the document's main part."""
        starts = [one.target for one in self.relations("").values() if one.kind == "officeDocument"]
        return next((name for name in starts if _normalized_name(name) in self._infos), usual)


def tree_of(data: bytes) -> Element:
    """Return the root element of XML that declares no entities."""
    refuse_entities(data)
    return ElementTree.fromstring(data)


def refuse_entities(data: bytes, *, whole: bool = True) -> None:
    """Raise if XML, or its beginning, declares entities; office files never do, so no entity is ever expanded."""
    parser = expat.ParserCreate()

    def declare(name: str, system: str | None, public: str | None, inner: bool) -> None:
        if inner:
            raise RefusedError("its XML declares entities, as no office program does")

    def begin(name: str, attributes: dict[str, str]) -> None:
        raise _BegunError

    parser.StartDoctypeDeclHandler = declare
    parser.StartElementHandler = begin
    with contextlib.suppress(_BegunError):
        parser.Parse(data, whole)


class _BegunError(Exception):
    """The first element was reached, so no declarations can follow."""


def local_name(element: Element) -> str:
    """Return an element's name without its namespace; office files use two namespaces for each name."""
    return element.tag.rpartition("}")[2]


def value_of(element: Element | None, name: str = "val", default: str = "") -> str:
    """Return an attribute by its name without namespace."""
    if element is not None:
        for key, value in element.attrib.items():
            if key.rpartition("}")[2] == name:
                return value
    return default


def relation_of(element: Element, name: str = "id") -> str:
    """Return the id of the relation that an element references (``r:id``)."""
    return next((value for key, value in element.attrib.items() if key.endswith(f"/relationships}}{name}")), "")


def child_of(element: Element | None, *path: str) -> Element | None:
    """Return the descendant at the end of a path, taking the first child of each name."""
    for name in path:
        if element is None:
            return None
        element = next((child for child in element if local_name(child) == name), None)
    return element


def first_of(element: Element, *names: str) -> Element | None:
    """Return the first child with one of these names."""
    return next((child for child in element if local_name(child) in names), None)


def chosen_of(element: Element) -> Element:
    """Return the form of a drawing (``mc:AlternateContent``) that current programs show."""
    for name in ("Choice", "Fallback"):
        if (child := child_of(element, name)) is not None:
            return child
    return element


def all_named(element: Element, *names: str) -> Iterator[Element]:
    """Yield the elements with these names at any depth, in document order."""
    return (one for one in element.iter() if local_name(one) in names)


def _normalized_name(name: str) -> str:
    return name.replace("\\", "/").lstrip("/").lower()
