"""RTF, OpenDocument and EPUB: their text, in reading order and with the right characters."""

import pytest

from documents import packed
from rlm_dspy.corpus import read
from rlm_dspy.corpus.readers import choosing, office
from rlm_dspy.corpus.readers.office import opendocument


def seen(kind: str, data: bytes) -> str:
    made = office.answer(kind, data)
    assert "error" not in made, made
    return made["text"]


# RTF


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (r"one\par two\line three\tab four", "one\ntwo\nthree\tfour"),
        (r"caf\'e9 \u8364? \u-3913?\emdash\~x", "café € —\u00a0x".replace("€ ", "€ \uf0b7")),
        (r"\uc2\u1046\'c6\'c6\u1077 ??!", "Же!"),
        (r"{\uc0\u1046}\u1077?x", "Жеx"),
        (r"\u-10179?\u-8704?", "😀"),
        (r"{\f1\'cf\'f0\'e8\'e2\'e5\'f2} {\f2\'8a\'bf\'8e\'9a}", "Привет 漢字"),
        (r"a{\b b{\i c}}d\{e\}\\", "abcd{e}\\"),
        ("a\r\nb\\\nc", "ab\nc"),
        (r"{\*\generator x;}{\*\unknown y}{\pict\bin5 {{{{{ffff}z", "z"),
        (r"{\field{\*\fldinst HYPERLINK}{\fldrslt 8812 EUR}}", "8812 EUR"),
        (r"seen{\v unseen}\v no\v0  too{\deleted gone}", "seen too"),
        (r"\trowd a\cell b\cell\row\trowd c\cell d\cell\row", "a\tb\nc\td"),
        (r"Rent{\footnote\chftn First.} more{\*\annotation Ask.}\par next",
         "Rent[1] more\n[footnote 1] First.\n[comment] Ask.\nnext"),
        (r"{\header QX-7731\par}body{\footerf p. 1}{\header QX-7731}", "[header] QX-7731\nbody\n[footer] p. 1"),
        (r"{\shp{\*\shpinst{\sp{\sn a}{\sv b}}{\shptxt boxed}}}", "boxed"),
        (r"left open {\b bold", "left open bold"),
        (r"10{\super 6} N, 10\super -\super 3\nosupersub  m, {\strike 500} 300{\striked1 old}",
         "10^6 N, 10^-3 m, [struck: 500] 300[struck: old]"),
        (r"} closed too often} \par x", "closed too often\nx"),
    ],
)  # fmt: skip
def test_rtf(inner, text):
    fonts = r"{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial Cyr;}{\f2\fcharset128 Mincho;}}"
    lines = seen("rtf", rf"{{\rtf1\ansi\ansicpg1252{fonts}{{\colortbl;}}{inner}}}".encode("latin-1")).splitlines()
    assert "\n".join(line.strip(" ") for line in lines) == text


def test_pictures_and_objects_that_are_not_read_are_told():
    picture = rb"{\rtf1 a{\*\shppict{\pict 00}}{\nonshppict{\pict 00}}{\pict 00}}"
    assert office.answer("rtf", picture)["note"] == "not read: 2 pictures"
    parts = {"Object 1/content.xml": b"<x/>", "Pictures/1.png": b"x"}
    content = open_document("text", "<text:p>a</text:p>", more=parts)
    assert office.answer("odt", content)["note"] == "not read: 1 embedded object and 1 picture"
    page = office.answer("html", b"a<iframe title=x srcdoc='<p>b'></iframe>")
    assert page["note"] == "not read: a page inside it (iframe srcdoc)"


def test_rtf_in_the_encoding_that_it_names():
    assert seen("rtf", b"{\\rtf1\\ansi\\ansicpg1250 faktur\\'ea}") == "fakturę\n"
    assert seen("rtf", b"{\\rtf1\\ansi\\ansicpg99999 \\'e9}") == "é\n"
    assert seen("rtf", b"{\\rtf1\\mac \\'8e}") == "é\n"
    assert seen("rtf", b"{\\rtf1 " + b"{" * 100_000 + b"deep") == "deep\n"


# OpenDocument

ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{full}:1.0"'
    for name, full in (("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing"),
                       ("style", "style"), ("presentation", "presentation"), ("svg", "svg-compatible"))
) + ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:dc="http://purl.org/dc/elements/1.1/"'  # fmt: skip


