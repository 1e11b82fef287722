"""Detect the legacy encoding of a text: the right one decodes to the letters of one language, in normal case.

Each language lists its non-ASCII letters, most frequent first. An encoding is ruled out if it yields letters that the
language lacks, symbols inside words, or capitals after small letters. (charset-normalizer 3.4 alone gets 69 of the 81
files in the table of tests/test_encodings.py right.)
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

SAMPLE_BYTES = 16_000  # bytes of non-ASCII words to examine, from all over the file
SAMPLE_SECTIONS = 8  # sections of the file to sample words from


@dataclass(frozen=True)
class Language:
    """A language's non-ASCII letters and the encodings used for it."""

    letters: str
    encodings: tuple[str, ...]


_WESTERN = ("cp1252", "cp850", "mac_roman", "iso8859_15", "cp437")
_CENTRAL = ("cp1250", "iso8859_2", "cp852", "mac_latin2")
_CYRILLIC = ("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic")

LANGUAGES = (
    Language("éèàêçôùîûâïœëæüÿ", _WESTERN),  # French
    Language("üäößé", _WESTERN),  # German
    Language("óíáéñú¿¡üºª", _WESTERN),  # Spanish
    Language("ãçéáóêíõàúâôüºª", _WESTERN),  # Portuguese
    Language("àèéòùìî°", _WESTERN),  # Italian
    Language("äöåéüšž", _WESTERN),  # Swedish, Finnish
    Language("åøæéöä", _WESTERN),  # Danish, Norwegian
    Language("íáðöéþúóýæ", _WESTERN),  # Icelandic
    Language("éëïèöüó", _WESTERN),  # Dutch
    Language("ąęłóżśćńź", _CENTRAL),  # Polish
    Language("íáěéřšýčžůúňťďó", _CENTRAL),  # Czech
    Language("íáéýčšžúťľôňďäóĺŕ", _CENTRAL),  # Slovak
    Language("éáöóőíüúű", _CENTRAL),  # Hungarian
    Language("ăîâşţșțé", _CENTRAL),  # Romanian
    Language("čšžćđ", _CENTRAL),  # Croatian, Slovenian
    Language("ışüğçöİâî", ("cp1254", "iso8859_9", "cp857")),  # Turkish
    Language("ėšųįžąčūęāīēņģļķõäöü", ("cp1257", "iso8859_13")),  # Baltic
    Language("оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё№", _CYRILLIC),  # Russian
    Language("оанивеітрслкдумпзябьгчйхцїжюєшщґф№", ("cp1251", "koi8_u", "iso8859_5", "cp1125")),  # Ukrainian
    Language("аоиеjнртсвкудпмљњђћџжчшзцгбхлф", ("cp1251", "iso8859_5")),  # Serbian, Macedonian
    Language("αοιετσνηυρπκμλςίόάέγήδωχύθφβώξζψϊΐϋΰ", ("cp1253", "iso8859_7", "cp737")),  # Greek
    Language("יוהלאמרבתשנדעקםחפןצטסגזךכץףׁ", ("cp1255", "iso8859_8", "cp862")),  # Hebrew
    Language("اليمنترةوبعدسفحكقشجهصأطخءضىغذئثظزإؤآًٌٍَُِّ،؛؟ـ", ("cp1256", "iso8859_6", "cp720")),  # Arabic
    Language("انیدرهموتبشسکگزلخچپفقعجحطصضظغثآئءۀ،؛؟", ("cp1256",)),  # Persian
    Language("านรอกเงมยลวดทสตะปบคหแจพชขใไโผถศณธฟษฉซญฐฎฏฑฒฌฆภฝฤฦา่้๊๋์็ัิีึืุูำๆฯ฿", ("cp874",)),  # Thai
)

