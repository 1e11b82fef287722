"""The text of RTF files, including old and sloppy ones; unknown destinations are skipped."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from .pieces import LOWERED, RAISED, STRUCK, Notes, Piece, counted_noun, marked

_TOKEN = re.compile(
    r"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+|([^\\{}\r\n]+)|\\"
)
_SKIPPED = frozenset(
    """fonttbl colortbl stylesheet info pict objdata objclass objname fldinst nonshppict listtable listoverridetable
    revtbl rsidtbl generator themedata datastore latentstyles xmlnstbl atnid atnauthor atndate atnref atnparent atntime
    atrfstart atrfend bkmkstart bkmkend filetbl xe tc ftnsep ftnsepc aftnsep aftnsepc aftncn ftncn sp sn sv private
    panose falt pnseclvl template passwordhash userprops xform""".split()  # noqa: SIM905
)
_KNOWN = frozenset({"shpinst", "annotation", "shptxt", "fldrslt", "footnote"})  # optional destinations that are read
_BESIDE = {"footnote": "footnote", "annotation": "comment"}
_BESIDE |= dict.fromkeys(("header", "headerl", "headerr", "headerf"), "header")
_BESIDE |= dict.fromkeys(("footer", "footerl", "footerr", "footerf"), "footer")
_SIGNS = {"emdash": "—", "endash": "–", "bullet": "•", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”",
          "emspace": " ", "enspace": " ", "qmspace": " "}  # fmt: skip
_SIGNS |= dict.fromkeys(("par", "line", "sect", "page", "row", "nestrow"), "\n")
_SIGNS |= dict.fromkeys(("tab", "cell", "nestcell"), "\t")
_SCRIPTS = {"super": RAISED, "sub": LOWERED, "nosupersub": ""}
_LOOKS = frozenset({*_SCRIPTS, "strike", "striked", "plain"})
_SYMBOLS = {"~": "\u00a0", "_": "-", "\\": "\\", "{": "{", "}": "}", "\n": "\n", "\r": "\n", "\t": "\t"}
_CHARSETS = {77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk", 136: "big5", 161: "cp1253",
             162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
             238: "cp1250", 255: "cp437"}  # fmt: skip


@dataclass(frozen=True)
class _Group:
    """The state of a group; ``into`` names the destination of its text, "" is the document itself."""

    shown: bool = True
    hidden: bool = False
    fallback: int = 1  # fallback characters after a Unicode one, for old programs
    codec: str = ""
    into: str = ""
    script: str = ""
    struck: bool = False


def text_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the text of an RTF document with its notes and comments."""
    document = _Document(data.decode("latin-1"))
    yield document.text(), "", False
    if document.pictures:
        notes.append(f"not read: {counted_noun(document.pictures, 'picture')}")