def open_document(
    kind: str, body: str, styles: str = "", pages: str = "", more: dict[str, bytes] | None = None
) -> bytes:
    return packed((more or {}) | {
        "mimetype": f"application/vnd.oasis.opendocument.{kind}".encode(),
        "content.xml": f"<office:document-content {ODF}><office:automatic-styles>{styles}</office:automatic-styles>"
                       f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
                       "</office:document-content>".encode(),
        "styles.xml": f"<office:document-styles {ODF}>{pages}</office:document-styles>".encode(),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('<text:h text:outline-level="2">Terms</text:h><text:p>Ninety\n   days</text:p>', "## Terms\nNinety days"),
        ("<text:tracked-changes><text:p>gone</text:p></text:tracked-changes><text:p>a<text:change-start/>b</text:p>",
         "ab"),
        ('<text:p>a<text:tab/>b<text:s text:c="3"/>c<text:line-break/>d <text:span>e</text:span> f</text:p>',
         "a\tb   c\nd e f"),
        ('<text:p>See <text:a xlink:href="https://a.example/">us</text:a>.</text:p>', "See us (https://a.example/)."),
        ("<text:list><text:list-item><text:p>one</text:p></text:list-item><text:list-item><text:p>two</text:p>"
         "</text:list-item></text:list>", "- one\n- two"),
        ("<table:table><table:table-row><table:table-cell><text:p>a</text:p><text:p>b</text:p></table:table-cell>"
         "<table:table-cell><text:p>c</text:p></table:table-cell></table:table-row></table:table><text:p>d</text:p>",
         "a b\tc\nd"),
        ("<text:p>Rent<text:note><text:note-citation>9</text:note-citation><text:note-body><text:p>First.</text:p>"
         "</text:note-body></text:note>, due</text:p><text:p>x</text:p>", "Rent[1], due\n[footnote 1] First.\nx"),
        ("<text:p>a<office:annotation><dc:creator>Ann</dc:creator><text:p>Ask.</text:p></office:annotation>b</text:p>",
         "ab\n[comment] Ask."),
        ("<text:p>a<draw:frame><draw:text-box><text:p>boxed</text:p></draw:text-box><svg:desc>A pump</svg:desc>"
         "</draw:frame></text:p>", "a[image: A pump]\nboxed"),
        ("<text:section><text:p>in</text:p></text:section>", "in"),
        ('<text:section text:display="none"><text:p>out</text:p></text:section><text:p>in</text:p>', "in"),
    ],
)  # fmt: skip
def test_opendocument_texts(body, text):
    assert seen("odt", open_document("text", body)) == text + "\n"


def test_styles_that_raise_or_strike_a_text():
    styles = "".join(
        f'<style:style style:name="{name}"><style:text-properties {look}/></style:style>'
        for name, look in (
            ("a", 'style:text-position="super 58%"'),
            ("b", 'style:text-position="-33% 58%"'),
            ("c", 'style:text-line-through-style="solid"'),
            ("d", 'style:text-position="0% 100%" style:text-line-through-style="none"'),
        )
    )
    spans = "".join(f'10<text:span text:style-name="{name}">6</text:span> ' for name in "abcd")
    body = f'<text:p>{spans}</text:p><text:p text:style-name="c">gone</text:p>'
    made = seen("odt", open_document("text", body, styles))
    assert made == "10^6 10_6 10[struck: 6] 106 \n[struck: gone]\n"


def test_headers_of_opendocument_texts_are_read_once():
    margin = "<style:master-page><style:header><text:p>QX</text:p></style:header>"
    margin += "<style:footer><text:p>end</text:p></style:footer>"
    pages = f"<office:master-styles>{(margin + '</style:master-page>') * 2}</office:master-styles>"
    assert seen("odt", open_document("text", "<text:p>a</text:p>", pages=pages)) == "[header] QX\na\n[footer] end\n"


def cell(text: str, more: str = "") -> str:
    return f"<table:table-cell {more}><text:p>{text}</text:p></table:table-cell>"


def test_opendocument_spreadsheets(monkeypatch):
    far = '<table:table-cell table:number-columns-repeated="16384"/>'
    day = cell("5 March", 'office:value-type="date" office:date-value="2024-03-05"')
    twice = 'table:number-columns-repeated="2"'
    rows = f"<table:table-row>{cell('x', twice)}{far}</table:table-row>"
    rows += '<table:table-row table:number-rows-repeated="2"><table:table-cell/></table:table-row>'
    rows += f"<table:table-row><table:table-cell/><table:covered-table-cell/>{day}{cell('12 %')}</table:table-row>"
    rows += '<table:table-row><table:table-cell table:formula="of:=A1*2"/></table:table-row>'
    rows += f'<table:table-row table:number-rows-repeated="1048576">{far}</table:table-row>'
    hidden = '<style:style style:name="h"><style:table-properties table:display="false"/></style:style>'
    body = f'<table:table table:name="S">{rows}</table:table><table:table table:name="T" table:style-name="h"/>'
    data = open_document("spreadsheet", body, hidden)
    made = office.answer("ods", data)
    assert made["text"] == "=== S ===\nx\tx\n\n\n\t\t2024-03-05\t12 %\n=A1*2\n=== T (hidden) ===\n"
    assert made["marks"] == [(1, "sheet S", False), (2, "sheet S row", True), (7, "sheet T", False)]
    monkeypatch.setattr(opendocument, "MOST_CELLS", 1)
    assert office.answer("ods", data)["note"] == "cut after row 0 of sheet S: it has more than 1 cells"


