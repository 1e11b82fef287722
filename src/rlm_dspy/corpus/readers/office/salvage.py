"""A PDF whose end is gone: its pages, found one by one, under a new list of pages."""

from __future__ import annotations

import re

_OBJECT = re.compile(rb"(?:^|[\r\n\s])(\d{1,8})\s+0\s+obj\b")
_PAGE = re.compile(rb"/Type\s*/Page\b(?!s)")
_FIELD = re.compile(rb"/Subtype\s*/Widget\b")
_MOST_PAGES = 100_000


def mended(data: bytes) -> bytes:
    """Return a PDF of the pages whose objects are whole.

    Raises:
        ValueError: there are none.
    """
    end = data.rfind(b"endobj") + len(b"endobj")
    starts = [(int(one[1]), one.end()) for one in _OBJECT.finditer(data, 0, end)]
    pages: list[int] = []
    fields: list[bytes] = []
    highest = 0
    for position, (number, start) in enumerate(starts):
        highest = max(highest, number)
        following = starts[position + 1][1] if position + 1 < len(starts) else end
        stream = data.find(b"stream", start, following)
        if _PAGE.search(data, start, stream if stream >= 0 else following) and number not in pages[-1:]:
            pages.append(number)
        elif _FIELD.search(data, start, stream if stream >= 0 else following):
            fields.append(b"%d 0 R" % number)
    if not pages or not data.startswith(b"%PDF"):
        raise ValueError("no pages")
    kids = b" ".join(b"%d 0 R" % number for number in pages[:_MOST_PAGES])
    form = b"<</Fields[%s]>>" % b" ".join(fields[:_MOST_PAGES])
    roots = b"\n%d 0 obj\n<</Type/Catalog/Pages %d 0 R/AcroForm%s>>\nendobj\n" % (highest + 1, highest + 2, form)
    roots += b"%d 0 obj\n<</Type/Pages/MediaBox[0 0 612 792]/Count %d/Kids[%s]>>\nendobj\n" % (
        highest + 2, min(len(pages), _MOST_PAGES), kids,
    )  # fmt: skip
    return data[:end] + roots + b"trailer\n<</Root %d 0 R/Size %d>>\n%%%%EOF\n" % (highest + 1, highest + 3)
