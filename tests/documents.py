"""Documents of every kind that is read, made for the tests."""

from __future__ import annotations

import io
import warnings
import zipfile
from email.message import EmailMessage

import docx
import openpyxl
import pptx


def pdf(pages: list[str], password: str | None = None) -> bytes:
    """A PDF with one text on each page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fpdf

    document = fpdf.FPDF()
    document.set_font("helvetica", size=12)
    if password:
        document.set_encryption(owner_password=password, user_password=password)
    for text in pages:
        document.add_page()
        document.multi_cell(0, 8, text)
    return bytes(document.output())


def word() -> bytes:
    """A Word document with a heading, a paragraph and a table, which has another one in its last cell."""
    document = docx.Document()
    document.add_heading("Terms", level=1)
    document.add_paragraph("The notice period is ninety days.")
    table = document.add_table(rows=2, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Deposit", "1200 EUR"
    table.rows[1].cells[0].text = "Rent"
    inner = table.rows[1].cells[1].add_table(rows=1, cols=2)
    inner.rows[0].cells[0].text, inner.rows[0].cells[1].text = "monthly", "800 EUR"
    return _saved(document)


def slides() -> bytes:
    """A presentation of two slides, the second with notes and with a group in a group of shapes."""
    show = pptx.Presentation()
    for title in ("Opening", "Revenue grew by 14 percent"):
        slide = show.slides.add_slide(show.slide_layouts[5])
        slide.shapes.title.text = title
    inner = slide.shapes.add_group_shape().shapes.add_group_shape()
    inner.shapes.add_textbox(0, 0, 10, 10).text_frame.text = "Grouped"
    slide.notes_slide.notes_text_frame.text = "Mention Denmark."
    return _saved(show)


def sheet() -> bytes:
    """A workbook with one sheet of three rows."""
    book = openpyxl.Workbook()
    book.active.title = "Sales"
    for row in (["region", "sum"], ["north", 10], ["south", 20]):
        book.active.append(row)
    return _saved(book)


def packed(files: dict[str, bytes]) -> bytes:
    """A ZIP archive."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def message() -> bytes:
    """An e-mail with a plain body and a PDF attached."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ann@example.org", "bob@example.org", "Contract"
    mail.set_content("See the attachment.")
    mail.add_attachment(pdf(["The rent is 950 euros."]), maintype="application", subtype="pdf", filename="lease.pdf")
    return mail.as_bytes()


def forwarded() -> bytes:
    """An e-mail that Apple's program would write: what is attached lies beside the other form of the text; and a
    message inside it."""
    inner = EmailMessage()
    inner["From"], inner["Subject"] = "carl@example.org", "Offer"
    inner.set_content("The offer is 4711 euros.")
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "ann@example.org", "Fwd: Offer"
    mail.set_content("See below.")
    mail.add_alternative("<p>See <b>below</b>.</p>", subtype="html")
    other = mail.get_payload(1)
    other.make_mixed()
    other.add_attachment("name,sum\nann,1\n", subtype="csv", filename="sums.csv")
    mail.make_mixed()
    mail.add_attachment(inner)
    return mail.as_bytes()


def _saved(document: object) -> bytes:
    target = io.BytesIO()
    document.save(target)  # type: ignore[attr-defined]
    return target.getvalue()