def test_what_lies_on_the_cells_of_a_spreadsheet_follows_them():
    box = "<draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
    said = "".join(f"<office:annotation><text:p>{text}</text:p></office:annotation>" for text in ("est.", "ok"))
    cells = f"<table:table-cell>{said}{box.format('on a cell')}<text:p>5</text:p></table:table-cell>"
    row = f"<table:table-row>{cells}</table:table-row>"
    table = f'<table:table table:name="S"><table:shapes>{box.format("Draft")}</table:shapes>{row}</table:table>'
    made = office.answer("ods", open_document("spreadsheet", table))
    assert made["text"] == "=== S ===\n5 [comment: est. / ok]\non a cell\nDraft\n"
    assert made["marks"][-1] == (3, "sheet S, drawings", False)


def test_a_spreadsheet_that_repeats_itself_without_end_is_cut():
    many = 'table:number-columns-repeated="16384"'
    row = f'<table:table-row table:number-rows-repeated="1048576">{cell("x" * 100, many)}</table:table-row>'
    made = office.answer("ods", open_document("spreadsheet", f'<table:table table:name="S">{row * 3}</table:table>'))
    assert made["note"].startswith("cut after row 3")
    assert made["note"].endswith("of sheet S: it has more than 50,000,000 characters")


def test_opendocument_presentations():
    hidden = '<style:style style:name="h"><style:p presentation:visibility="hidden"/></style:style>'
    frame = "<draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
    notes = f"<presentation:notes>{frame.format('Mention Denmark.')}</presentation:notes>"
    body = f"<draw:page>{frame.format('one')}{notes}</draw:page>"
    body += f'<draw:page draw:style-name="h"><draw:g>{frame.format("two")}</draw:g></draw:page>'
    made = office.answer("odp", open_document("presentation", body, hidden))
    assert made["text"] == "one\nNotes: Mention Denmark.\n[hidden slide]\ntwo\n"
    assert made["marks"] == [(1, "slide 1", False), (3, "slide 2", False)]


# Books


def book(**more: bytes) -> bytes:
    container = '<container xmlns="c"><rootfiles><rootfile full-path="OPS/a.opf"/></rootfiles></container>'
    items = "".join(
        f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml" {properties}/>'
        for name, properties in (("nav", 'properties="nav"'), ("two", ""), ("one", ""), ("empty", ""))
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in ("nav", "one", "empty", "two", "gone"))
    page = '<?xml version="1.0" encoding="{0}"?><!DOCTYPE html><html><head><title/></head><body>{1}</body></html>'
    return packed({
        "mimetype": b"application/epub+zip", "META-INF/container.xml": container.encode(),
        "OPS/a.opf": f'<package xmlns="o"><manifest>{items}</manifest><spine>{spine}</spine></package>'.encode(),
        "OPS/nav.xhtml": b"<ol><li>One</li></ol>", "OPS/empty.xhtml": b"<p> </p>",
        "OPS/one.xhtml": page.format("utf-8", '<h1>One</h1><p><a id="x"/>Café<a href="two.xhtml">1</a></p>').encode(),
        "OPS/two.xhtml": page.format("iso-8859-1", "<p>Gr\u00fc\u00dfe<br/>end</p>").encode("latin-1"),
    } | more)  # fmt: skip


def test_a_book_is_read_chapter_by_chapter():
    made = office.answer("epub", book())
    assert made["text"] == "# One\n\nCafé1\nGrüße\nend\n"
    assert made["marks"] == [(1, "chapter 1", False), (4, "chapter 2", False)]


def test_a_book_that_is_locked_is_refused():
    locked = b'<encryption><CipherData><CipherReference URI="OPS/one.xhtml"/></CipherData></encryption>'
    refused = office.answer("epub", book(**{"META-INF/encryption.xml": locked}))
    assert refused == {"error": "a book with copy protection"}


# All of them


def test_the_content_of_a_file_tells_its_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path / "home"))
    kinds = {
        "rtf": b"{\\rtf1 a}", "epub": book(), "odt": open_document("text", ""), "ods": open_document("spreadsheet", ""),
        "odp": open_document("presentation", ""),
    }  # fmt: skip
    assert [choosing.find("file.doc", data).name for data in kinds.values()] == list(kinds)
    (tmp_path / "a.rtf").write_bytes(kinds["rtf"])
    (tmp_path / "b.epub").write_bytes(kinds["epub"])
    (tmp_path / "c.doc").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    corpus = read([tmp_path])
    assert corpus["a.rtf"] == "a\n"
    assert corpus.place("b.epub", 5) == "chapter 2"
    assert "older than 2007" in next(one.reason for one in corpus.skipped if one.name == "c.doc")
