"""Word documents: their visible text, and only that."""

import pytest

from documents import NAMESPACES, packed, paragraph, related, run, word_of
from rlm_dspy.corpus.readers import office

RAISED = '<w:vertAlign w:val="superscript"/>'
WHO = 'w:id="1" w:author="A"'


def seen(body: str, *relations: tuple[str, str, str], **parts: str) -> list[str]:
    made = office.answer("docx", word_of(body, relations, **parts))
    assert "error" not in made, made
    return made["text"].splitlines()


def control(content: str) -> str:
    return f"<w:sdt><w:sdtPr/><w:sdtContent>{content}</w:sdtContent></w:sdt>"


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (f"<w:ins {WHO}>{run('ninety')}</w:ins><w:del {WHO}><w:r><w:delText>ten</w:delText></w:r></w:del>", "ninety"),
        (f"<w:moveTo {WHO}>{run('moved')}</w:moveTo><w:moveFrom {WHO}>{run('away')}</w:moveFrom>", "moved"),
        (f"<w:ins {WHO}><w:del {WHO}>{run('gone')}</w:del>{run('kept')}</w:ins>", "kept"),
        (control(run("4 May 1971")), "4 May 1971"),
        (control(control(run("nested")) + run(" twice")), "nested twice"),
        (f'<w:smartTag w:element="place">{run("Gdansk")}</w:smartTag>', "Gdansk"),
        (f'<w:customXml w:element="x"><w:customXmlPr/>{run("wrapped")}</w:customXml>', "wrapped"),
        (f'<w:fldSimple w:instr="TOTAL">{run("8812 EUR")}</w:fldSimple>', "8812 EUR"),
        (f"<w:bdo>{run('turned')}</w:bdo>", "turned"),
        (run("seen") + run("unseen", "<w:vanish/>") + run(" too", '<w:vanish w:val="0"/>'), "seen too"),
        ("<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:noBreakHyphen/><w:t>c</w:t><w:br/><w:t>d</w:t></w:r>", "a\tb-c\nd"),
        ('<w:r><w:t>x</w:t><w:br w:type="page"/><w:t>y</w:t><w:softHyphen/></w:r>', "xy"),
        ('<w:r><w:sym w:font="Wingdings" w:char="F0FE"/><w:sym w:font="Symbol" w:char="F061"/></w:r>', "☑α"),
        (f"<w:r><w:ruby><w:rubyPr/><w:rt>{run('とう')}</w:rt><w:rubyBase>{run('東')}</w:rubyBase></w:ruby></w:r>",
         "東(とう)"),
        (f"<m:oMath><m:f><m:num>{run('a')}</m:num><m:den>{run('b')}</m:den></m:f></m:oMath>", "(a)/(b)"),
        (f"<m:rad><m:deg/><m:e>{run('2')}</m:e></m:rad><m:rad><m:deg>{run('3')}</m:deg><m:e>{run('x')}</m:e></m:rad>",
         "sqrt(2)root(x, 3)"),
        (f"<m:d><m:e>{run('a+b')}</m:e></m:d><m:d><m:dPr><m:begChr m:val='['/><m:endChr m:val=''/></m:dPr></m:d>",
         "(a+b)["),
        (f"<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr><m:sub>{run('i=1')}</m:sub><m:sup>{run('n')}</m:sup>"
         f"<m:e>{run('i')}</m:e></m:nary>", "∑_(i=1)^n i"),
        (run("10") + run("-", RAISED) + run("6", RAISED) + run("; 1") + run("st", RAISED), "10^-6; 1st"),
        (run("500", "<w:strike/>") + run(" 300") + run("9", "<w:dstrike/>") + run("8", '<w:strike w:val="0"/>'),
         "[struck: 500] 300[struck: 9]8"),
        ('<w:r><w:drawing><wp:inline><wp:docPr id="1" name="p" descr="A red valve"/></wp:inline></w:drawing></w:r>',
         "[image: A red valve]"),
    ],
)  # fmt: skip
def test_what_stands_in_a_paragraph(inner, text):
    assert seen(paragraph("(", inner, ")")) == f"({text})".splitlines()


