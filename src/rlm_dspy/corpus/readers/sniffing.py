"""Recognise pages, notebooks and e-mails by their first bytes, unless the file extension says that a file is text."""

from __future__ import annotations

import email.utils
import re

_HEAD_BYTES = 4_096  # searched for the start of a page or a notebook
_MAIL_HEAD_BYTES = 20_000  # searched for the headers of a message

# Endings of texts and sources, which are read as written even if they contain markup or headers.
TEXT_ENDINGS = frozenset(
    """adoc asciidoc asm astro awk bash bat bib bzl c cc cfg cjs clj cmake cmd coffee conf config cpp cs css csv cts cxx
    d dart def diff dtd ejs el elm env eps erb erl ex exs f f90 feature fish fs gd go gradle graphql groovy h haml hbs
    hcl hh hpp hs hxx ini j2 java jinja jinja2 jl js json json5 jsonc jsonl jsx kt kts latex less liquid lisp log lua m
    mak make markdown md mdx mjs mk ml mm mts mustache ndjson nim nix njk org pas patch phtml pl plist pm po pod
    properties proto ps1 pug py pyi pyx r rb rmd rs rst s sass scala scm scss sh slim sql srt styl sv svelte svg swift
    tcl tex text textile tf toml tpl ts tsv tsx twig txt v vb vbs vhd vim vtt vue wat xml xsd xsl xslt yaml yml zig
    zsh""".split()  # noqa: SIM905
)

_NO_LETTERS = b"\0\xef\xbb\xbf\xfe\xff"  # byte order marks, and every second byte of a page in UTF-16
_PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]{0,500}>\s*)?(?:<!--(?:[^-]|-(?!->)){0,2000}-->\s*){0,5}"
    rb"<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(rb"<\?(?!xml)|<%")  # code in a page, which is then the source of a page
_NOTEBOOK = re.compile(rb"\s*\{\s*\"(?:cells|metadata|nbformat|nbformat_minor|worksheets)\"\s*:")
_FORMAT = re.compile(rb"\"nbformat\"\s*:\s*\d")
_HEADER = re.compile(rb"([!-9;-~]+):[ \t]*([^\r\n]*)(?:\r?\n[ \t][^\r\n]*)*(?:\r?\n|\r|\Z)")
_COUNT = re.compile(rb"\d{1,12}[ \t]*\r?\n(?=[!-9;-~]+:)")  # the length of a message of Apple Mail, on a line before it


def sniffed_kind(data: bytes) -> str | None:
    """Return "html", "notebook" or "e-mail" if a file begins like one, else None."""
    head = data[:_HEAD_BYTES].translate(None, _NO_LETTERS)
    if _PAGE.match(head):
        if _TEMPLATE.search(data):
            return None
        return "html"
    if _NOTEBOOK.match(head) and (_FORMAT.search(head) or _FORMAT.search(data[-_HEAD_BYTES:])):
        return "notebook"
    if is_mail(data):
        return "e-mail"
    return None


def is_mail(data: bytes) -> bool:
    """Return whether a file begins with the headers of a message, perhaps after its length."""
    at = counted_bytes(data)[0]
    headers: dict[bytes, bytes] = {}
    while at < _MAIL_HEAD_BYTES and (match := _HEADER.match(data, at, _MAIL_HEAD_BYTES)):
        headers.setdefault(match[1].lower(), match[2])
        at = match.end()
    if data[at : at + 1] not in (b"\r", b"\n", b"") and at < _MAIL_HEAD_BYTES:
        return False
    if b"mime-version" in headers or b"message-id" in headers:
        return True
    date = headers.get(b"date", b"").decode("ascii", "replace")
    return b"from" in headers and email.utils.parsedate_tz(date) is not None


def counted_bytes(data: bytes) -> tuple[int, int]:
    """Return where a message begins and ends in a file, which may count its bytes in a line before it."""
    counted = _COUNT.match(data)
    if counted is None:
        return 0, len(data)
    return counted.end(), counted.end() + int(counted[0])
