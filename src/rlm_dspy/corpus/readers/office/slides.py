"""The text of drawings in Word, PowerPoint and Excel: paragraphs, charts and SmartArt; and of slides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.etree.ElementTree import Element

from .parts import Package, Relation, all_named, child_of, chosen_of, first_of, local_name, relation_of, value_of
from .pieces import LOWERED, RAISED, STRUCK, Notes, Piece, marked

_MOST_VALUES = 1_000_000  # of a chart: its rows times its columns


def paragraphs_of(body: Element, links: Mapping[str, Relation] | None = None) -> list[str]:
    """Return the paragraphs (``a:p``) of a shape's or a cell's text, with the addresses of the links in it."""
    inner = child_of(body, "txBody")
    if inner is not None:
        body = inner
    return [_paragraph_text(one, links or {}) for one in body if local_name(one) == "p"]


def _paragraph_text(paragraph: Element, links: Mapping[str, Relation]) -> str:
    parts = []
    properties: Element | None = None
    for one in paragraph.iter():
        name = local_name(one)
        if name in ("r", "fld"):
            properties = child_of(one, "rPr")
        elif name == "t":
            parts.append(_run_text(one.text or "", properties) + _link_suffix(one.text or "", properties, links))
        elif name == "br":
            parts.append("\n")
        elif name == "tab":
            parts.append("\t" if len(one.attrib) == 0 else "")  # with attributes it is a tab stop
    return "".join(parts)


def _run_text(text: str, properties: Element | None) -> str:
    """Return a text marked as raised, lowered or struck through."""
    baseline = value_of(properties, "baseline")
    if value_of(properties, "strike") in ("sngStrike", "dblStrike"):
        text = marked(text, STRUCK)
    if baseline.startswith("-"):
        return marked(text, LOWERED)
    if baseline.strip("0%"):
        return marked(text, RAISED)
    return text


def _link_suffix(text: str, properties: Element | None, links: Mapping[str, Relation]) -> str:
    """Return the address to put after the text of a link, or "" if the text already shows it."""
    clicked = child_of(properties, "hlinkClick")
    relation = links.get(relation_of(clicked)) if clicked is not None else None
    if relation is None or not relation.outside or not text.strip():
        return ""
    if relation.target.removeprefix("mailto:").strip("/") in text:
        return ""
    return f" ({relation.target})"


def chart_lines(package: Package, part: str) -> Iterator[str]:
    """Yield a chart's title and a table of its values, with a row per category and a column per series."""
    chart = child_of(package.tree(part), "chart")
    if chart is None:
        return
    title = child_of(chart, "title")
    yield f"[chart] {' '.join(_title_words(title))}".rstrip()
    names = [""]
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in all_named(chart, "ser"):
        names.append(" ".join(_title_words(child_of(series, "tx"))))
        categories |= _series_points(first_of(series, "cat", "xVal"))
        columns.append(_series_points(first_of(series, "val", "yVal")))
    if any(names):
        yield "\t".join(names)
    rows = set(categories).union(*columns)
    most = _MOST_VALUES // len(names)
    if len(rows) > most:
        package.note(f"a chart is cut after {most:,} of {len(rows):,} rows")
    for row in sorted(rows)[:most]:
        yield "\t".join([categories.get(row, ""), *(points.get(row, "") for points in columns)])


def _title_words(element: Element | None) -> list[str]:
    """Return the text of a title or name, from rich text or from a cell."""
    if element is None:
        return []
    return [one.text.strip() for one in all_named(element, "t", "v") if one.text]


def _series_points(element: Element | None) -> dict[int, str]:
    if element is None:
        return {}
    points = {}
    for one in all_named(element, "pt"):
        index, value = value_of(one, "idx"), child_of(one, "v")
        if index.isdecimal() and value is not None:
            points[int(index)] = value.text or ""
    return points


def diagram_lines(package: Package, part: str) -> Iterator[str]:
    """Yield the texts of a SmartArt diagram, from its data or from its drawing."""
    for body in all_named(package.tree(part), "t", "txBody"):
        if len(body):
            yield from (text for text in paragraphs_of(body) if text.strip())


