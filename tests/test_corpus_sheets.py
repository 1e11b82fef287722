"""Workbooks and presentations: the text of cells, slides, charts and diagrams."""

import datetime
import io

import openpyxl
import pptx
import pytest
from openpyxl.comments import Comment
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from documents import NAMESPACES, packed, related
from rlm_dspy.corpus.readers import choosing, office
from rlm_dspy.corpus.readers.office import sheets, slides
from rlm_dspy.corpus.readers.office.sheets import number_text, position_of

SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def saved(document: object) -> bytes:
    target = io.BytesIO()
    document.save(target)  # type: ignore[attr-defined]
    return target.getvalue()


def book_of(rows: str, styles: str = "", texts: str = "", properties: str = "") -> bytes:
    """A workbook of one sheet of this XML."""
    sheet = '<sheet name="S" sheetId="1" r:id="rId1"/>'
    return packed({
        "[Content_Types].xml": b"<Types/>",
        "xl/workbook.xml": f"<workbook {SHEET} {NAMESPACES}>{properties}<sheets>{sheet}</sheets></workbook>".encode(),
        "xl/_rels/workbook.xml.rels": related(
            ("rId1", "worksheet", "worksheets/a.xml"), ("b", "styles", "s.xml"), ("c", "sharedStrings", "t.xml")
        ),
        "xl/worksheets/a.xml": f"<worksheet {SHEET}><sheetData>{rows}</sheetData></worksheet>".encode(),
        "xl/s.xml": f"<styleSheet {SHEET}>{styles}</styleSheet>".encode(),
        "xl/t.xml": f"<sst {SHEET}>{texts}</sst>".encode(),
    })  # fmt: skip


def seen(data: bytes, kind: str = "xlsx") -> str:
    made = office.answer(kind, data)
    assert "error" not in made, made
    return made["text"]


def test_raised_and_struck_cells():
    fonts = '<fonts><font/><font><strike/></font><font><strike val="0"/></font></fonts>'
    styles = fonts + "<cellXfs>" + "".join(f'<xf numFmtId="0" fontId="{font}"/>' for font in range(3)) + "</cellXfs>"
    runs = '<si><r><t>10</t></r><r><rPr><vertAlign val="superscript"/></rPr><t>6</t></r></si>'
    runs += "<si><r><rPr><strike/></rPr><t>old</t></r><r><t> new</t></r></si>"
    cells = '<c t="s"><v>0</v></c><c t="s"><v>1</v></c><c s="1"><v>500</v></c><c s="2"><v>300</v></c>'
    assert (
        seen(book_of(f"<row>{cells}</row>", styles, runs)) == "=== S ===\n10^6\t[struck: old] new\t[struck: 500]\t300\n"
    )


def test_headers_of_a_sheet_are_read():
    margin = '</sheetData><headerFooter><oddHeader>&amp;C&amp;"Arial,Bold"ACME 2031&amp;P</oddHeader>'
    margin += "<evenHeader>&amp;CACME 2031</evenHeader><oddFooter>&amp;R end</oddFooter></headerFooter><sheetData>"
    made = office.answer("xlsx", book_of(f"<row><c><v>1</v></c></row>{margin}"))
    assert made["text"] == "=== S ===\n1\n[header] ACME 2031\n[footer] end\n"
    assert made["marks"][-1] == (3, "sheet S, drawings", False)


def test_odd_cells_cost_nothing_else():
    day = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
    late = '<row r="1"><c s="1"><v>2958000</v></c><c><v>77</v></c></row>'
    assert seen(book_of(late, day, properties='<workbookPr date1904="1"/>')) == "=== S ===\n2958000\t77\n"
    rows = "".join(f'<row r="{number}"><c><v>{number}{number}</v></c></row>' for number in (3, 1, 1))
    made = office.answer("xlsx", book_of(rows))
    assert made["text"] == "=== S ===\n11\n\n33\n"
    assert made["note"] == "rows of a sheet that have the number of an earlier one are left out"
    text = '<row><c t="s"><v>0</v></c><c t="str"><v>a_x0041_b</v></c></row>'
    assert (
        seen(book_of(text, texts="<si><t>one_x000D_\ntwo_x005F_x000D_</t></si>")) == "=== S ===\none two_x000D_\taAb\n"
    )


