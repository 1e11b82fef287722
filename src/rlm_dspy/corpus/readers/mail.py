"""E-mail as text: decoded headers and body, then the attachments as files."""

from __future__ import annotations

import email
import email.header
import email.policy
import re
from collections.abc import Iterator
from email.message import Message
from typing import Any

from rlm_dspy.corpus.decoding import decode, decode_declared, page_charset, with_line_feeds
from rlm_dspy.corpus.readers import converter
from rlm_dspy.corpus.readers.reader import Converted, Member, SkippedMember, UnpackAllowance, UnreadableError
from rlm_dspy.corpus.readers.sniffing import counted_bytes
from rlm_dspy.counting import counted_noun

SHOWN = ("From", "Reply-To", "To", "Cc", "Bcc", "Date", "Subject")
_STUB_SHARE = 4  # a plain text is a stub if the page beside it is more than this many times as long
_HIDING = re.compile(r"<(/?)(?:style|script|head)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_ENDINGS = {"text/html": ".html", "message/rfc822": ".eml"}
# The first line of a message in an mbox. It counts if it has a date or e-mail headers follow it, but without a blank
# line before it only if both are true.
_MESSAGE = re.compile(rb"^From ([^\n]*)\n(?=[!-9;-~]+:)", re.MULTILINE)
_BLANK_LINES = (b"\n\n", b"\n\r\n")
# A date such as Jan  1 00:00:00 2024.
_POSTED = re.compile(rb"\b[A-Z][a-z]{2} +\d{1,2} +\d{1,2}:\d\d(:\d\d)?\b.*\b\d{4}\b")
_MAIL_HEADER = re.compile(rb"^(From|Date|Subject|Received|To):", re.MULTILINE | re.IGNORECASE)
MAX_POSTED_BYTES = 200  # of a message's first line, searched for its date
_HEAD_BYTES = 20_000  # searched for the headers of a message
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)


def read_email(data: bytes, name: str, encoding: str | None = None) -> Iterator[Converted | Member | SkippedMember]:
    """Yield the headers and body of a message, then its attachments as files.

    ``encoding`` is the one the user named for what declares none.
    """
    begin, end = counted_bytes(data)
    message = email.message_from_bytes(data[begin:end], policy=email.policy.compat32)
    lines = [f"{key}: {text}" for key in SHOWN if (text := header_text(message.get(key), encoding))]
    body = _body_part(message)
    if body is not None:
        text, note, unread = _body_text(message, body, encoding)
    else:
        text, note, unread = "", "", None
    yield Converted("\n".join(lines) + "\n\n" + text.encode("utf-8", "replace").decode(), note=note)
    if unread is not None:
        yield unread
    is_page = message.get_content_type() == "multipart/related"  # a saved web page with its styles and pictures
    for number, part in enumerate(_attachment_parts(message, body), 1):
        if not is_page or part.get_content_type() in ("text/html", "text/plain"):
            yield _attachment_member(part, number, encoding)


def _body_text(message: Message, body: Message, encoding: str | None) -> tuple[str, str, SkippedMember | None]:
    """Return the text of a body, a note, and the page in it that could not be read."""
    text, note = _part_text(body, encoding)
    if body.get_content_subtype() == "html":
        page, unread = _page_text(text)
        return page, note, unread
    if (html := _hidden_page(message, body, text, encoding)) is None:
        return text, note, None
    page, unread = _page_text(html)
    notes = [note] if note else []
    if unread is None:
        notes.append("the plain text is much shorter than the page beside it: both are read")
    return f"{text.rstrip()}\n\n{page}", "; ".join(notes), unread


def _shown_chars(html: str) -> int:
    """Estimate the length of a page's text, in time that grows with its length only."""
    first, *rest = _HIDING.split(html)
    shown = [first]
    for slash, text in zip(rest[::2], rest[1::2], strict=True):
        if slash:
            shown.append(text)
    return len(" ".join(_TAG.sub(" ", " ".join(shown)).split()))


def _page_text(html: str) -> tuple[str, SkippedMember | None]:
    try:
        return converter.shared().convert("html", html.encode("utf-8", "replace")).text, None
    except UnreadableError as error:
        return "", SkippedMember("body.html", str(error))


def _hidden_page(message: Message, body: Message, text: str, encoding: str | None) -> str | None:
    """Return the page that is the other form of a plain text, if that text is only a stub."""
    for part in message.walk():
        if part.get_content_type() != "multipart/alternative":
            continue
        inner = list(part.walk())
        if not any(one is body for one in inner):
            continue
        for other in inner:
            if other.get_content_type() == "text/html" and other.get_content_disposition() != "attachment":
                html = _part_text(other, encoding)[0]
                if _shown_chars(html) > _STUB_SHARE * len(" ".join(text.split())):
                    return html
                return None
    return None


def read_mbox(data: bytes, name: str, room: UnpackAllowance) -> Iterator[Member | SkippedMember]:
    """Yield the messages of an mbox file as e-mail files."""
    data = _with_line_ends(data)
    starts = list(_message_starts(data))
    digits = len(str(len(starts)))
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(data)], strict=True), 1):
        if room.files <= 0:
            yield SkippedMember("…", f"{counted_noun(len(starts) - number + 1, 'more message')}: no file may hold more")
            return
        room.files -= 1
        content = data[data.index(b"\n", start) + 1 : end]
        yield Member(f"message-{number:0{digits}}.eml", _QUOTED_FROM.sub(rb"\1", content))


