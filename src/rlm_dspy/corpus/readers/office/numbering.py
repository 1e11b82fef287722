"""The styles and list numbers of a Word document: which paragraph is a heading, and what number stands before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from .parts import all_named, child_of, local, value_of

_OFF = ("0", "false", "off")
_DEEPEST = 20  # styles that are based on one another
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
          (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


@dataclass(frozen=True)
class Style:
    """What a style says of its paragraphs and runs; ``level`` is that of a heading, or 0."""

    level: int = 0
    list: str = ""
    depth: int = 0
    hidden: bool = False


@dataclass(frozen=True)
class _Level:
    figures: str = "decimal"
    pattern: str = ""
    start: int = 1


def is_on(properties: Element | None, name: str) -> bool:
    """Tell whether a property is there and not switched off."""
    found = child_of(properties, name)
    return found is not None and value_of(found) not in _OFF


class Styles:
    """The styles of a document by their ids, read when they are met: of hundreds a document uses a few."""

    def __init__(self, root: Element) -> None:
        self._elements = {value_of(one, "styleId"): one for one in root if local(one) == "style"}
        self._known: dict[str, Style] = {}
        self._usual = ""  # the style of paragraphs that name none
        for name, element in self._elements.items():
            if value_of(element, "default") in ("1", "true") and value_of(element, "type") == "paragraph":
                self._usual = name

    def get(self, name: str) -> Style | None:
        """Return a style; "" stands for that of paragraphs that name none."""
        name = name or self._usual
        if name not in self._elements:
            return None
        if name not in self._known:
            self._known[name] = self._read(name, _DEEPEST)
        return self._known[name]

    def _read(self, name: str, deeper: int) -> Style:
        element = self._elements.get(name)
        if element is None or not deeper:
            return Style()
        below = value_of(child_of(element, "basedOn"))
        style = self._read(below, deeper - 1) if below else Style()
        title = value_of(child_of(element, "name")).lower()
        if heading := re.fullmatch(r"heading (\d)", title):
            style = replace(style, level=int(heading[1]))
        elif title == "title":
            style = replace(style, level=1)
        return replace(
            with_properties(style, child_of(element, "pPr")),
            hidden=style.hidden or is_on(child_of(element, "rPr"), "vanish"),
        )


def with_properties(style: Style, properties: Element | None) -> Style:
    """Return a style with what a paragraph says for itself."""
    outline, numbered = value_of(child_of(properties, "outlineLvl")), child_of(properties, "numPr")
    if outline.isdecimal():
        style = replace(style, level=int(outline) + 1 if int(outline) < 9 else 0)
    if numbered is None:
        return style
    depth = value_of(child_of(numbered, "ilvl"))
    named = value_of(child_of(numbered, "numId"), default=style.list)
    return replace(style, list="" if named == "0" else named, depth=int(depth) if depth.isdecimal() else style.depth)


class Numbering:
    """Counts the numbered paragraphs of a document."""

    def __init__(self, root: Element, styles: Styles) -> None:
        self._levels: dict[str, dict[int, _Level]] = {}  # by the id of what lists are made after
        self._models: dict[str, str] = {}  # of each list
        self._restarts: dict[tuple[str, int], int] = {}
        self._counts: dict[str, dict[int, int]] = {}
        for one in all_named(root, "abstractNum"):
            self._levels[value_of(one, "abstractNumId")] = dict(_levels(one))
        for one in (child for child in root if local(child) == "num"):
            name = value_of(one, "numId")
            self._models[name] = value_of(child_of(one, "abstractNumId"))
            for changed in all_named(one, "lvlOverride"):
                start = value_of(child_of(changed, "startOverride"))
                if start.isdecimal():
                    self._restarts[name, _whole(value_of(changed, "ilvl"))] = int(start)
        self._link(root, styles)

    def _link(self, root: Element, styles: Styles) -> None:
        """Follow the models that only name a style, which names the list."""
        for one in all_named(root, "abstractNum"):
            style = styles.get(value_of(child_of(one, "numStyleLink")))
            if style is not None and (model := self._models.get(style.list)) in self._levels:
                self._levels[value_of(one, "abstractNumId")] = self._levels[model]

    def label(self, style: Style) -> str:
        """Return what stands before the next paragraph of this style: "", "- ", "3. ", "2.1 "."""
        model = self._models.get(style.list)
        if model is None or model not in self._levels:
            return ""
        levels, counts, depth = self._levels[model], self._counts.setdefault(model, {}), style.depth
        level = levels.get(depth, _Level())
        if level.figures == "bullet":
            return "  " * min(depth, 8) + "- "
        if (restart := self._restarts.pop((style.list, depth), None)) is not None:
            counts[depth] = restart - 1
        counts[depth] = counts.get(depth, level.start - 1) + 1
        for deeper in [one for one in counts if one > depth]:
            del counts[deeper]

        def number(match: re.Match[str]) -> str:
            wanted = int(match[1]) - 1
            of = levels.get(wanted, _Level())
            return figure(counts.get(wanted, of.start), of.figures)

        made = re.sub(r"%(\d)", number, level.pattern).strip()
        return f"{made} " if made else ""


def _levels(model: Element) -> Iterator[tuple[int, _Level]]:
    for one in (child for child in model if local(child) == "lvl"):
        depth = _whole(value_of(one, "ilvl"))
        start = value_of(child_of(one, "start"), default="1")
        figures = value_of(child_of(one, "numFmt"), default="decimal")
        yield depth, _Level(figures, value_of(child_of(one, "lvlText")), _whole(start))


def figure(count: int, figures: str) -> str:
    """Return a number as a list writes it."""
    if figures.endswith("Letter") and 0 < count <= 26 * 30:
        text = chr(ord("a") + (count - 1) % 26) * ((count - 1) // 26 + 1)
    elif figures.endswith("Roman") and 0 < count < 4000:
        text = ""
        for size, letters in _ROMAN:
            text += letters * (count // size)
            count %= size
    elif figures == "none":
        return ""
    else:
        return f"{count:02}" if figures == "decimalZero" else str(count)
    return text.upper() if figures.startswith("upper") else text


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0