def test_a_formula_that_nobody_calculated_is_shown_and_told():
    rows = '<row r="1"><c r="A1"><f>B1*2</f><v></v></c><c r="B1"><v>4</v></c><c r="C1"><f>B1*3</f><v>12</v></c></row>'
    rows += '<row r="2"><c r="A2" t="str"><f>""</f><v></v></c><c r="B2" t="str"><f>SUM(B1)</f></c></row>'
    made = office.answer("xlsx", book_of(rows))
    assert made["text"] == "=== S ===\n=B1*2\t4\t12\n\t=SUM(B1)\n"
    assert made["note"].startswith("2 formulas have no stored value: read as =formula")
    assert office.answer("xlsx", book_of(rows.partition('<row r="2">')[0]))["note"].startswith("a formula has no")
    shared = '<row><c><f t="shared" si="0" ref="A1:A2">B1*2</f></c></row><row><c><f t="shared" si="0"/></c></row>'
    assert seen(book_of(shared)) == "=== S ===\n=B1*2\n=(filled on from =B1*2)\n"
    assert office.answer("xlsx", book_of('<row><c t="str"><f>A9</f><v>x</v></c></row>'))["note"] == ""


def test_hidden_sheets_are_marked_and_hidden_rows_read():
    book = openpyxl.Workbook()
    book.active.append(["shown"])
    book.active.row_dimensions[1].hidden = True
    book.create_sheet("Margin").append(["secret margin"])
    book["Margin"].sheet_state = "hidden"
    book.create_sheet("Deep").sheet_state = "veryHidden"
    assert seen(saved(book)) == (
        "=== Sheet ===\nshown\n=== Margin (hidden) ===\nsecret margin\n=== Deep (hidden) ===\n"
    )


def test_cells_are_read_as_a_person_reads_them():
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([datetime.date(2024, 3, 5), datetime.datetime(2024, 3, 6, 14, 5), datetime.time(9, 30), True, "a\nb"])
    sheet.append([0.153, 1234.5, 42, datetime.timedelta(hours=26), "#N/A"])
    sheet["A2"].number_format = "0.0%"
    sheet["B2"].number_format = '#,##0.00 "EUR"'
    sheet["C2"].number_format = "00000"
    sheet["A4"] = "far"
    sheet["A1"].comment = Comment("As agreed", "Ann")
    sheet["B5"].comment = Comment("Nothing here", "Ann")
    assert seen(saved(book)) == (
        "=== Sheet ===\n2024-03-05 [comment: As agreed]\t2024-03-06 14:05:00\t09:30:00\tTRUE\ta b\n"
        "15.3%\t1234.5\t00042\t26:00:00\t#N/A\n\nfar\n\t[comment: Nothing here]\n"
    )


@pytest.mark.parametrize(
    ("code", "stored", "shown"),
    [
        ("dd/mm/yyyy", "45356", "2024-03-05"), ("yyyy-mm-dd hh:mm", "45356.5", "2024-03-05 12:00:00"),
        ("h:mm AM/PM", "0.75", "18:00:00"), ("hh:mm", "45000.75", "2023-03-15 18:00:00"), ("hh:mm", "1.25", "30:00:00"),
        ("[h]:mm", "1.25", "30:00:00"), ("mmm yy", "1", "1900-01-01"),
        ('"day" 0', "5", "5"), ("General", "0.1", "0.1"), ("0%", "0.125", "12.5%"), ("#,##0", "1E+3", "1000"),
        ('[Red]#,##0;[Blue]-#,##0', "-5", "-5"), ('0.00" mm"', "2.5", "2.5"), ("@", "12", "12"),
        ("[$-409]d-mmm-yy;@", "45356", "2024-03-05"), ("000-00", "7", "7"), ("yyyy", "-3", "-3"),
        ("d", "1e300", "1e+300"),
    ],
)  # fmt: skip
def test_the_format_of_a_cell_tells_what_its_number_is(code, stored, shown):
    code = code.replace('"', "&quot;")
    styles = f'<numFmts><numFmt numFmtId="200" formatCode="{code}"/></numFmts>'
    styles += '<cellXfs><xf numFmtId="0"/><xf numFmtId="200"/></cellXfs>'
    assert seen(book_of(f'<row><c s="1"><v>{stored}</v></c></row>', styles)) == f"=== S ===\n{shown}\n"