@dataclass
class _Document:
    _source: str
    _group: _Group = field(default_factory=_Group)
    _outer: list[_Group] = field(default_factory=list)
    _parts: dict[str, list[str]] = field(default_factory=lambda: {"": []})
    _waiting: list[str] = field(default_factory=list)  # notes, until the paragraph ends
    _bytes: bytearray = field(default_factory=bytearray)  # not decoded yet
    _codec_name: str = "cp1252"
    _fonts: dict[int, str] = field(default_factory=dict)
    _font: int | None = None  # the entry of the font table being read
    _passed: int = 0  # characters still to be skipped
    _optional: bool = False
    _notes: int = 0
    pictures: int = 0
    _margins: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the text of the document."""
        at = 0
        while token := _TOKEN.match(self._source, at):
            at = token.end()
            word, number, byte, symbol, brace, plain = token.groups()
            if word:
                value = int(number) if number else None
                at += max(0, value or 0) if word == "bin" else 0
                self._apply_word(word, value)
            elif byte:
                self._add_bytes(bytes([int(byte, 16)]))
            elif symbol:
                self._apply_symbol(symbol)
            elif brace:
                self._apply_brace(brace)
            elif plain:
                self._add_bytes(plain.encode("latin-1"))
        while self._outer:
            self._apply_brace("}")
        self._flush_bytes()
        text = "".join([*self._parts[""], *(f"\n{note}" for note in self._waiting)])
        heads = [one for one in self._margins if one.startswith("[header]")]
        return "\n".join([*heads, _cleaned_text(text), *(one for one in self._margins if one not in heads)])

    def _apply_word(self, word: str, value: int | None) -> None:
        optional, self._optional = self._optional, False
        if word in _SIGNS:
            self._write_text(_SIGNS[word])
        elif word == "u" and value is not None:
            self._write_text(chr(value % 0x10000))
            self._passed = self._group.fallback
        elif word == "uc":
            self._group = replace(self._group, fallback=min(max(0, value or 0), 100))
        elif word in ("v", "deleted"):
            self._group = replace(self._group, hidden=value != 0)
        elif word in _LOOKS:
            self._change_look(word, value)
        elif word in _BESIDE:
            self._flush_bytes()
            self._group = replace(self._group, into=_BESIDE[word])
            self._parts[_BESIDE[word]] = []
        elif word in ("ansicpg", "mac", "pc", "pca"):
            number = {"mac": 10000, "pc": 437, "pca": 850}.get(word, value or 1252)
            self._codec_name = _codec_name(
                {10000: "mac_roman", 65001: "utf-8"}.get(number, f"cp{number}"), self._codec_name
            )
        elif word in ("f", "fcharset"):
            self._choose_font(word, value or 0)
        elif word in ("pict", "shppict"):
            self.pictures += self._group.shown
            self._group = replace(self._group, shown=False)
        elif word in _SKIPPED or (optional and word not in _KNOWN):
            self._group = replace(self._group, shown=False)

    def _change_look(self, word: str, value: int | None) -> None:
        """Apply a word that raises, lowers or strikes through the text, or ends all of that."""
        self._flush_bytes()
        if word == "plain":
            self._group = replace(self._group, hidden=False, codec="", script="", struck=False)
        elif word in _SCRIPTS:
            self._group = replace(self._group, script=_SCRIPTS[word] if value != 0 else "")
        else:
            self._group = replace(self._group, struck=value != 0)

    def _choose_font(self, word: str, value: int) -> None:
        if not self._group.shown:  # in the font table
            if word == "f":
                self._font = value
            elif self._font is not None and value in _CHARSETS:
                self._fonts[self._font] = _codec_name(_CHARSETS[value], self._codec_name)
        elif word == "f":
            self._flush_bytes()
            self._group = replace(self._group, codec=self._fonts.get(value, ""))

    def _apply_symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._optional = True
        elif symbol in _SYMBOLS:
            self._write_text(_SYMBOLS[symbol])

    def _apply_brace(self, brace: str) -> None:
        self._flush_bytes()
        self._passed, self._optional = 0, False
        if brace == "{":
            self._outer.append(self._group)
        elif self._outer:
            ended, self._group = self._group, self._outer.pop()
            if ended.into != self._group.into:
                self._place_group_text(ended.into)

    def _place_group_text(self, kind: str) -> None:
        """Place a note or comment when its group ends."""
        text = " ".join("".join(self._parts.pop(kind, [])).split())
        if not text:
            return
        if kind in ("header", "footer"):
            if (line := f"[{kind}] {text}") not in self._margins:
                self._margins.append(line)
        elif kind == "footnote":
            self._notes += 1
            self._parts.setdefault(self._group.into, []).append(f"[{self._notes}]")
            self._waiting.append(f"[footnote {self._notes}] {text}")
        else:
            self._waiting.append(f"[{kind}] {text}")

    def _add_bytes(self, data: bytes) -> None:
        self._optional = False
        passed = min(self._passed, len(data))
        self._passed -= passed
        if self._group.shown and not self._group.hidden:
            self._bytes += data[passed:]

    def _write_text(self, text: str) -> None:
        self._flush_bytes()
        if not self._group.shown or self._group.hidden:
            return
        if text == "\n" and self._waiting and not self._group.into:
            text, self._waiting = "\n" + "".join(f"{note}\n" for note in self._waiting), []
        self._append_text(text)

    def _append_text(self, text: str) -> None:
        """Append a text, marked as raised, lowered or struck through."""
        text = marked(marked(text, self._group.script), STRUCK if self._group.struck else "")
        self._parts.setdefault(self._group.into, []).append(text)

    def _flush_bytes(self) -> None:
        if self._bytes:
            text = self._bytes.decode(self._group.codec or self._codec_name, "replace")
            self._append_text(text)
            self._bytes.clear()


def _codec_name(name: str, other: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return other


def _cleaned_text(text: str) -> str:
    """Join surrogate pairs in a text, and strip the tab at the end of table rows."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return re.sub(r"\t+(?=\n)", "", text)
