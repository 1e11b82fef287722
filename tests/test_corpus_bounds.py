"""Limits of a document: counted, the same on every machine, and named if exceeded."""

import re
import zipfile
from io import BytesIO

import pytest

from documents import NAMESPACES, packed, paragraph, related, word, word_of
from rlm_dspy.corpus.readers import office
from rlm_dspy.corpus.readers.office import parts
from test_corpus_formats import book, open_document
from test_corpus_sheets import book_of, show_of, slide_of

ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
MAIN = {"docx": "word/document.xml", "xlsx": "xl/worksheets/a.xml", "pptx": "ppt/slides/0.xml", "odt": "content.xml",
        "epub": "OPS/a.opf"}  # fmt: skip


def documents() -> dict[str, bytes]:
    return {
        "docx": word_of(paragraph("text")), "xlsx": book_of("<row><c><v>1</v></c></row>"),
        "pptx": show_of(slide_of("")),
        "odt": open_document("text", "<text:p>text</text:p>"), "epub": book(),
    }  # fmt: skip


def changed(data: bytes, name: str, new: bytes) -> bytes:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return packed({one: archive.read(one) for one in archive.namelist()} | {name: new})


def content(data: bytes, name: str) -> str:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return archive.read(name).decode()


@pytest.mark.parametrize("kind", MAIN)
def test_no_kind_expands_entities(kind):
    data = documents()[kind]
    xml = ENTITIES + content(data, MAIN[kind]).replace("text<", "&b;<")
    made = office.answer(kind, changed(data, MAIN[kind], xml.encode()))
    assert made == {"error": "its XML declares entities, as no office program does"}


@pytest.mark.parametrize("kind", MAIN)
def test_no_kind_unpacks_a_bomb(kind):
    made = office.answer(kind, changed(documents()[kind], "big.xml", b" " * 60_000_000))
    assert made["error"].startswith("it unpacks to 60 MB, far more than its size, as a zip bomb does: the limit is 250")


@pytest.mark.parametrize("kind", ["docx", "pptx", "odt", "epub"])
def test_a_part_that_is_held_as_a_tree_has_a_limit(kind, monkeypatch):
    monkeypatch.setattr(parts, "MOST_PART", 40)
    made = office.answer(kind, documents()[kind])
    assert re.fullmatch(r"its part \S+ has more than 0 MB: split the document", made["error"])


def test_depth_is_bounded():
    deep = "<text:section>" * 5_000 + "</text:section>" * 5_000
    shapes = "<p:grpSp>" * 5_000 + "</p:grpSp>" * 5_000
    cases = (("odt", open_document("text", deep)), ("pptx", show_of(slide_of(shapes))))
    for kind, data in cases:
        assert office.answer(kind, data) == {"error": "its parts are nested too deeply"}


def test_what_is_broken_beside_the_text_costs_only_itself():
    data = word_of(paragraph("kept"), styles="<w:style/>", comments="", header1=paragraph("x"))
    for name in ("word/styles.xml", "word/comments.xml", "_rels/.rels"):
        made = office.answer("docx", changed(data, name, b"<a><b>"))
        assert (made["text"], made["note"]) == ("kept\n", f"its part {name.lstrip('/')} is broken")
    whole = content(book_of(""), "xl/worksheets/a.xml").partition("</sheetData>")[0]
    rows = "".join(f'<row r="{row}"><c><v>{row}</v></c></row>' for row in range(1, 9))
    made = office.answer("xlsx", changed(book_of(""), "xl/worksheets/a.xml", (whole + rows + "<row").encode()))
    assert made["text"] == "=== S ===\n1\n2\n3\n4\n5\n6\n7\n8\n"
    assert made["note"] == "its part xl/worksheets/a.xml is broken"


def test_a_document_whose_text_is_broken_or_locked_is_refused():
    assert office.answer("docx", changed(word(), "word/document.xml", b"<a"))["error"].startswith("broken: ExpatError")
    packed_with_lock = bytearray(word_of(paragraph("x")))
    for start in (one.start() for one in re.finditer(rb"PK\x01\x02", bytes(packed_with_lock))):
        packed_with_lock[start + 8] |= 1  # the flag of encryption
    assert office.answer("docx", bytes(packed_with_lock)) == {"error": "encrypted"}


def test_a_document_that_refers_to_itself_ends():
    relations = (("a", "header", "document.xml"), ("b", "chart", "document.xml"), ("c", "footnotes", "document.xml"))
    reference = '<w:sectPr><w:headerReference r:id="a"/></w:sectPr>'
    data = word_of(paragraph("text", '<w:r><c:chart r:id="b"/></w:r>') + reference, relations)
    assert office.answer("docx", data)["text"].splitlines()[-1] == "text"
    notes = '<w:footnote w:id="1"><w:p><w:r><w:footnoteReference w:id="1"/><w:t>x</w:t></w:r></w:p></w:footnote>'
    data = word_of(paragraph('<w:r><w:footnoteReference w:id="1"/></w:r>'), footnotes=notes)
    assert office.answer("docx", data)["text"] == "[1]\n[footnote 1] [1]x\n"
    order = '<p:sldIdLst><p:sldId r:id="a"/></p:sldIdLst>'
    show = packed(
        {
            "ppt/presentation.xml": f"<p:presentation {NAMESPACES}>{order}</p:presentation>".encode(),
            "ppt/_rels/presentation.xml.rels": related(("a", "slide", "presentation.xml")),
        }
    )
    assert office.answer("pptx", show) == {"error": "no text in it"}