def test_days_since_1904_texts_that_are_shared_and_texts_in_place():
    styles = '<cellXfs><xf numFmtId="14"/></cellXfs>'
    texts = "<si><r><t>Nor</t></r><r><t>well</t></r><rPh><t>x</t></rPh></si>"
    row = '<row r="2"><c s="0"><v>0</v></c><c t="s"><v>0</v></c><c t="s"><v>7</v></c>'
    row += '<c t="inlineStr"><is><t>in</t></is></c>'
    row += '<c t="d"><v>2024-03-05T00:00:00</v></c><c t="e"><v>#DIV/0!</v></c></row>'
    data = book_of(row, styles, texts, '<workbookPr date1904="1"/>')
    assert seen(data) == "=== S ===\n\n1904-01-01\tNorwell\t\tin\t2024-03-05\t#DIV/0!\n"
    assert number_text("x", sheets.Format()) == "x"
    assert position_of("AB12") == (12, 28)


def test_a_workbook_is_cut_by_counts_and_says_where(monkeypatch):
    rows = "".join(f'<row r="{row}"><c r="A{row}"><v>{row}</v></c></row>' for row in range(1, 9))
    monkeypatch.setattr(sheets, "MOST_CELLS", 5)
    made = office.answer("xlsx", book_of(rows))
    assert made["text"] == "=== S ===\n1\n2\n3\n4\n5\n"
    assert made["note"] == "cut after row 5 of sheet S: it has more than 5 cells"
    monkeypatch.setattr(sheets, "MOST_CHARS", 7)
    assert office.answer("xlsx", book_of(rows))["note"] == "cut after row 3 of sheet S: it has more than 7 characters"


def test_rows_and_columns_that_no_sheet_has_are_left_out():
    far = '<row r="1048577"><c><v>1</v></c></row><row r="1"><c r="A1"><v>2</v></c><c r="ZZZZ1"><v>3</v></c></row>'
    assert seen(book_of(far)) == "=== S ===\n2\n"
    assert office.answer("xlsx", packed({"xl/workbook.bin": b"x"}))["error"].startswith("broken or binary (.xlsb)")


@pytest.mark.parametrize("name", ["a.xlsm", "a.xltx", "a.bin"])
def test_the_content_of_a_file_tells_its_kind(name):
    assert choosing.find(name, book_of("<row/>")).name == "xlsx"


# Slides


def show_of(*slides: str, relations: tuple[tuple[str, str, str], ...] = (), **parts: str) -> bytes:
    order = "".join(f'<p:sldId id="{256 + number}" r:id="s{number}"/>' for number in range(len(slides)))
    listed = f"<p:sldIdLst>{order}</p:sldIdLst>"
    files = {
        "[Content_Types].xml": b"<Types/>",
        "ppt/presentation.xml": f"<p:presentation {NAMESPACES}>{listed}</p:presentation>".encode(),
        "ppt/_rels/presentation.xml.rels": related(
            *((f"s{number}", "slide", f"slides/{number}.xml") for number in range(len(slides)))
        ),
    }
    for number, slide in enumerate(slides):
        files[f"ppt/slides/{number}.xml"] = slide.encode()
        files[f"ppt/slides/_rels/{number}.xml.rels"] = related(*relations)
    return packed(files | {f"ppt/parts/{name}.xml": part.encode() for name, part in parts.items()})


def slide_of(shapes: str, more: str = "") -> str:
    return f"<p:sld {NAMESPACES} {more}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"


def shape_of(text: str) -> str:
    return f"<p:sp><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"


def test_a_presentation_shows_tables_charts_and_pictures():
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[6])
    table = slide.shapes.add_table(2, 2, 0, 0, Inches(2), Inches(1)).table
    for row, column, text in ((0, 0, "Year"), (0, 1, "Sales"), (1, 0, "2023"), (1, 1, "14\nnet")):
        table.cell(row, column).text = text
    data = CategoryChartData()
    data.categories = ["north", "south"]
    data.add_series("2023", (1.5, None))
    data.add_series("2024", (3, 4))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(2), Inches(2), data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "Sales by region"
    assert seen(saved(show), "pptx").splitlines() == [
        "Year\tSales", "2023\t14 net", "[chart] Sales by region", "\t2023\t2024", "north\t1.5\t3", "south\t\t4",
    ]  # fmt: skip


