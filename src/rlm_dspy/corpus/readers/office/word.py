"""Word documents as text, with headings, list numbers, notes and comments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from .parts import Package, Relation, all_named, child_of, chosen_of, first_of, local_name, relation_of, value_of
from .pieces import LOWERED, RAISED, STRUCK, Notes, Piece, RefusedError, marked, whole_number
from .slides import chart_lines, diagram_lines

_OFF = ("0", "false", "off")
_MAX_STYLE_DEPTH = 20  # levels of styles based on other styles
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
          (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Properties a style gives to paragraphs and runs; ``level`` is the heading level, or 0."""

    level: int = 0
    list: str = ""
    depth: int = 0
    hidden: bool = False
    struck: bool = False


@dataclass(frozen=True)
class _Level:
    figures: str = "decimal"
    pattern: str = ""
    start: int = 1


def is_on(properties: Element | None, name: str) -> bool:
    """Return whether a property is present and not switched off."""
    element = child_of(properties, name)
    return element is not None and value_of(element) not in _OFF


class Styles:
    """The styles of a document by id, read on demand, because a document uses few of its hundreds of styles."""

    def __init__(self, root: Element) -> None:
        self._elements = {value_of(one, "styleId"): one for one in root if local_name(one) == "style"}
        self._known: dict[str, Style] = {}
        self._usual = ""  # the default style of paragraphs
        for name, element in self._elements.items():
            if value_of(element, "default") in ("1", "true") and value_of(element, "type") == "paragraph":
                self._usual = name

    def get(self, name: str) -> Style | None:
        """Return a style; "" is the default paragraph style."""
        name = name or self._usual
        if name not in self._elements:
            return None
        if name not in self._known:
            self._known[name] = self._read_style(name, _MAX_STYLE_DEPTH)
        return self._known[name]

    def _read_style(self, name: str, deeper: int) -> Style:
        element = self._elements.get(name)
        if element is None or not deeper:
            return Style()
        below = value_of(child_of(element, "basedOn"))
        style = self._read_style(below, deeper - 1) if below else Style()
        title = value_of(child_of(element, "name")).lower()
        if heading := re.fullmatch(r"heading (\d)", title):
            style = replace(style, level=int(heading[1]))
        elif title == "title":
            style = replace(style, level=1)
        properties = child_of(element, "rPr")
        return replace(
            with_properties(style, child_of(element, "pPr")),
            hidden=style.hidden or is_on(properties, "vanish"),
            struck=style.struck or _is_struck(properties),
        )


def _is_struck(properties: Element | None) -> bool:
    return is_on(properties, "strike") or is_on(properties, "dstrike")


def with_properties(style: Style, properties: Element | None) -> Style:
    """Return a style overridden by a paragraph's own properties."""
    outline, numbered = value_of(child_of(properties, "outlineLvl")), child_of(properties, "numPr")
    if outline.isdecimal():
        style = replace(style, level=int(outline) + 1 if int(outline) < 9 else 0)
    if numbered is None:
        return style
    depth = value_of(child_of(numbered, "ilvl"))
    named = value_of(child_of(numbered, "numId"), default=style.list)
    return replace(style, list="" if named == "0" else named, depth=whole_number(depth, style.depth))