def slide_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each slide in presentation order, marking hidden ones."""
    package = Package(data, notes)
    main = package.main_part("ppt/presentation.xml")
    order = child_of(package.root(main), "sldIdLst")
    number = 0
    for one in order if order is not None else ():
        target = package.inner_target(main, relation_of(one))
        if target is None:
            continue
        number += 1
        yield "\n".join(_Slide(package, target).lines()), f"slide {number}", False
    package.note_unread_parts(links=True)


class _Slide:
    """One slide, and the parts it references."""

    def __init__(self, package: Package, part: str) -> None:
        self._package = package
        self._part = part
        self._root = package.tree(part)
        self._relations: dict[str, Relation] = package.relations(part)

    def lines(self) -> Iterator[str]:
        """Yield the slide's content, then its notes and comments."""
        if value_of(self._root, "show") in ("0", "false"):
            yield "[hidden slide]"
        tree = child_of(self._root, "cSld", "spTree")
        if tree is not None:
            yield from self._shape_lines(tree)
        for relation in self._relations.values():
            if relation.outside:
                continue
            if relation.kind == "notesSlide":
                yield from self._note_lines(relation.target)
            elif relation.kind in ("comments", "comment"):
                yield from self._comment_lines(relation.target)

    def _shape_lines(self, parent: Element) -> Iterator[str]:
        for shape in parent:
            name = local_name(shape)
            if name == "AlternateContent":
                yield from self._shape_lines(chosen_of(shape))
            elif name == "grpSp":
                yield from self._shape_lines(shape)
            elif name in ("sp", "cxnSp"):
                if name == "cxnSp":
                    yield from _description_lines(shape)
                body = child_of(shape, "txBody")
                if body is not None:
                    yield "\n".join(paragraphs_of(body, self._relations))
            elif name == "pic":
                yield from _description_lines(shape)
            elif name == "graphicFrame":
                yield from _description_lines(shape)
                yield from self._graphic_lines(shape)

    def _graphic_lines(self, frame: Element) -> Iterator[str]:
        """Yield the rows of a table, the values of a chart or the texts of a diagram."""
        for table in all_named(frame, "tbl"):
            for row in (one for one in table if local_name(one) == "tr"):
                cells = (" ".join(paragraphs_of(cell, self._relations)) for cell in row if local_name(cell) == "tc")
                yield "\t".join(" ".join(cell.split("\n")).strip() for cell in cells)
        for chart in all_named(frame, "chart"):
            if target := self._package.inner_target(self._part, relation_of(chart)):
                yield from chart_lines(self._package, target)
        for diagram in all_named(frame, "relIds"):
            lines: list[str] = []
            if data := self._package.inner_target(self._part, relation_of(diagram, "dm")):
                lines += diagram_lines(self._package, data)
            if not lines:
                drawings = (one for one in self._relations.values() if one.kind == "diagramDrawing" and not one.outside)
                for drawing in drawings:
                    lines += diagram_lines(self._package, drawing.target)
            yield from lines

    def _note_lines(self, part: str) -> Iterator[str]:
        for shape in all_named(self._package.tree(part), "sp"):
            holder = child_of(shape, "nvSpPr", "nvPr", "ph")
            body = child_of(shape, "txBody")
            if value_of(holder, "type") == "body" and body is not None:
                text = "\n".join(paragraphs_of(body))
                if text.strip():
                    yield "Notes: " + text

    def _comment_lines(self, part: str) -> Iterator[str]:
        for one in all_named(self._package.tree(part), "cm", "txBody"):
            plain = child_of(one, "text")
            if plain is not None:
                text = plain.text or ""
            else:
                text = " ".join(paragraphs_of(one))
            if text.strip() and (plain is not None or local_name(one) == "txBody"):
                yield f"[comment] {' '.join(text.split())}"


def _description_lines(shape: Element) -> Iterator[str]:
    """Yield the alternative text of a picture."""
    for one in shape:
        named = child_of(one, "cNvPr")
        text = " ".join(value_of(named, "descr").split())
        if text:
            yield f"[image: {text}]"