def test_a_chart_of_many_points_is_read_whole_or_said_to_be_cut(monkeypatch):
    show = pptx.Presentation()
    data = CategoryChartData()
    data.categories = [f"c{number}" for number in range(10_500)]
    data.add_series("2023", range(10_500))
    frame = Inches(2)
    show.slides.add_slide(show.slide_layouts[6]).shapes.add_chart(
        XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, frame, frame, data
    )
    document = saved(show)
    assert "c10499\t10499\n" in seen(document, "pptx")
    monkeypatch.setattr(slides, "_MOST_VALUES", 2_000)
    assert office.answer("pptx", document)["note"] == "a chart is cut after 1,000 of 10,500 rows"


def test_links_of_a_slide_have_their_addresses():
    clicks = "".join(
        f'<a:r><a:rPr><a:hlinkClick r:id="r9"/></a:rPr><a:t>{text}</a:t></a:r>'
        for text in ("click", " at https://x.example/9")
    )
    relations = (("r9", "hyperlink", "https://x.example/9"),)
    show = show_of(slide_of(f"<p:sp><p:txBody><a:p>{clicks}</a:p></p:txBody></p:sp>"), relations=relations)
    assert seen(show, "pptx") == "click (https://x.example/9) at https://x.example/9\n"


def test_pictures_and_links_of_a_slide_are_told():
    show = show_of(slide_of(shape_of("x")), relations=(("r8", "image", "../media/a.png"),))
    assert office.answer("pptx", show)["note"] == "not read: 1 picture"


def test_raised_and_struck_text_of_a_slide():
    runs = "".join(
        f"<a:r><a:rPr {look}/><a:t>{text}</a:t></a:r>"
        for text, look in (
            ("10", ""), ("6", 'baseline="30000"'), (" 10", 'baseline="0"'), ("2", 'baseline="-25000"'),
            (" old", 'strike="sngStrike"'), (" new", 'strike="noStrike"'),
        )
    )  # fmt: skip
    show = show_of(slide_of(f"<p:sp><p:txBody><a:p>{runs}</a:p></p:txBody></p:sp>"))
    assert seen(show, "pptx") == "10^6 10_2 [struck: old] new\n"


def test_hidden_slides_are_marked_and_alternatives_read_once():
    picture = '<p:pic><p:nvPicPr><p:cNvPr id="1" name="x" descr="A pump"/></p:nvPicPr></p:pic>'
    both = f"<mc:AlternateContent><mc:Choice>{shape_of('new')}</mc:Choice><mc:Fallback>{shape_of('old')}</mc:Fallback>"
    slides = slide_of(shape_of("one") + picture), slide_of(both + "</mc:AlternateContent>", 'show="0"')
    made = office.answer("pptx", show_of(*slides))
    assert made["text"] == "one\n[image: A pump]\n[hidden slide]\nnew\n"
    assert made["marks"] == [(1, "slide 1", False), (3, "slide 2", False)]


def test_diagrams_notes_and_comments_of_a_slide():
    frame = '<p:graphicFrame><a:graphic><dgm:relIds r:dm="d"/></a:graphic></p:graphicFrame>'
    point = "<dgm:pt><dgm:t><a:p><a:r><a:t>Plan</a:t></a:r></a:p></dgm:t></dgm:pt>"
    data = f"<dgm:dataModel {NAMESPACES}><dgm:ptLst>{point}<dgm:pt/></dgm:ptLst></dgm:dataModel>"
    drawing = f"<dsp:drawing {NAMESPACES}><dsp:txBody><a:p><a:r><a:t>Drawn</a:t></a:r></a:p></dsp:txBody>"
    holder = '<p:nvSpPr><p:nvPr><p:ph type="body"/></p:nvPr></p:nvSpPr>'
    notes = shape_of("Mention Denmark.").replace("<p:sp>", f"<p:sp>{holder}") + shape_of("7")
    parts = {
        "notes": f"<p:notes {NAMESPACES}>{notes}</p:notes>",
        "remarks": f"<p:cmLst {NAMESPACES}><p:cm><p:text>Too long?</p:text></p:cm></p:cmLst>",
        "drawing": drawing + "</dsp:drawing>",
    }
    relations = (
        ("d", "diagramData", "../parts/data.xml"), ("n", "notesSlide", "../parts/notes.xml"),
        ("c", "comments", "../parts/remarks.xml"), ("e", "diagramDrawing", "../parts/drawing.xml"),
    )  # fmt: skip
    for known, text in ((parts | {"data": data}, "Plan"), (parts, "Drawn")):
        shown = seen(show_of(slide_of(frame), relations=relations, **known), "pptx")
        assert shown == f"{text}\nNotes: Mention Denmark.\n[comment] Too long?\n"