class Numbering:
    """Counts the numbered paragraphs of a document."""

    def __init__(self, root: Element, styles: Styles) -> None:
        self._levels: dict[str, dict[int, _Level]] = {}  # by abstract numbering id
        self._models: dict[str, str] = {}  # abstract numbering id of each list
        self._restarts: dict[tuple[str, int], int] = {}
        self._counts: dict[str, dict[int, int]] = {}
        for one in all_named(root, "abstractNum"):
            self._levels[value_of(one, "abstractNumId")] = dict(_list_levels(one))
        for one in (child for child in root if local_name(child) == "num"):
            name = value_of(one, "numId")
            self._models[name] = value_of(child_of(one, "abstractNumId"))
            for changed in all_named(one, "lvlOverride"):
                start = value_of(child_of(changed, "startOverride"))
                if start.isdecimal():
                    self._restarts[name, whole_number(value_of(changed, "ilvl"))] = int(start)
        self._link(root, styles)

    def _link(self, root: Element, styles: Styles) -> None:
        """Resolve abstract numberings that only name a style, which names the list."""
        for one in all_named(root, "abstractNum"):
            style = styles.get(value_of(child_of(one, "numStyleLink")))
            if style is not None and (model := self._models.get(style.list)) in self._levels:
                self._levels[value_of(one, "abstractNumId")] = self._levels[model]

    def label(self, style: Style) -> str:
        """Return the list label of the next paragraph in this style: "", "- ", "3. ", "2.1 "."""
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

        def number_text(match: re.Match[str]) -> str:
            outer_depth = int(match[1]) - 1
            outer_level = levels.get(outer_depth, _Level())
            return format_list_number(counts.get(outer_depth, outer_level.start), outer_level.figures)

        text = re.sub(r"%(\d)", number_text, level.pattern).strip()
        if text:
            return f"{text} "
        return ""


def _list_levels(model: Element) -> Iterator[tuple[int, _Level]]:
    for one in (child for child in model if local_name(child) == "lvl"):
        depth = whole_number(value_of(one, "ilvl"))
        start = value_of(child_of(one, "start"), default="1")
        figures = value_of(child_of(one, "numFmt"), default="decimal")
        yield depth, _Level(figures, value_of(child_of(one, "lvlText")), whole_number(start))


