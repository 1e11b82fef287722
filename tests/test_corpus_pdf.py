"""PDF: hyphenated words, form fields, annotations, and pages or files without text."""

import pytest

from documents import pdf_of, printed
from rlm_dspy.corpus.readers import office
from rlm_dspy.corpus.readers.office.pdf import Words


def seen(data: bytes) -> str:
    made = office.answer("pdf", data)
    assert "error" not in made, made
    return made["text"]


def test_words_divided_at_a_lines_end_are_found_whole():
    lines = ["It is permit-", "ted only for a well-", "known file, code AB-", "1234, or kilo-", "metres, see 5-", "10."]
    text = " ".join(seen(pdf_of(printed(*lines))).split())
    assert text == "It is permitted only for a well-known file, code AB-1234, or kilometres, see 5-10."


@pytest.mark.parametrize(
    ("divided", "whole"),
    [
        ("un\x02known", "unknown"), ("with\x02in", "within"), ("in\x02dependent", "independent"),
        ("so\x02lution", "solution"), ("so\x02called", "so-called"), ("self\x02ish", "selfish"),
        ("self\x02service", "self-service"), ("twenty\ufffeone", "twenty-one"), ("long\x02term", "long-term"),
        ("state-of-\nthe-art", "state-of-the-art"), ("long-es\x02tablished", "long-established"),
        ("part\x02ner", "partner"), ("AB\x02CD", "AB-CD"), ("Jean\x02Luc", "Jean-Luc"), ("ISO\x029001", "ISO-9001"),
        ("soft\u00adhyphen", "softhyphen"), ("soft\u00ad\r\nhyphen", "softhyphen"), ("über\x02prüfen", "überprüfen"),
        ("a -\nlist", "a -\nlist"), ("end\x02", "end-"), ("\x02 begin", "- begin"), ("dash-\n\nnext", "dash-\n\nnext"),
        ("co\x02op, co-op", "co-op, co-op"), ("INFOR\x02MATION, information", "INFORMATION, information"),
        ("ex\x02am\x02ple", "example"), ("non-profit; non\x02profit", "non-profit; non-profit"),
    ],
)  # fmt: skip
def test_a_hyphen_is_kept_where_it_is_the_words_own(divided, whole):
    assert Words([divided]).undivided_text(divided) == whole


def test_the_rest_of_the_document_tells_how_a_word_is_written():
    words = Words(["the co-ordinator of web-based well", "co\x02ordinator; web\x02based; wellknown; well\x02known"])
    assert words.undivided_text("co\x02ordinator; well\x02known") == "co-ordinator; wellknown"


def widget(name: str, more: str, kind: str = "Tx", box: str = "200 690 400 710") -> str:
    return f"<</Type/Annot/Subtype/Widget/FT/{kind}/T({name})/Rect[{box}]/F 4/P 10 0 R{more}>>"


def test_what_is_filled_into_a_form_is_read_with_its_label():
    objects = (
        widget("f1", "/V(Rosalind Ferraro)"),
        widget("f2", "/V(7 May)/TU(Date of birth)", box="200 600 400 620"),
        widget("f3", "/V(Oslo)", box="200 500 400 520"),
        widget("f4", "/V()", box="200 400 400 420"),
        widget("agreed", "/V/Yes/AS/Yes/AP<</N<</Yes 3 0 R/Off 3 0 R>>>>", "Btn", "200 300 210 310"),
        widget("paid", "/AS/Off/AP<</N<</Yes 3 0 R/Off 3 0 R>>>>", "Btn", "200 200 210 210"),
        widget("tree", "/Ff 131072/Opt[(Oak)(Larch)]/V(Larch)", "Ch", "200 100 300 110"),
        widget("many", "/Ff 2097152/Opt[[(a)(Ash)][(b)(Beech)][(c)(Cedar)]]/V[(a)(c)]", "Ch", "200 80 300 90"),
        widget("secret", "/Ff 8192/V(hunter2)", box="200 50 300 60"),
        widget("unseen", "/V(not shown)", box="200 20 300 30").replace("/F 4", "/F 2"),
    )
    fields = " ".join(f"{100 + number} 0 R" for number in range(len(objects)))
    page = "BT /F1 12 Tf 50 695 Td (Applicant:) Tj ET"
    assert seen(pdf_of(page, fields=fields, objects=objects)).splitlines() == [
        "Applicant:", "Applicant: Rosalind Ferraro", "Date of birth: 7 May", "f3: Oslo", "agreed: [x]", "paid: [ ]",
        "tree: Larch", "many: Ash, Cedar",
    ]  # fmt: skip


