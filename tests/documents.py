"""Generated test documents of every supported kind."""

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


def pdf_of(*pages: str, fields: str = "", objects: tuple[str, ...] = ()) -> bytes:
    """A PDF written by hand: the operators of each page, and fields or remarks (objects from 100 on) on the first."""
    font = "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    made = {1: f"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[{fields}]>>>>", 3: font}
    kids = []
    for number, page in enumerate(pages):
        kids.append(f"{10 + 2 * number} 0 R")
        shown = f"/Annots[{' '.join(f'{100 + one} 0 R' for one in range(len(objects)))}]" if number == 0 else ""
        made[10 + 2 * number] = (
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>"
            f"/Contents {11 + 2 * number} 0 R{shown}>>"
        )
        made[11 + 2 * number] = f"<</Length {len(page)}>>\nstream\n{page}\nendstream"
    made[2] = f"<</Type/Pages/Count {len(pages)}/Kids[{' '.join(kids)}]>>"
    made |= {100 + number: one for number, one in enumerate(objects)}
    body, places = b"%PDF-1.7\n", {}
    for number in sorted(made, key=lambda one: (one < 10, one)):  # the list of pages comes last, as many write it
        places[number] = len(body)
        body += f"{number} 0 obj\n{made[number]}\nendobj\n".encode("latin-1")
    table = "".join(f"{number} 1\n{place:010} 00000 n \n" for number, place in sorted(places.items()))
    trailer = f"trailer\n<</Root 1 0 R/Size 200>>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"xref\n0 1\n0000000000 65535 f \n{table}{trailer}".encode()


def printed(*lines: str) -> str:
    """The operators that print lines on a page."""
    return "BT /F1 12 Tf 14 TL 50 700 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"


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


NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
    'xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
    'xmlns:dsp="http://schemas.microsoft.com/office/drawing/2008/diagram"'
)


def related(*relations: tuple[str, str, str]) -> bytes:
    """The relations of a part: the id, the last word of the type and the target (an address: outside) of each."""
    made = ""
    for name, kind, target in relations:
        outside = ' TargetMode="External"' if ":" in target else ""
        made += f'<Relationship Id="{name}" Type="http://x/relationships/{kind}" Target="{target}"{outside}/>'
    return f'<Relationships xmlns="http://x/relationships">{made}</Relationships>'.encode()


def word_of(body: str, relations: tuple[tuple[str, str, str], ...] = (), **parts: str) -> bytes:
    """A Word document of this XML, and of parts such as ``styles`` that it is related to."""
    roots = {"header": "hdr", "footer": "ftr"}
    files = {
        "[Content_Types].xml": b"<Types/>",
        "_rels/.rels": related(("rId1", "officeDocument", "word/document.xml")),
        "word/document.xml": f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>".encode(),
        "word/_rels/document.xml.rels": related(
            *relations, *((name, name.rstrip("0123456789"), f"{name}.xml") for name in parts)
        ),
    }
    for name, inner in parts.items():
        root = roots.get(name.rstrip("0123456789"), name)
        files[f"word/{name}.xml"] = f"<w:{root} {NAMESPACES}>{inner}</w:{root}>".encode()
    return packed(files)


def run(text: str, properties: str = "") -> str:
    """A run of a Word document."""
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*inner: str, properties: str = "") -> str:
    """A paragraph of a Word document, of XML or of plain text."""
    runs = "".join(one if one.startswith("<") else run(one) for one in inner)
    return f"<w:p><w:pPr>{properties}</w:pPr>{runs}</w:p>"


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
