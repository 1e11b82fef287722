"""Choose the reader for a file by its first bytes and its file extension."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import lzma
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from io import BytesIO

from rlm_dspy.corpus.readers import archives, converter, mail, markup
from rlm_dspy.corpus.readers.reader import Read, Reader, Unpacker, UnreadableError
from rlm_dspy.corpus.readers.sniffing import TEXT_ENDINGS, sniffed_kind

GROUP = "rlm_dspy.readers"
_HEAD = 64  # bytes searched for a signature that may follow white space

_KINDS = {
    "md": "markdown", "markdown": "markdown", "rst": "text", "txt": "text", "log": "log", "csv": "csv", "tsv": "tsv",
    "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "html": "html", "htm": "html", "xhtml": "html",
    "ipynb": "notebook", "eml": "e-mail", "emlx": "e-mail", "mht": "e-mail", "mhtml": "e-mail",
    "pdf": "pdf", "docx": "docx", "pptx": "pptx", "xlsx": "xlsx",
    "rtf": "rtf", "odt": "odt", "ods": "ods", "odp": "odp", "odg": "odg", "epub": "epub",
    "sqlite": "sqlite", "sqlite3": "sqlite",
    "parquet": "parquet", "arrow": "arrow", "arrows": "arrow", "feather": "arrow",
}  # fmt: skip

_MARKUP = frozenset({"html", "notebook", "e-mail"})
_PACKED = {
    b"\x1f\x8b": Unpacker("gzip", functools.partial(archives.read_compressed, gzip.open, "gz")),
    b"BZh": Unpacker("bzip2", functools.partial(archives.read_compressed, bz2.open, "bz2")),
    b"\xfd7zXZ\0": Unpacker("xz", functools.partial(archives.read_compressed, lzma.open, "xz")),
}
_OFFICE = {"word/": "docx", "ppt/": "pptx", "xl/": "xlsx"}
_ARROW = (b"ARROW1\0\0", b"FEA1")
_ARROW_STREAM = b"\xff\xff\xff\xff"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DECLARED = {  # media types declared in an archive's first file
    "application/epub+zip": "epub", "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods", "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.graphics": "odg",
}  # fmt: skip


def kind_of(name: str) -> str:
    """Return the kind of a file by its extension."""
    return _KINDS.get(_name_ending(name), "text")


def find(name: str, data: bytes, charset: str | None = None, encoding: str | None = None) -> Reader | Unpacker | None:
    """Return the reader for a file, or None for plain text and for formats without a reader.

    ``charset`` is the one declared for the file, ``encoding`` the user's, for pages and e-mails that declare none.

    An entry point in the group ``rlm_dspy.readers``, named after the file extension without the dot, takes precedence
    over the built-in readers.
    """
    ending = _name_ending(name)
    point = _installed_readers().get(ending)
    if point is not None:
        return Reader(ending, lambda data, name: _load_reader(point)(data, name), _reader_version(point, name))
    if data.startswith(b"%PDF-") or (b"%PDF-" in data[:1024] and ending == "pdf"):
        return converter.office_reader("pdf")
    if data.startswith(b"PK\x03\x04"):
        return _zip_reader(data)
    if data.startswith(b"SQLite format 3\0"):
        return converter.office_reader("sqlite")
    if data.startswith(b"PAR1"):
        return converter.office_reader("parquet")
    if data.startswith(_ARROW) or (data.startswith(_ARROW_STREAM) and kind_of(name) == "arrow"):
        return converter.office_reader("arrow")
    if mail.is_mbox(data):
        return Unpacker("mbox", mail.read_mbox)
    if data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{\\rtf"):
        return converter.office_reader("rtf")
    if data.startswith(_OLE):
        raise UnreadableError("an Office document that is encrypted or older than 2007: save it as .docx or the like")
    packed = next((reader for magic, reader in _PACKED.items() if data.startswith(magic)), None)
    return packed or _markup_reader(_markup_kind(name, data), charset, encoding)


def _markup_reader(kind: str, charset: str | None, encoding: str | None) -> Reader | None:
    """Return the reader for a page, notebook or e-mail in these encodings; a page's are part of its cache key."""
    if kind == "html":
        version = "/".join(filter(None, (converter.VERSION, charset and f"charset={charset}", encoding)))
        return Reader(kind, functools.partial(markup.read_html, charset=charset, encoding=encoding), version)
    if kind == "notebook":
        return Reader(kind, markup.read_notebook)
    if kind == "e-mail":
        return Reader(kind, functools.partial(mail.read_email, encoding=encoding))
    return None


def _markup_kind(name: str, data: bytes) -> str:
    """Return the kind of a page, notebook or e-mail by its extension or else its content; "text" for all else."""
    named = kind_of(name)
    has_ending = "." in name.rpartition("/")[2]
    if named in _MARKUP or (has_ending and _name_ending(name) in TEXT_ENDINGS):
        return named
    return sniffed_kind(data) or "text"


def _zip_reader(data: bytes) -> Reader | Unpacker:
    """Return the reader for a ZIP archive, which may be an office document."""
    try:
        archive = zipfile.ZipFile(BytesIO(data))
        names = archive.namelist()
        declared = _declared_kind(archive) if "mimetype" in names else None
    except (*archives.DAMAGED_ERRORS, RuntimeError) as error:
        raise UnreadableError(f"a broken ZIP archive: {error}") from None
    if declared:
        return converter.office_reader(declared)
    if "[Content_Types].xml" in names:
        for start, kind in _OFFICE.items():
            if any(name.startswith(start) for name in names):
                return converter.office_reader(kind)
    return Unpacker("zip", archives.read_zip)


def _declared_kind(archive: zipfile.ZipFile) -> str | None:
    """Return the kind of an OpenDocument file or template, or of an EPUB book."""
    with archive.open("mimetype") as file:
        declared = file.read(100).decode("ascii", "replace").strip()
    return _DECLARED.get(declared.removesuffix("-template"))


def _name_ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


@functools.cache
def _installed_readers() -> dict[str, EntryPoint]:
    return {point.name.lower().lstrip("."): point for point in entry_points(group=GROUP)}


def _reader_version(point: EntryPoint, name: str) -> str:
    """Return the cache version of a third-party reader; it includes the name, which the reader receives."""
    if point.dist is not None:
        return f"{point.value}/{point.dist.version}/{name}"
    return ""


@functools.cache
def _load_reader(point: EntryPoint) -> Read:
    with unreadable_on_error(f"its reader {point.value} cannot be loaded"):
        reader: Read = point.load()
    return reader


@contextlib.contextmanager
def unreadable_on_error(what: str) -> Iterator[None]:
    """Turn any exception of a reader into the reason why its file was not read."""
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:  # a third party's code may raise anything
        raise UnreadableError(f"{what}: {type(error).__name__}: {str(error)[:200]}") from None