def is_mbox(data: bytes) -> bool:
    """Return whether a file begins like an mbox."""
    head = _with_line_ends(data[:_HEAD_BYTES]).lstrip(b"\r\n")
    return head.startswith(b"From ") and next(_message_starts(head), None) == 0


def _with_line_ends(data: bytes) -> bytes:
    """Return a mailbox whose lines end with a line feed."""
    if b"\n" in data[:_HEAD_BYTES]:
        return data
    return data.replace(b"\r", b"\n")


def _message_starts(data: bytes) -> Iterator[int]:
    """Yield the offsets of mbox messages, ignoring sentences that start with From."""
    for match in _MESSAGE.finditer(data):
        end = data.find(b"\n\n", match.end(), match.end() + _HEAD_BYTES)
        if end < 0:
            end = match.end() + _HEAD_BYTES
        crlf = data.find(b"\n\r\n", match.end(), end)
        headers = data[match.end() : crlf if crlf >= 0 else end]
        signs = (_POSTED.search(match[1][:MAX_POSTED_BYTES]), _MAIL_HEADER.search(headers))
        before = data[max(0, match.start() - 3) : match.start()]
        if all(signs) or (any(signs) and (not before.strip() or before.endswith(_BLANK_LINES))):
            yield match.start()


def header_text(value: Any, encoding: str | None = None) -> str:
    """Return a header as displayed: encoded words decoded, raw bytes decoded as in a file."""
    if value is None:
        return ""
    if not isinstance(value, email.header.Header):
        value = _decode_raw_header(str(value), encoding)
    words = "".join(_decoded_words(value, encoding))
    return " ".join(words.encode("utf-8", "replace").decode().split())


def _decode_raw_header(text: str, encoding: str | None) -> str:
    """Return a header with its non-ASCII bytes decoded."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return decode(text.encode("utf-8", "surrogateescape"), encoding)[0]


def _decoded_words(value: Any, encoding: str | None) -> Iterator[str]:
    try:
        parts = email.header.decode_header(value)
    except (ValueError, email.errors.HeaderParseError):
        parts = [(str(value), None)]
    for part, charset in parts:
        if isinstance(part, str):
            yield part
        else:
            yield decode_declared(part, [charset], encoding)[0]


def _body_part(message: Message) -> Message | None:
    """Return the part with the text of a message: plain text if there is one, else HTML."""
    bodies: dict[str, Message] = {}
    for part in message.walk():
        kind = part.get_content_type()
        is_attached = part.get_content_disposition() == "attachment"
        is_candidate = not (part.is_multipart() or is_attached or kind in bodies)
        if is_candidate and (kind == "text/html" or (kind == "text/plain" and _part_bytes(part).strip())):
            bodies[kind] = part
        if kind == "message/rfc822":
            break  # a forwarded message has its own body
    if message.get_content_type() == "multipart/related" and "text/html" in bodies:
        return bodies["text/html"]
    return bodies.get("text/plain") or bodies.get("text/html")


def _part_text(part: Message, encoding: str | None) -> tuple[str, str]:
    """Return the text of a part in the charset that it declares, and a note on what was guessed."""
    data = _part_bytes(part)
    charsets = [_part_charset(part)]
    if part.get_content_type() == "text/html":
        charsets.append(page_charset(data))
    text, guessed = decode_declared(data, charsets, encoding)
    return with_line_feeds(text)[0], guessed


def _part_bytes(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    if isinstance(payload, bytes):
        return payload
    return b""


def _part_charset(part: Message) -> str | None:
    """Return the charset that a part declares, as it is written."""
    charset = part.get_param("charset")
    if isinstance(charset, tuple):
        charset = charset[2]
    if charset:
        return str(charset)
    return None


def _attachment_parts(part: Message, body: Message | None, in_alternative: bool = False) -> Iterator[Message]:
    """Yield the parts of a message except its body and, if they are ``in_alternative``, other forms of the body."""
    kind = part.get_content_type()
    if part is body or (in_alternative and kind in ("text/plain", "text/html") and not part.get_filename()):
        return
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        if kind == "multipart/alternative" and any(inner is body for inner in part.walk()):
            in_alternative = True
        for inner in part.get_payload():
            if isinstance(inner, Message):
                yield from _attachment_parts(inner, body, in_alternative)
    elif part.is_multipart() or part.get_payload():
        yield part


def _attachment_member(part: Message, number: int, encoding: str | None) -> Member:
    kind = part.get_content_type()
    if part.is_multipart():
        inner = [one for one in part.get_payload() if isinstance(one, Message)]
        data = b"\n".join(one.as_bytes(policy=email.policy.compat32) for one in inner)
    else:
        data = _part_bytes(part)
    ending = _ENDINGS.get(kind, "")
    usual = "message" if kind == "message/rfc822" else f"attachment-{number}"
    name = header_text(part.get_filename(), encoding) or usual
    if not name.lower().endswith(ending):
        name += ending
    return Member(name, data, charset=_part_charset(part))