def test_what_is_not_read_of_a_document_is_told_by_kind():
    relations = (
        ("rId20", "image", "media/a.png"), ("rId21", "image", "media/b.png"), ("rId22", "package", "embeddings/a.xlsx"),
        ("rId23", "aFChunk", "chunk.html"),
    )  # fmt: skip
    made = office.answer("docx", word_of(paragraph(run("Contract")), relations))
    assert made["note"] == "not read: 1 embedded file, 1 inserted document and 2 pictures"
    cells = "".join(f"<w:tc><w:tcPr>{more}</w:tcPr>{paragraph(run(text))}</w:tc>" for text, more in (
        ("gone", '<w:cellDel w:id="4"/>'), ("kept", ""),
    ))  # fmt: skip
    assert seen(f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>") == ["kept"]


def test_a_paragraph_that_was_inserted_or_removed_as_a_whole():
    inserted = paragraph(f"<w:ins {WHO}>{run('The cap is 2 million.')}</w:ins>", properties="<w:rPr><w:ins/></w:rPr>")
    removed = paragraph(f"<w:del {WHO}>{run('x')}</w:del>", properties=f"<w:rPr><w:del {WHO}/></w:rPr>")
    halved = paragraph("one ", properties=f"<w:rPr><w:del {WHO}/></w:rPr>")
    assert seen(inserted + removed + halved + paragraph("line")) == ["The cap is 2 million.", "one line"]
    assert seen(paragraph("first") + halved) == ["first", "one "]


def test_content_controls_of_every_level():
    cell = f"<w:tc>{paragraph('Salary')}</w:tc>" + control(f"<w:tc><w:p/>{control(paragraph('61500'))}</w:tc>")
    rows = f"<w:tr>{cell}</w:tr>" + control(f"<w:tr><w:tc>{paragraph('Bonus')}</w:tc><w:tc><w:p/></w:tc></w:tr>")
    empty = f"<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent>{paragraph('Click')}</w:sdtContent></w:sdt>"
    body = control(control(paragraph("Applicant: Ferraro"))) + empty + f"<w:tbl><w:tblPr/>{rows}</w:tbl>"
    assert seen(body) == ["Applicant: Ferraro", "Salary\t61500", "Bonus"]


def test_tables_in_tables_and_joined_and_removed_cells():
    inner = f"<w:tbl><w:tr><w:tc>{paragraph('a')}</w:tc><w:tc>{paragraph('b')}</w:tc></w:tr></w:tbl>"
    wide = f'<w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>{paragraph("wide")}{inner}</w:tc>'
    row = f"<w:tr>{wide}<w:tc>{paragraph('x', '<w:r><w:br/></w:r>', 'y')}</w:tc></w:tr>"
    gone = f"<w:tr><w:trPr><w:del {WHO}/></w:trPr><w:tc>{paragraph('gone')}</w:tc></w:tr>"
    assert seen(f"<w:tbl>{row}{gone}</w:tbl>") == ["wide a b\t\tx y"]


def mark(kind: str) -> str:
    return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'


def test_fields_show_their_results_and_nothing_of_their_instructions():
    def field(instruction: str, result: str) -> str:
        return f"{mark('begin')}{instruction}{mark('separate')}{result}{mark('end')}"

    told = "<w:r><w:instrText>PAGEREF x</w:instrText></w:r>"
    condition = field(told + field(told, run("condition")) + run("IF"), run("result"))
    assert seen(paragraph("a ", condition, " b")) == ["a result b"]
    assert seen(paragraph(mark("begin"), told, mark("end"), "after")) == ["after"]
    assert seen(paragraph(mark("begin"), told) + paragraph("a field without an end")) == ["", "a field without an end"]
    hidden = '<w:r><w:rPr><w:vanish/></w:rPr><w:fldChar w:fldCharType="separate"/></w:r>'
    assert seen(paragraph(mark("begin"), told, hidden, "shown", mark("end"))) == ["shown"]
    long = paragraph(mark("begin"), told, mark("separate"), "one") + paragraph("two", mark("end"), " three")
    assert seen(long) == ["one", "two three"]


def test_the_boxes_and_lists_of_a_form():
    def form(inner: str) -> str:
        return f'<w:r><w:fldChar w:fldCharType="begin"><w:ffData>{inner}</w:ffData></w:fldChar></w:r>{mark("end")}'

    boxes = form('<w:checkBox><w:default w:val="0"/><w:checked/></w:checkBox>') + form(
        '<w:checkBox><w:default w:val="0"/></w:checkBox>'
    )
    choice = '<w:ddList><w:result w:val="1"/><w:listEntry w:val="Oak"/><w:listEntry w:val="Larch"/></w:ddList>'
    assert seen(paragraph(boxes, " ", form(choice))) == ["[x][ ] Larch"]


def test_a_text_box_is_read_once():
    box = f"<w:txbxContent>{paragraph('Emergency line: 555-0148')}</w:txbxContent>"
    old = f"<w:pict><v:shape><v:textbox>{box}</v:textbox></v:shape></w:pict>"
    new = f"<w:drawing><wp:anchor><wps:wsp><wps:txbx>{box}</wps:txbx></wps:wsp></wp:anchor></w:drawing>"
    both = f"<mc:AlternateContent><mc:Choice>{new}</mc:Choice><mc:Fallback>{old}</mc:Fallback></mc:AlternateContent>"
    for drawn in (old, new, both, f"<mc:AlternateContent><mc:Fallback>{old}</mc:Fallback></mc:AlternateContent>"):
        assert seen(paragraph("Text", f"<w:r>{drawn}</w:r>")) == ["Text", "Emergency line: 555-0148"]
    nothing = f"<mc:AlternateContent><mc:Choice/><mc:Fallback>{old}</mc:Fallback></mc:AlternateContent>"
    assert seen(paragraph("Text", f"<w:r>{nothing}</w:r>")) == ["Text", "Emergency line: 555-0148"]
    cell = f"<w:tbl><w:tr><w:tc>{paragraph('cell', f'<w:r>{both}</w:r>')}</w:tc></w:tr></w:tbl>"
    assert seen(cell) == ["cell", "Emergency line: 555-0148"]


def test_headers_and_footers_are_read_once_however_many_sections_name_them():
    section = '<w:sectPr><w:headerReference r:id="header1"/><w:footerReference r:id="footer1"/></w:sectPr>'
    other = '<w:sectPr><w:headerReference r:id="header2"/><w:footerReference r:id="footer1"/></w:sectPr>'
    body = paragraph("one", properties=section) + paragraph("two") + other
    parts = {"header1": paragraph("QX-7731"), "header2": paragraph("QX-7731") + paragraph("Annex")}
    assert seen(body, **parts, footer1=control(paragraph("restricted"))) == [
        "[header] QX-7731", "[header] Annex", "one", "two", "[footer] restricted",
    ]  # fmt: skip


def test_notes_and_comments_stand_behind_what_they_belong_to():
    body = paragraph(
        "Rent", '<w:r><w:footnoteReference w:id="7"/></w:r>', " and", '<w:r><w:endnoteReference w:id="3"/></w:r>',
        '<w:r><w:commentReference w:id="0"/></w:r>', " more", '<w:r><w:footnoteReference w:id="2"/></w:r>',
    ) + paragraph("next")  # fmt: skip
    footnotes = f'<w:footnote w:type="separator" w:id="0">{paragraph("line")}</w:footnote>' + "".join(
        f'<w:footnote w:id="{name}">{paragraph(text)}</w:footnote>' for name, text in ((2, "Second."), (7, "First."))
    )
    comment = f'<w:comment w:id="0" w:author="Ann Lee" w:initials="AL">{paragraph("Ask legal.")}</w:comment>'
    endnotes = f'<w:endnote w:id="3">{paragraph(" Last.")}</w:endnote>'
    assert seen(body, footnotes=footnotes, endnotes=endnotes, comments=comment) == [
        "Rent[1] and[endnote 1] more[2]", "[footnote 1] First.", "[comment] Ask legal.", "[footnote 2] Second.", "next",
        "[endnote 1] Last.",
    ]  # fmt: skip


def test_links_are_shown_where_the_text_does_not_say_where_they_lead():
    relations = (("a", "hyperlink", "https://example.org/x"), ("b", "hyperlink", "mailto:a@b.c"))
    linked = paragraph("See ", f'<w:hyperlink r:id="a">{run("the portal")}</w:hyperlink>', ".")
    plain = paragraph(f'<w:hyperlink r:id="b">{run("a@b.c")}</w:hyperlink>')
    told = '<w:r><w:instrText> HYPERLINK "https://b.example" </w:instrText></w:r>'
    field = f"{mark('begin')}{told}{mark('separate')}{run('the shop')}{mark('end')}"
    simple = f"<w:fldSimple w:instr='HYPERLINK \"https://c.example\"'>{run('https://c.example')}</w:fldSimple>"
    assert seen(paragraph(field, ", ", simple)) == ["the shop (https://b.example), https://c.example"]
    inside = paragraph(f'<w:hyperlink w:anchor="x">{run("below")}</w:hyperlink>')
    assert seen(linked + plain + inside, *relations) == ["See the portal (https://example.org/x).", "a@b.c", "below"]


STYLES = """
<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/></w:style>
<w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style>
<w:style w:styleId="Mine"><w:name w:val="Mine"/><w:basedOn w:val="berschrift2"/></w:style>
<w:style w:styleId="Outlined"><w:name w:val="Clause"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>
<w:style w:styleId="Title"><w:name w:val="Title"/></w:style>
<w:style w:styleId="Loop"><w:name w:val="Loop"/><w:basedOn w:val="Loop"/></w:style>
<w:style w:styleId="Secret"><w:name w:val="Secret"/><w:rPr><w:vanish/></w:rPr></w:style>
<w:style w:styleId="Bullets"><w:name w:val="Bullets"/><w:pPr><w:numPr><w:numId w:val="2"/></w:numPr></w:pPr></w:style>
"""
NUMBERING = """
<w:abstractNum w:abstractNumId="0">
<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2"/></w:lvl>
<w:lvl w:ilvl="2"><w:start w:val="1"/><w:numFmt w:val="lowerRoman"/><w:lvlText w:val="(%3)"/></w:lvl></w:abstractNum>
<w:abstractNum w:abstractNumId="1">
<w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="o"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="0"/>
<w:lvlOverride w:ilvl="0"><w:startOverride w:val="1"/></w:lvlOverride></w:num>
"""


def item(text: str, number: int, depth: int = 0, style: str = "") -> str:
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    properties = f'{named}<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="{number}"/></w:numPr>'
    return paragraph(text, properties=properties)


def test_headings_are_known_in_every_language_of_word():
    names = ("berschrift2", "Mine", "Outlined", "Title", "Loop", "Secret", "unknown")
    body = "".join(paragraph(name, properties=f'<w:pStyle w:val="{name}"/>') for name in names)
    assert seen(body, styles=STYLES) == ["## berschrift2", "## Mine", "### Outlined", "# Title", "Loop", "unknown"]
    assert seen(paragraph(run("a") + run("b", '<w:rStyle w:val="Secret"/>')), styles=STYLES) == ["a"]


def test_lists_have_the_numbers_that_word_counts():
    body = item("a", 1) + item("b", 1, 1) + item("c", 1, 1) + item("d", 1, 2) + item("e", 1) + item("f", 1, 1)
    body += item("g", 3) + item("h", 1) + item("head", 1, 0, "berschrift2") + item("none", 0)
    assert seen(body, styles=STYLES, numbering=NUMBERING) == [
        "1. a", "1.1 b", "1.2 c", "(i) d", "2. e", "2.1 f", "1. g", "2. h", "## 3. head", "none",
    ]  # fmt: skip
    bullets = item("x", 2) + paragraph("y", properties='<w:pStyle w:val="Bullets"/>') + item("z", 0, 0, "Bullets")
    assert seen(bullets, styles=STYLES, numbering=NUMBERING) == ["- x", "- y", "z"]


def test_a_document_whose_main_part_has_another_name_is_read():
    files = {
        "[Content_Types].xml": b"<Types/>", "_rels/.rels": related(("a", "officeDocument", "/Word/Document2.xml")),
        "word/document2.xml": f"<w:document {NAMESPACES}><w:body>{paragraph('read')}</w:body></w:document>".encode(),
    }  # fmt: skip
    assert office.answer("docx", packed(files))["text"] == "read\n"


def test_entities_are_never_expanded_and_depth_is_bounded():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><w:document xmlns:w="w">&b;</w:document>'
    for data in (bomb, bomb.decode().encode("utf-16")):
        refused = office.answer("docx", packed({"word/document.xml": data}))
        assert refused == {"error": "its XML declares entities, as no office program does"}
    deep = "<w:sdt><w:sdtContent>" * 5_000 + paragraph("x") + "</w:sdtContent></w:sdt>" * 5_000
    assert office.answer("docx", word_of(deep)) == {"error": "its parts are nested too deeply"}