def format_list_number(count: int, figures: str) -> str:
    """Format a number in a list's numbering format."""
    if figures == "none":
        return ""
    if figures == "decimalZero":
        return f"{count:02}"
    if figures.endswith("Letter") and 0 < count <= 26 * 30:
        text = chr(ord("a") + (count - 1) % 26) * ((count - 1) // 26 + 1)
    elif figures.endswith("Roman") and 0 < count < 4000:
        text = ""
        for size, letters in _ROMAN:
            text += letters * (count // size)
            count %= size
    else:
        return str(count)
    if figures.startswith("upper"):
        return text.upper()
    return text


_UNSEEN = frozenset(
    """del moveFrom delText instrText delInstrText rPr pPr sectPr sdtPr sdtEndPr tblPr tblGrid trPr tcPr tblPrEx rubyPr
    fldData customXmlPr smartTagPr""".split()  # noqa: SIM905
)
_ALIGNED = {"superscript": RAISED, "subscript": LOWERED}
_PLAIN_SCRIPT = re.compile(r"[-+\u2212]?[\w.,]+")  # needs no parentheses
_MAX_TABLE_COLUMNS = 63  # columns of a table, Word's limit
_GREEK = dict(zip("abgdezhqiklmnxoprstufcyw", "αβγδεζηθικλμνξοπρστυφχψω", strict=True))
_GREEK |= {letter.upper(): greek.upper() for letter, greek in _GREEK.items()}
_SIGNS = {"fc": "✓", "fb": "✗", "fe": "☑", "fd": "☒", "a8": "☐", "6f": "☐", "e0": "→", "a7": "▪", "b7": "•", "d8": "➢"}


def document_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the headers, then the text block by block with notes and comments, then the footers."""
    document = WordDocument(Package(data, notes))
    for text in document.texts():
        yield text, "", False
    document.package.note_unread_parts(links=True)


class WordDocument:
    """The parts of a Word document that its text references."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.main = package.main_part("word/document.xml")
        self.relations = package.relations(self.main)
        self.styles = Styles(self._part_root("styles"))
        self.numbering = Numbering(self._part_root("numbering"), self.styles)
        self.notes = {kind: self._notes_by_id(kind) for kind in ("footnote", "endnote", "comment")}
        self.numbers: dict[str, dict[str, int]] = {"footnote": {}, "endnote": {}, "comment": {}}
        self.drawn: set[str] = set()  # parts already read

    def texts(self) -> Iterator[str]:
        """Yield the lines of the document."""
        root = self.package.root(self.main)
        body = child_of(root, "body")
        if body is None:
            raise RefusedError(f"broken: its part {self.main} is not a Word document")
        yield from self._margin_lines(root, "header")
        yield from Story(self, self.main).blocks(body)
        for kind in ("footnote", "endnote", "comment"):
            for name in self.notes[kind]:
                if kind == "endnote" or name not in self.numbers[kind]:
                    yield from self.note(kind, name)
        yield from self._margin_lines(root, "footer")

    def number(self, kind: str, name: str) -> int:
        """Return the number of a note, in order of appearance."""
        return self.numbers[kind].setdefault(name, len(self.numbers[kind]) + 1)

    def note(self, kind: str, name: str) -> Iterator[str]:
        """Yield a note or comment with its mark, unless it is empty."""
        element = self.notes[kind].get(name)
        part = self._part_name(kind + "s")
        text = ""
        if element is not None:
            text = " ".join(" ".join(Story(self, part).blocks(element)).split())
        if text:
            number = "" if kind == "comment" else f" {self.number(kind, name)}"
            yield f"[{kind}{number}] {text}"

    def _margin_lines(self, root: Element, kind: str) -> Iterator[str]:
        """Yield the headers or footers of all sections, each text once."""
        seen: set[str] = set()
        for reference in all_named(root, kind + "Reference"):
            target = self.package.inner_target(self.main, relation_of(reference))
            if target is not None:
                for line in Story(self, target).blocks(self.package.tree(target)):
                    if line.strip() and line not in seen:
                        seen.add(line)
                        yield f"[{kind}] {line}"

    def _notes_by_id(self, kind: str) -> dict[str, Element]:
        """Return the notes of a kind by id, without the separators from the text."""
        notes = (one for one in self._part_root(kind + "s") if local_name(one) == kind)
        return {value_of(one, "id"): one for one in notes if value_of(one, "type") in ("", "normal")}

    def _part_root(self, kind: str) -> Element:
        return self.package.tree(self._part_name(kind))

    def _part_name(self, kind: str) -> str:
        return next((one.target for one in self.relations.values() if one.kind == kind), f"word/{kind}.xml")


@dataclass
class _OpenField:
    """An open field: whether its result has begun, its instructions and its result so far."""

    begun: bool = False
    instruction: str = ""
    result: str = ""


class Story:
    """Walks one part; boxes, notes and comments follow the block they are anchored to."""

    def __init__(self, document: WordDocument, part: str) -> None:
        self._document = document
        self._relations: dict[str, Relation] = document.package.relations(part)
        self._beside: list[str] = []
        self._fields: list[_OpenField] = []  # open fields
        self._joined = ""  # text of a paragraph whose mark was deleted; it joins the next one
        self._tables = 0
        self._writers: dict[str, Callable[[Element], str]] = {
            "r": self._run_text,
            "t": self._element_text,
            "fldChar": self._follow_field,
            "AlternateContent": self._alternative_text,
            "txbxContent": self._collect_box,
            "hyperlink": self._link,
            "sym": self._symbol_text,
            "br": self._break_text,
            "tab": lambda one: "\t" if self._is_visible() else "",
            "ptab": lambda one: "\t",
            "cr": lambda one: "\n",
            "noBreakHyphen": lambda one: "-",
            "footnoteReference": lambda one: self._note_mark("footnote", one),
            "endnoteReference": lambda one: self._note_mark("endnote", one),
            "ruby": self._ruby_text,
            "commentReference": lambda one: self._note_mark("comment", one),
            "docPr": self._image_text,
            "shape": self._shape_text,
            "instrText": self._read_instruction,
            "fldSimple": self._simple_field_text,
            "textpath": lambda one: value_of(one, "string"),
            "chart": self._collect_chart,
            "relIds": self._collect_diagram,
            "f": self._fraction_text,
            "rad": self._root_text,
            "d": self._bracket_text,
            "nary": self._sum_text,
            "sup": lambda one: self._script_text("^", one),
            "sub": lambda one: self._script_text("_", one),
        }

    def blocks(self, parent: Element) -> Iterator[str]:
        """Yield the paragraphs and rows of a body, cell or box."""
        for child in parent:
            name = local_name(child)
            if name == "p":
                yield from self._paragraph_lines(child)
            elif name == "tbl":
                yield from self._row_lines(child)
            elif name == "AlternateContent":
                yield from self.blocks(chosen_of(child))
            elif name == "sdt" and is_on(child_of(child, "sdtPr"), "showingPlcHdr"):
                continue
            elif name not in _UNSEEN:
                yield from self.blocks(child)
        if self._joined:
            text, self._joined = self._joined, ""
            yield text

    def _paragraph_lines(self, paragraph: Element) -> Iterator[str]:
        before, self._joined = self._joined, ""
        properties = child_of(paragraph, "pPr")
        mark = child_of(properties, "rPr")
        text = before + self._inline_text(paragraph)
        self._fields = [field for field in self._fields if field.begun]
        if mark is not None and first_of(mark, "del", "moveFrom") is not None:
            self._joined = text
            return
        styles = self._document.styles
        named = value_of(child_of(properties, "pStyle"))
        style = with_properties(styles.get(named) or styles.get("") or Style(), properties)
        if not (style.hidden or (is_on(mark, "vanish") and not text.strip())):
            yield self._paragraph_prefix(style, text) + text
        if not self._tables:
            yield from self._take_lines_beside()

    def _paragraph_prefix(self, style: Style, text: str) -> str:
        """Return the prefix of a paragraph: heading marks and list number."""
        if not text.strip():
            return ""
        return ("#" * min(style.level, 6) + " " if style.level else "") + self._document.numbering.label(style)

    def _take_lines_beside(self) -> Iterator[str]:
        waiting, self._beside = self._beside, []
        yield from waiting

    def _row_lines(self, table: Element) -> Iterator[str]:
        self._tables += 1
        for row in _inner_elements(table, "tr"):
            properties = child_of(row, "trPr")
            if properties is not None and (child_of(properties, "del") is not None or is_on(properties, "hidden")):
                continue
            cells = []
            for cell in _inner_elements(row, "tc"):
                if child_of(cell, "tcPr", "cellDel") is not None:
                    continue
                span = value_of(child_of(cell, "tcPr", "gridSpan"), default="1")
                cells.append(" ".join(" ".join(self.blocks(cell)).split()))
                cells += [""] * (min(whole_number(span, 1), _MAX_TABLE_COLUMNS) - 1)
            yield "\t".join(cells).rstrip()
            if self._tables == 1:
                yield from self._take_lines_beside()
        self._tables -= 1

    def _inline_text(self, parent: Element) -> str:
        parts = []
        for child in parent:
            name = local_name(child)
            if name in self._writers:
                parts.append(self._writers[name](child))
            elif name == "sdt" and is_on(child_of(child, "sdtPr"), "showingPlcHdr"):
                continue
            elif name not in _UNSEEN:
                parts.append(self._inline_text(child))
        return "".join(parts)

    def _run_text(self, run: Element) -> str:
        properties = child_of(run, "rPr")
        if properties is not None:
            named = value_of(child_of(properties, "rStyle"))
            style = (self._document.styles.get(named) if named else None) or Style()
            vanish = child_of(properties, "vanish")
            if is_on(properties, "vanish") or (vanish is None and style.hidden):
                for one in all_named(run, "fldChar"):
                    self._follow_field(one)
                return ""
            text = marked(self._inline_text(run), _ALIGNED.get(value_of(child_of(properties, "vertAlign")), ""))
            is_struck = _is_struck(properties) or (style.struck and first_of(properties, "strike", "dstrike") is None)
            return marked(text, STRUCK if is_struck else "")
        return self._inline_text(run)

    def _is_visible(self) -> bool:
        return all(field.begun for field in self._fields)

    def _element_text(self, element: Element) -> str:
        if not self._is_visible():
            return ""
        text = element.text or ""
        if self._fields:
            self._fields[-1].result += text
        return text

    def _read_instruction(self, element: Element) -> str:
        if self._fields and not self._fields[-1].begun:
            self._fields[-1].instruction += element.text or ""
        return ""

    def _simple_field_text(self, element: Element) -> str:
        text = self._inline_text(element)
        return text + _field_link(value_of(element, "instr"), text)

    def _break_text(self, element: Element) -> str:
        if value_of(element, "type") in ("page", "column") or not self._is_visible():
            return ""
        return "\n"

    def _follow_field(self, element: Element) -> str:
        """Track the instructions and results of fields; form boxes and lists are rendered as Word draws them."""
        kind = value_of(element, "fldCharType")
        if kind == "begin":
            self._fields.append(_OpenField())
            return _form_field_text(child_of(element, "ffData"))
        if self._fields and kind == "separate":
            self._fields[-1].begun = True
        elif self._fields and kind == "end":
            field = self._fields.pop()
            if field.begun and self._is_visible():
                return _field_link(field.instruction, field.result)
        return ""

    def _alternative_text(self, element: Element) -> str:
        """Return the text of a drawing's first form, or of the fallback if that is empty."""
        waiting = len(self._beside)
        text = self._inline_text(chosen_of(element))
        other = child_of(element, "Fallback")
        if text or len(self._beside) > waiting or other is None:
            return text
        return self._inline_text(other)

    def _collect_box(self, element: Element) -> str:
        fields, self._fields = self._fields, []
        self._tables += 1
        lines = [line for line in self.blocks(element) if line.strip()]
        self._tables -= 1
        self._fields = fields
        self._beside += lines
        return ""

    def _link(self, element: Element) -> str:
        text = self._inline_text(element)
        relation = self._relations.get(relation_of(element))
        if relation is not None and relation.outside:
            text += _link_suffix(relation.target, text)
        return text

    def _symbol_text(self, element: Element) -> str:
        code, font = value_of(element, "char").lower(), value_of(element, "font").lower()
        if not code or any(letter not in "0123456789abcdef" for letter in code) or len(code) > 5:
            return ""
        if font.startswith("wingdings") and code[-2:] in _SIGNS:
            return _SIGNS[code[-2:]]
        number = int(code, 16)
        if 0xF000 <= number <= 0xF0FF:
            number -= 0xF000
        letter = chr(number) if number >= 32 else ""
        if font == "symbol":
            return _GREEK.get(letter, letter)
        return letter

    def _note_mark(self, kind: str, element: Element) -> str:
        name = value_of(element, "id")
        if name not in self._document.notes[kind]:
            return ""
        known = name in self._document.numbers[kind]
        number = self._document.number(kind, name)
        if not known and kind != "endnote":
            self._beside += self._document.note(kind, name)
        return {"footnote": f"[{number}]", "endnote": f"[endnote {number}]", "comment": ""}[kind]

    def _image_text(self, element: Element) -> str:
        text = value_of(element, "descr").strip()
        if text:
            return f"[image: {' '.join(text.split())}]"
        return ""

    def _shape_text(self, element: Element) -> str:
        text = value_of(element, "alt").strip()
        return (f"[image: {' '.join(text.split())}]" if text else "") + self._inline_text(element)

    def _collect_chart(self, element: Element) -> str:
        return self._collect_drawing(relation_of(element), chart_lines)

    def _collect_diagram(self, element: Element) -> str:
        return self._collect_drawing(relation_of(element, "dm"), diagram_lines)

    def _collect_drawing(self, name: str, lines: Callable[[Package, str], Iterator[str]]) -> str:
        relation, drawn = self._relations.get(name), self._document.drawn
        if relation is not None and not relation.outside and relation.target not in drawn:
            drawn.add(relation.target)
            self._beside += lines(self._document.package, relation.target)
        return ""

    def _ruby_text(self, element: Element) -> str:
        """Return a word followed by its ruby text, which the file stores first."""
        base, above = child_of(element, "rubyBase"), child_of(element, "rt")
        reading = self._inline_text(above) if above is not None else ""
        return (self._inline_text(base) if base is not None else "") + (f"({reading})" if reading else "")

    def _script_text(self, sign: str, element: Element) -> str:
        text = self._inline_text(element)
        if _PLAIN_SCRIPT.fullmatch(text):
            return sign + text
        if text:
            return f"{sign}({text})"
        return ""

    def _root_text(self, element: Element) -> str:
        degree, inner = child_of(element, "deg"), child_of(element, "e")
        below = self._inline_text(inner) if inner is not None else ""
        above = self._inline_text(degree) if degree is not None else ""
        if above.strip():
            return f"root({below}, {above})"
        return f"sqrt({below})"

    def _bracket_text(self, element: Element) -> str:
        properties = child_of(element, "dPr")
        begin, between, end = (
            value_of(child_of(properties, name), default=usual)
            for name, usual in (("begChr", "("), ("sepChr", "|"), ("endChr", ")"))
        )
        inner = [self._inline_text(one) for one in element if local_name(one) == "e"]
        return f"{begin}{between.join(inner)}{end}"

    def _sum_text(self, element: Element) -> str:
        """Return a sum, an integral or the like with its limits."""
        sign = value_of(child_of(element, "naryPr", "chr"), default="∫")
        for name, mark in (("sub", "_"), ("sup", "^")):
            limit = child_of(element, name)
            if limit is not None:
                sign += self._script_text(mark, limit)
        inner = child_of(element, "e")
        if inner is None:
            return sign
        return f"{sign} {self._inline_text(inner)}"

    def _fraction_text(self, element: Element) -> str:
        above, below = child_of(element, "num"), child_of(element, "den")
        if above is None or below is None:
            return self._inline_text(element)
        return f"({self._inline_text(above)})/({self._inline_text(below)})"


def _field_link(instruction: str, text: str) -> str:
    """Return a link field's target, to be put after its text."""
    address = re.match(r'\s*HYPERLINK\s+"([^"]+)"', instruction)
    if address:
        return _link_suffix(address[1], text)
    return ""


def _link_suffix(address: str, text: str) -> str:
    """Return the address to put after a link's text, or "" if the text already shows it."""
    if text.strip() and address.removeprefix("mailto:").strip("/") not in text:
        return f" ({address})"
    return ""


def _inner_elements(parent: Element, name: str) -> Iterator[Element]:
    """Yield the rows of a table or the cells of a row, including those in content controls and other wrappers."""
    for child in parent:
        if local_name(child) == name:
            yield child
        elif local_name(child) not in _UNSEEN and local_name(child) not in ("p", "tbl"):
            yield from _inner_elements(child, name)


def _form_field_text(form: Element | None) -> str:
    """Return the text that a form's check box or drop-down list shows."""
    box, choices = child_of(form, "checkBox"), child_of(form, "ddList")
    if box is not None:
        state = "default" if child_of(box, "checked") is None else "checked"
        if is_on(box, state):
            return "[x]"
        return "[ ]"
    if choices is None:
        return ""
    entries = [value_of(one) for one in choices if local_name(one) == "listEntry"]
    chosen = value_of(child_of(choices, "result"), default="0")
    if chosen.isdecimal() and int(chosen) < len(entries):
        return entries[int(chosen)]
    return ""
