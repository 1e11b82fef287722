"""The text of drawings, which Word, PowerPoint and Excel share: paragraphs, charts and SmartArt."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from .parts import Package, all_named, child_of, first_of, local, value_of

_MOST_POINTS = 10_000  # of a chart


def paragraphs_of(body: Element) -> list[str]:
    """Return the paragraphs (``a:p``) of a shape's or a cell's text."""
    inner = child_of(body, "txBody")
    return [_paragraph(one) for one in (body if inner is None else inner) if local(one) == "p"]


def _paragraph(paragraph: Element) -> str:
    parts = []
    for one in paragraph.iter():
        name = local(one)
        if name == "t":
            parts.append(one.text or "")
        elif name == "br":
            parts.append("\n")
        elif name == "tab":
            parts.append("\t" if len(one.attrib) == 0 else "")  # else it is a tab stop
    return "".join(parts)


def chart_lines(package: Package, part: str) -> Iterator[str]:
    """Yield a chart's title and a table of its values: a row for each category, a column for each series."""
    chart = child_of(package.tree(part), "chart")
    if chart is None:
        return
    title = child_of(chart, "title")
    yield f"[chart] {' '.join(_words(title))}".rstrip()
    names = [""]
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in all_named(chart, "ser"):
        names.append(" ".join(_words(child_of(series, "tx"))))
        categories |= _points(first_of(series, "cat", "xVal"))
        columns.append(_points(first_of(series, "val", "yVal")))
    if any(names):
        yield "\t".join(names)
    rows = sorted({row for points in (categories, *columns) for row in points})[:_MOST_POINTS]
    for row in rows:
        yield "\t".join([categories.get(row, ""), *(points.get(row, "") for points in columns)])


def _words(element: Element | None) -> list[str]:
    """Return what a title or a name says, whether it is rich text or comes from a cell."""
    return [one.text.strip() for one in all_named(element, "t", "v") if one.text] if element is not None else []


def _points(element: Element | None) -> dict[int, str]:
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