_HIGH_WORD = re.compile(rb"[\x80-\xff][^ \t\r\n]{0,200}")  # starts at the word's first non-ASCII byte
_CONTEXT_BYTES = 20  # bytes of the word before its first non-ASCII byte
_TYPOGRAPHY = frozenset("„“”‚‘’‹›«»–—…€£¥¢¡¿§¶¬¨¸°©®™·•×±½¼¾²³µ¶†‡‰´`\u00a0\u00ad№")
_KANA = re.compile(r"[\u3041-\u30ff]")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_CJK_MARKS = re.compile(r"[\u3000-\u301f\uff01-\uff65・ー]")
_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现"
    "当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重"
    "並個來為國這們時說會對過發後經麼學現當沒動還進樣開從實軍無與長機關點業將兩間問"
    "請務書必須支付內謝購買倉庫市账票购买请须内仓库务服器连接已启待等"
)
_KOREAN = frozenset(
    "이다는에을의가고를한하로지은도사기서자시어대해리인그나있일아스정수제부전과구상보만라원주장동으전여비공성게면들세유오안신경무조위니물관화야국개우용생저문"
    "내소적연음합께습해요중모발요계당실명방학교터까했된할"
)
_COMMON_HAN = 0.35  # weight of an ideograph outside the most frequent ones
_SECOND_LEVEL = 0x98  # first lead byte of the rarer half of Shift-JIS's ideographs
_MULTIBYTE = ("cp932", "euc_jp", "gb18030", "big5", "cp949")
_USUAL = frozenset(
    {*_MULTIBYTE, "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "iso8859_2", "iso8859_7"}
)
_SYMBOL_WEIGHT = 0.6  # weight of a typographic sign, common to all languages
_DOS = frozenset({"cp437", "cp850", "cp852", "cp866"})
_COMPLETE_WEIGHT = 0.25  # bonus if all bytes pair up into characters, which is rare in other encodings

_SINGLE_BYTE = itertools.chain.from_iterable(language.encodings for language in LANGUAGES)
_ENCODINGS = tuple(dict.fromkeys([*_MULTIBYTE, *_SINGLE_BYTE]))


def guess_encoding(data: bytes, *, dos: bool = False) -> str:
    """Return the name of the most likely encoding.

    Args:
        data: A text or a name.
        dos: Whether DOS encodings are as likely as Windows ones, as for names in an archive.
    """
    sample = high_words(data)
    readings = {encoding: _read_sample(sample, encoding) for encoding in _ENCODINGS}
    scores = {encoding: _multibyte_score(readings[encoding], encoding) for encoding in _MULTIBYTE}
    for language in LANGUAGES:
        ranks = {letter: rank / len(language.letters) for rank, letter in enumerate(language.letters)}
        for encoding in language.encodings:
            reading = readings[encoding]
            score = _language_score(reading, ranks) - _encoding_rarity(encoding, dos) / reading.evidence
            scores[encoding] = max(scores.get(encoding, -9.0), score)
    return max(scores, key=lambda encoding: scores[encoding])


def high_words(data: bytes) -> bytes:
    """Return words with non-ASCII bytes, some from each section of the file."""
    words: list[bytes] = []
    sections = SAMPLE_SECTIONS if len(data) > SAMPLE_BYTES else 1
    step = -(-len(data) // sections) or 1
    for start in range(0, len(data), step):
        begin = start
        if start:  # begin at a line, so that no word or character is cut
            begin = data.find(b"\n", start) + 1 or start
        room = SAMPLE_BYTES // sections
        for match in _HIGH_WORD.finditer(data, begin, start + step):
            before = data[max(0, match.start() - _CONTEXT_BYTES) : match.start()]
            word = re.split(rb"[ \t\r\n]", before)[-1] + match[0]
            words.append(word)
            room -= len(word)
            if room <= 0:
                break
    return b" ".join(words)[: 2 * SAMPLE_BYTES]


@dataclass(frozen=True)
class _Reading:
    """A sample decoded in one encoding: its non-ASCII characters, and its implausible ones."""

    chars: dict[str, int]
    broken: int
    odd: int

    @property
    def counted(self) -> int:
        return self.broken + sum(self.chars.values())

    @property
    def evidence(self) -> float:
        """How many characters count as evidence; repeats of the same character add little."""
        return max(1.0, min(self.counted, 1.5 * len(self.chars)))


def _read_sample(sample: bytes, encoding: str) -> _Reading:
    text = sample.decode(encoding, "replace")
    chars = {char: count for char, count in Counter(text).items() if ord(char) > 127 and char != "\ufffd"}
    return _Reading(chars, text.count("\ufffd"), _count_oddities(text))


def _encoding_rarity(encoding: str, dos: bool) -> float:
    """Return how many more letters an encoding must explain than the common Western one to be chosen."""
    if dos and encoding in _DOS:
        return 0.4
    if encoding == "cp1252" and not dos:
        return 0.0
    if encoding in _USUAL:
        return 0.8
    return 4.0


def _language_score(reading: _Reading, ranks: dict[str, float]) -> float:
    """Return how well a sample matches a language: 1 at best, below 0 for no match."""
    total = -3.0 * reading.broken - 2.0 * reading.odd
    for char, count in reading.chars.items():
        total += count * _letter_weight(char, ranks)
    if reading.counted:
        return total / reading.counted
    return -9.0


def _letter_weight(char: str, ranks: dict[str, float]) -> float:
    small = char.lower()
    rank = ranks.get(char, ranks.get(small if len(small) == 1 else char))
    if rank is not None:
        weight = 1.0 - 0.5 * rank
        if char == small:
            return weight
        return 0.8 * weight
    if char in _TYPOGRAPHY:
        return _SYMBOL_WEIGHT
    if unicodedata.category(char) in ("Cc", "Co", "Cn"):
        return -3.0
    return -1.5


_ODD = re.compile(r"(?<=[^\W\d_A-Z])[^\W\d_a-z](?=[^\W\d_A-Z])|(?<=[^\W\d_])[¡-¿×÷](?=[^\W\d_])")
_TWO_SCRIPTS = re.compile(r"[A-Za-zÀ-ɏ][Ͱ-\u0fff]|[Ͱ-\u0fff][A-Za-zÀ-ɏ]|(?<=[a-z])[\u3041-\ud7a3](?=[a-z])")
_SIGNS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"  # written above or below a consonant
_NO_THAI = re.compile(rf"(?<![\u0e01-\u0e2e{_SIGNS}])[{_SIGNS}]|[\u0e40-\u0e44](?![\u0e01-\u0e2e])")


def _count_oddities(text: str) -> int:
    """Count oddities: capitals between small letters, symbols inside words, words that mix two scripts."""
    odd = len(_TWO_SCRIPTS.findall(text)) + 2 * len(_NO_THAI.findall(text))
    for match in _ODD.finditer(text):
        char = match[0]
        capital = char.isupper() and text[match.start() - 1].islower()
        odd += ord(char) > 127 and (capital or not char.isalpha())
    return odd


def _multibyte_score(reading: _Reading, encoding: str) -> float:
    """Return how well a sample in a CJK encoding matches Japanese, Chinese or Korean."""
    total = -4.0 * reading.broken - _encoding_rarity(encoding, False) * max(1.0, reading.counted / reading.evidence)
    kana = False
    for char, count in reading.chars.items():
        kana = kana or bool(_KANA.match(char))
        total += count * _cjk_weight(char, encoding)
    if encoding in ("cp932", "euc_jp") and not kana:
        total -= 0.3 * reading.counted  # Japanese almost always contains kana
    if not reading.counted:
        return -9.0
    return total / reading.counted + (0.0 if reading.broken else _COMPLETE_WEIGHT)


def _cjk_weight(char: str, encoding: str) -> float:
    if _CJK_MARKS.match(char):
        return 0.6
    if "\uff66" <= char <= "\uff9f":
        return -0.5  # half-width kana: what other encodings look like in Shift-JIS
    if encoding == "cp949":
        if _HANGUL.match(char):
            if char in _KOREAN:
                return 1.0
            if _is_in_standard(char, "euc_kr"):
                return 0.5
            return -0.5
        return -0.5
    if _KANA.match(char):
        return 1.0 if encoding in ("cp932", "euc_jp") else 0.1
    if _HAN.match(char):
        if encoding in ("cp932", "euc_jp"):
            if char.encode("cp932", "replace")[0] < _SECOND_LEVEL:
                return 0.7
            return 0.2
        if encoding == "gb18030" and not _is_in_standard(char, "gb2312"):
            return 0.0
        return 1.0 if char in _CHINESE else _COMMON_HAN
    return -1.0


def _is_in_standard(char: str, encoding: str) -> bool:
    """Return whether a character is in the national standard, which has all but the rarest."""
    try:
        return len(char.encode(encoding)) == 2  # EUC-KR spells out missing syllables in eight bytes
    except UnicodeEncodeError:
        return False


_SNIFFED_BYTES = 8192

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_MAGIC = (
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x7fELF", "a program"),
)

_BOM_PREFIXES = tuple(bom for bom, _ in _BOMS)
_TAR = slice(257, 262)  # where a tar archive has its magic bytes

_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\r\f\x08\x1b"))
_MIN_UTF16_BYTES = 6  # fewest bytes needed to recognise UTF-16 without a BOM
_NUL_RUNS = 16  # allowed in a truncated log, plus one per this many bytes
_NUL_EVERY = 4096
_ESCAPED = re.compile(rb"\x1b\$[@B]")  # begins Japanese in ISO-2022-JP
# Encoding declarations: of XML, Python and editors in the first lines, of style sheets at the start.
_DECLARED = re.compile(
    rb"\A\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})[\"']"
    rb"|\A@charset \"([\w.:-]{1,40})\";"
    rb"|\A(?:[^\n]{0,200}\n)?[ \t\f]*(?:#|//|%|;|<!--)[^\n]{0,100}?\b(?:file)?(?:en)?coding[:=][ \t]*([\w.:-]{1,40})"
)
_LONE_RETURNS = re.compile(r"(?<!\r)\r++(?!\n)")
_META = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.I | re.A)
_SEVEN_BIT = {"utf-7": "utf-7", "unicode-1-1-utf-7": "utf-7", "hz-gb-2312": "hz", "hz": "hz"}  # all bytes are ASCII
# Encoding names that only browsers and mail programs know.
_BROWSER_NAMES = {
    "iso-8859-8-i": "iso8859-8", "windows-31j": "cp932", "x-sjis": "cp932", "x-gbk": "gbk", "x-mac-roman": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic", "ks_c_5601-1987": "cp949", "unicode-1-1-utf-8": "utf-8", "x-x-big5": "big5",
}  # fmt: skip
# The superset to use for a declared encoding, as browsers do (encoding.spec.whatwg.org).
_SUPERSETS = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "tis-620": "cp874", "iso8859-11": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950",
}  # fmt: skip
_PROBE = b'<meta charset="\\u0041 +AGE- ~1 .xn--4ca.">'  # unchanged by every encoding that can be declared in ASCII