def test_attached_files_and_layers_that_are_off_are_told():
    data = pdf_of(printed("x"))
    names = b"/Names<</EmbeddedFiles<</Names[(a.txt)<</Type/Filespec/F(a.txt)>>]>>>>"
    attached = data.replace(b"/Type/Catalog", b"/Type/Catalog" + names)
    assert office.answer("pdf", attached)["note"].endswith("not read: 1 attached file")
    layers = data.replace(b"/Type/Catalog", b"/Type/Catalog/OCProperties<</OCGs[3 0 R]/D<</OFF[3 0 R]>>>>")
    assert office.answer("pdf", layers)["note"].endswith("it has layers that are switched off: their text is read too")


def test_text_that_an_annotation_strikes_through_is_marked():
    quads = "/QuadPoints[45 712 72 712 45 696 72 696]"
    remark = f"<</Type/Annot/Subtype/StrikeOut/Rect[45 696 72 712]{quads}/Contents(Why?)>>"
    data = pdf_of(printed("500 EUR"), objects=(remark,))
    assert seen(data).splitlines() == ["500 EUR", "[struck] 500", "[comment] Why?"]


def test_remarks_on_a_page_are_marked():
    def remark(kind: str, more: str) -> str:
        return f"<</Type/Annot/Subtype/{kind}/Rect[10 10 50 50]{more}>>"

    objects = (
        remark("Text", "/Contents(Check the\\nsum.)"),
        remark("Highlight", "/Contents(Why?)/QuadPoints[1 1 2 2 3 3 4 4]"),
        remark("Popup", "/Contents(Check the sum.)"), remark("Link", ""), remark("Text", "/Contents(gone)/F 2"),
    )  # fmt: skip
    data = pdf_of(printed("Total 5"), objects=objects)
    assert seen(data).splitlines() == ["Total 5", "[comment] Check the sum.", "[comment] Why?"]


@pytest.mark.parametrize(
    ("empty", "note"),
    [
        ((2,), "page 2 has no text: a scan?"),
        ((1, 3), "pages 1 and 3 have no text: scans?"),
        ((2, 3, 5), "pages 2, 3 and 5 have no text: scans?"),
        ((), ""),
    ],
)
def test_pages_without_text_are_named(empty, note):
    pages = ["" if number in empty else printed(f"page {number}") for number in range(1, 7)]
    assert office.answer("pdf", pdf_of(*pages))["note"] == note
    assert office.answer("pdf", pdf_of("", "")) == {
        "error": "no text in it: perhaps scanned pages, which an OCR reader or a model that sees can read"
    }


def test_there_is_no_limit_of_pages():
    made = office.answer("pdf", pdf_of(*[printed(f"sheet {number}") for number in range(44)] * 80))
    assert len(made["marks"]) == 3_520
    assert made["note"] == ""


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_what_is_left_of_a_cut_off_file_is_read_and_told(share):
    data = pdf_of(*(printed(f"This is page {number}.") for number in range(1, 11)))
    made = office.answer("pdf", data[: int(len(data) * share)])
    lines = made["text"].splitlines()
    assert lines[:4] == [f"This is page {number}." for number in range(1, 5)]
    assert made["note"].startswith("the file is broken or cut off: only")


def test_a_cut_off_file_without_a_whole_page_is_refused():
    data = pdf_of(printed("one"))
    assert office.answer("pdf", data[:60]) == {"error": "a broken PDF"}
    assert office.answer("pdf", b"%PDF-1.7\n" + b"1 0 obj " * 1_000 + b"endobj %%EOF") == {"error": "a broken PDF"}