def why_binary(head: bytes) -> str | None:
    """Return why a file that begins with these bytes is not text, or None if it is."""
    if head.startswith(_BOM_PREFIXES):
        return None
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[_TAR] == b"ustar":
        return "a tar archive"
    sample = head[:_SNIFFED_BYTES]
    if b"\0" in sample:
        if wide_encoding(sample) or _is_cut_log(head):
            return None
        return "binary"
    if len(sample) - len(sample.translate(None, _CONTROLS)) > len(sample) // 10:
        return "binary"
    return None


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Return the text and a note on what was guessed, replaced or left out, empty if nothing was.

    Args:
        data: The whole file.
        encoding: The encoding the user named; a byte order mark takes precedence.
    """
    for bom, marked in _BOMS:
        if data.startswith(bom):
            return _decode_replacing_errors(data[len(bom) :], marked)
    if encoding is not None:
        if not encoding.startswith(("utf-16", "utf-32")) and is_utf8(data):
            encoding = "utf-8"  # a named encoding applies only to texts that are not UTF-8
        return _decode_replacing_errors(data, encoding)
    if b"\0" in data:
        if found := wide_encoding(data[:_SNIFFED_BYTES]):
            return _decode_replacing_errors(data, found)[0], f"read as {found}"
        bare = data.replace(b"\0", b"")
        text, note = decode(bare)
        return text, joined_notes(note, f"{len(data) - len(bare):,} NUL bytes left out")
    return _decode_plain(data)


def decode_declared(data: bytes, charsets: Iterable[str | None], encoding: str | None = None) -> tuple[str, str]:
    """Return the text in the first declared charset that fits, or else what ``decode`` returns.

    Args:
        data: The whole file.
        charsets: Names that a header, the message around the file or the file itself declares, the best one first.
        encoding: The encoding the user named, which applies if none of these does.
    """
    if data.startswith(_BOM_PREFIXES) or is_utf8(data):
        return decode(data, encoding)
    for charset in filter(str.strip, filter(None, charsets)):
        name = charset.split()[0].strip("\"'").lower()
        known = known_encoding(name) or (_SEVEN_BIT.get(name) if data.isascii() else None)
        if known is None or known == "ascii" or (known.startswith(("utf-16", "utf-32")) and b"\0" not in data):
            continue
        for codec in dict.fromkeys((_superset_of(known), known)):
            if not _is_broken(data, codec):
                return data.decode(codec), ""
    return decode(data, encoding)


def with_line_feeds(text: str) -> tuple[str, str]:
    """Return a text whose lone carriage returns are line feeds, and a note if it has any."""
    text, count = _LONE_RETURNS.subn(lambda match: "\n" * len(match[0]), text)
    if count:
        return text, "lone CRs read as line ends"
    return text, ""


def page_charset(data: bytes) -> str | None:
    """Return the name of the encoding that a page declares in a ``meta`` element, or None."""
    declared = _META.search(data[:2048])
    if declared is None:
        return None
    return declared[1].decode("ascii")


def _decode_plain(data: bytes) -> tuple[str, str]:
    """Return the text of bytes without NULs and without a byte order mark."""
    try:
        if data.isascii() and _ESCAPED.search(data):  # ISO-2022-JP has only 7-bit bytes
            return data.decode("iso2022_jp"), "read as iso2022_jp"
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        pass
    if (declared := declared_encoding(data)) and not _is_broken(data, declared):
        return data.decode(declared), ""
    if _mostly_utf8(data):
        return _decode_replacing_errors(data, "utf-8")
    guessed = guess_encoding(data)
    text, note = _decode_replacing_errors(data, guessed)
    return text, note or f"read as {guessed}"


def known_encoding(name: str) -> str | None:
    """Return Python's name for a text encoding, or None if it is unknown."""
    try:
        codec = codecs.lookup(_BROWSER_NAMES.get(name.strip().lower(), name.strip())).name
        is_wide = codec.startswith(("utf-16", "utf-32"))
        if is_wide or _PROBE.decode(codec).encode("ascii") == _PROBE:
            return codec
        return None
    except (LookupError, ValueError):
        return None


def declared_encoding(data: bytes) -> str | None:
    """Return the encoding declared in a text's first lines, or None if there is no valid one."""
    match = _DECLARED.search(data[:1024])
    if match is None:
        return None
    name = next(filter(None, match.groups()))
    known = known_encoding(name.decode("ascii"))
    if known is None or known.startswith(("utf-16", "utf-32")):
        return None
    return _superset_of(known)


def _superset_of(declared: str) -> str:
    """Return the encoding to use for a declared one: the superset that programs write under that name."""
    return _SUPERSETS.get(declared, declared)


def wide_encoding(head: bytes) -> str | None:
    """Return the UTF-16 variant of a text without a BOM, judging by its zero bytes, or None."""
    even = head[: len(head) // 2 * 2]
    if len(even) < _MIN_UTF16_BYTES or b"\0" not in even or (len(head) < _SNIFFED_BYTES and len(head) != len(even)):
        return None
    units = len(even) // 2
    low, high = even[1::2].count(0) / units, even[0::2].count(0) / units  # zeros after and before each ASCII byte
    encoding = "utf-16-le" if low >= high else "utf-16-be"
    try:
        text = even.decode(encoding)
    except UnicodeDecodeError:
        return None
    if max(low, high) > 0.3 and min(low, high) < 0.02:
        if _is_text(text, 0.95):
            return encoding
        return None
    if "\n" in text and _is_text(text, 0.98) and _is_one_script(text):
        return encoding
    return None


def bom_and_line_end(head: bytes) -> tuple[bytes, bytes]:
    """Return the BOM (empty unless UTF-16 or UTF-32) and the encoded line ending."""
    for bom, encoding in _BOMS[1:]:
        if head.startswith(bom):
            return bom, "\n".encode(encoding)
    return b"", b"\n"


def _is_text(text: str, share: float) -> bool:
    """Return whether at least this share of characters are letters, digits, marks, punctuation or spaces."""
    good = sum(char in "\t\r\n" or unicodedata.category(char)[0] in "LMNPSZ" for char in text)
    return good >= share * len(text)


def _is_one_script(text: str) -> bool:
    """Return whether most letters are in one block of 256, or in the common East Asian blocks."""
    letters = [ord(char) for char in text if char.isalpha()]
    blocks = [letter >> 8 for letter in letters]
    most = max((blocks.count(block) for block in set(blocks)), default=0)
    asian = len(re.findall("[\u3041-\u30ff\u4e00-\u9fff\uac00-\ud7a3]", text))
    blanks = sum(char in " \n、。，.,:" for char in text)
    return bool(letters) and (most > 0.8 * len(letters) or (asian > 0.9 * len(letters) and blanks * 50 > len(text)))


def _is_cut_log(data: bytes) -> bool:
    """Return whether bytes are text with a few runs of zeros, as in a log truncated while being written."""
    bare = data.replace(b"\0", b"")
    if not bare:
        return len(data) > _SNIFFED_BYTES  # more may follow
    if b"\n" not in bare or len(re.findall(rb"\0+", data)) > _NUL_RUNS + len(bare) // _NUL_EVERY:
        return False
    controls = len(bare) - len(bare.translate(None, _CONTROLS))
    return controls * 1_000 <= len(bare)


def joined_notes(*notes: str) -> str:
    """Return the notes that are not empty as one."""
    return "; ".join(filter(None, notes))


def is_utf8(data: bytes) -> bool:
    """Return whether bytes are valid non-ASCII UTF-8, which is never by chance, whatever charset is declared."""
    return not data.isascii() and not _is_broken(data, "utf-8")


def _is_broken(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return True
    return False


def _decode_replacing_errors(data: bytes, encoding: str) -> tuple[str, str]:
    try:
        text, note = data.decode(encoding), ""
    except UnicodeError:
        text, note = data.decode(encoding, "replace"), f"read as {encoding}, invalid bytes replaced"
    return text.encode("utf-8", "replace").decode(), note


def _mostly_utf8(data: bytes) -> bool:
    """Return whether a damaged text is still UTF-8: most of its sequences are intact."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return len(re.findall(r"[^\x00-\x7f\ufffd]", text)) > broken
