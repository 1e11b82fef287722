"""Legacy encodings are detected from the whole file, and every guess is noted with its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_dspy.corpus import read
from rlm_dspy.corpus.decoding import declared_encoding, decode, known_encoding, why_binary
from rlm_dspy.errors import ConfigurationError

TEXTS = {
    "pl": "Faktura za usługi została wystawiona w środę. Proszę o zapłatę należności w ciągu czternastu dni. Żółta łódź płynęła cicho wśród trzcin, a książę spał.",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy. Smlouva byla podepsána v pátek a účet musí být zaplacen do čtrnácti dnů. Děkujeme za váš nákup.",
    "hu": "Az árvíztűrő tükörfúrógép megérkezett. Kérjük, fizesse ki a számlát tizennégy napon belül. Köszönjük a vásárlást, őszintén örülünk.",
    "ru": "Сервер запущен и ожидает подключений. Ошибка при чтении файла настроек: доступ запрещён. Счёт должен быть оплачен в течение четырнадцати дней.",
    "uk": "Сервер запущено, очікуємо на з'єднання. Помилка під час читання файлу: доступ заборонено. Її відповідь була єдиною.",
    "el": "Ο διακομιστής ξεκίνησε και περιμένει συνδέσεις. Το τιμολόγιο πρέπει να πληρωθεί εντός δεκατεσσάρων ημερών. Ευχαριστούμε πολύ.",
    "tr": "Sunucu başlatıldı ve bağlantı bekliyor. Fatura on dört gün içinde ödenmelidir. Teşekkür ederiz, iyi günler. Şişli'de güneşli bir öğleden sonra.",
    "he": "השרת הופעל וממתין לחיבורים. יש לשלם את החשבונית בתוך ארבעה עשר ימים. תודה רבה על הקנייה.",
    "ar": "بدأ الخادم العمل وينتظر الاتصالات. يجب دفع الفاتورة خلال أربعة عشر يوما. شكرا جزيلا على الشراء.",
    "th": "เซิร์ฟเวอร์เริ่มทำงานแล้วและกำลังรอการเชื่อมต่อ ใบแจ้งหนี้ต้องชำระภายในสิบสี่วัน ขอบคุณมาก",
    "ja": "サーバーが起動し、接続を待っています。請求書は十四日以内にお支払いください。ありがとうございます。東京都の倉庫から発送しました。",
    "zh": "服务器已启动，正在等待连接。发票必须在十四天内支付。谢谢您的购买。仓库在上海市。",
    "zht": "伺服器已啟動，正在等待連線。發票必須在十四天內支付。謝謝您的購買。倉庫在臺北市。",
    "ko": "서버가 시작되어 연결을 기다리고 있습니다. 청구서는 십사일 이내에 지불해야 합니다. 구매해 주셔서 감사합니다.",
    "de": "Die Rechnung ist innerhalb von vierzehn Tagen zu bezahlen. Größe und Qualität überprüft, mit freundlichen Grüßen. Übergabe an die Straßenbahn.",
    "fr": "Le contrat a été signé vendredi. La facture doit être réglée sous quatorze jours après réception. Où êtes-vous allé cet été ? C'est déjà terminé.",
    "es": "El servidor está esperando conexiones. La factura deberá pagarse en catorce días. ¿Cuándo vendrá el niño mañana? Gracias por su atención.",
    "sv": "Fakturan ska betalas inom fjorton dagar. Vänligen kontrollera också att beloppet är rätt. Östra Ågatan är längst bort.",
    "pt": "O contrato foi assinado na sexta-feira. A fatura não será paga até amanhã. As condições são aceitáveis e o preço também. Você está atenção.",
    "it": "La fattura è già stata pagata perché la società ha più città. Però non c'è possibilità di così.",
    "da": "Fakturaen skal betales inden fjorten dage. Små køer græsser på marken ved åen. Læs også årsberetningen før mødet.",
    "ro": "Factura trebuie plătită în paisprezece zile. Mulţumim pentru cumpărături şi aşteptăm răspunsul. Ştefan a scris după ţară.",
    "sk": "Faktúra musí byť zaplatená do štrnástich dní. Ďakujeme za nákup, tešíme sa na ďalšiu spoluprácu. Kôň a mäso sú v dĺžke.",
    "hr": "Račun mora biti plaćen u roku od četrnaest dana. Hvala što ste kupili kod nas. Đorđe je već došao, žao mi je.",
    "lt": "Sąskaita turi būti apmokėta per keturiolika dienų. Ačiū už pirkinį, šiandien gražus oras. Įmonė įsikūrė žemėje, sūnūs.",
    "bg": "Сървърът е стартиран и очаква връзки. Фактурата трябва да бъде платена в срок от четиринадесет дни. Благодарим ви.",
    "fi": "Lasku on maksettava neljäntoista päivän kuluessa. Kiitos ostoksestanne, hyvää päivän jatkoa. Työ jää myöhään.",
    "is": "Reikninginn þarf að greiða innan fjórtán daga. Þakka þér fyrir viðskiptin, góðan daginn. Það er ævintýri í fjöllunum.",
    "fa": "فاکتور باید ظرف چهارده روز پرداخت شود. از خرید شما سپاسگزاریم. سرور آغاز به کار کرد و منتظر اتصال است.",
    "nl": "Het café is geopend. De coördinatie van de financiën is geregeld, één ideeën per categorieën. Reünie.",
    "ja2": "注文番号と住所を確認してください。配送先は大阪府大阪市北区です。在庫がありません。エラーが発生しました。",
    "ko2": "주문 번호와 주소를 확인해 주세요. 배송지는 부산광역시입니다. 오류가 발생했습니다. 재고가 없습니다.",
    "zh2": "请核对订单号和地址。送货地址为北京市朝阳区。库存不足，发生错误。产品价格很高，质量很好。",
    "el2": "Η παραγγελία ακυρώθηκε. Η διεύθυνση είναι λάθος, Άννα. Έλεγχος αποθέματος απέτυχε. Ώρα επτά.",
}
CASES = (
    ("pl", "cp1250"),
    ("pl", "iso8859_2"),
    ("cs", "cp1250"),
    ("hu", "iso8859_2"),
    ("ru", "cp1251"),
    ("ru", "koi8_r"),
    ("ru", "cp866"),
    ("ru", "iso8859_5"),
    ("uk", "cp1251"),
    ("el", "cp1253"),
    ("el", "iso8859_7"),
    ("tr", "cp1254"),
    ("he", "cp1255"),
    ("ar", "cp1256"),
    ("th", "cp874"),
    ("ja", "cp932"),
    ("ja", "euc_jp"),
    ("ja", "iso2022_jp"),
    ("zh", "gb18030"),
    ("zht", "big5"),
    ("ko", "cp949"),
    ("de", "cp1252"),
    ("fr", "cp1252"),
    ("es", "latin_1"),
    ("sv", "latin_1"),
    ("de", "cp850"),
    ("ru", "utf-16-le"),
    ("ja", "utf-16-be"),
    ("de", "utf-16-le"),
    ("de", "mac_roman"),
    ("pt", "cp1252"),
    ("it", "latin_1"),
    ("da", "cp1252"),
    ("ro", "cp1250"),
    ("ro", "iso8859_2"),
    ("sk", "cp1250"),
    ("hr", "cp1250"),
    ("lt", "cp1257"),
    ("bg", "cp1251"),
    ("fi", "latin_1"),
    ("is", "cp1252"),
    ("nl", "cp1252"),
    ("ja2", "cp932"),
    ("ja2", "euc_jp"),
    ("ko2", "cp949"),
    ("zh2", "gb18030"),
    ("zh2", "gbk"),
    ("el2", "cp1253"),
    ("el2", "iso8859_7"),
    ("pl", "cp852"),
    ("cs", "iso8859_2"),
    ("cs", "cp852"),
    ("fr", "cp850"),
    ("fr", "mac_roman"),
    ("tr", "iso8859_9"),
    ("he", "iso8859_8"),
    ("ru", "mac_cyrillic"),
    ("uk", "koi8_u"),
    ("fr", "iso8859_15"),
)


def dense(language: str) -> str:
    return TEXTS[language] + "\n"


def as_log(language: str) -> str:
    """Return a log of 300 lines, of which six have words of the language."""
    words = TEXTS[language].replace(".", "").split()
    lines = []
    for number in range(300):
        start = number // 50 * 3 % len(words)
        note = " ".join(words[start : start + 3]) if number % 50 == 25 else "ok"
        lines.append(f"2026-01-{number % 28 + 1:02} INFO worker[{number}] id={number * 7919 % 10007} note={note}")
    return "\n".join(lines) + "\n"


def as_table(language: str) -> str:
    words = TEXTS[language].replace(".", "").split()
    rows = [f"{n},{words[n % len(words)]},{words[(n * 3 + 1) % len(words)]},{n * 13 % 997}" for n in range(60)]
    return "\n".join(["id,name,city,amount", *rows]) + "\n"


def test_the_table_of_encodings_is_read_rightly() -> None:
    wrong = []
    files = 0
    for language, encoding in CASES:
        for made in (dense, as_log, as_table):
            text = made(language)
            found, note = decode(text.encode(encoding))
            files += 1
            if found != text:
                wrong.append((language, encoding, made.__name__, note))
            else:
                assert note.startswith("read as "), (language, encoding, note)
    assert files >= 160
    assert len(wrong) <= 0.05 * files, wrong


@pytest.mark.parametrize(
    ("data", "text", "note"),
    [
        (b"a caf\xe9\n", "a café\n", "read as cp1252"),
        ("x\n" * 50_000 + "Größe – Köln\n", None, ""),
        (("x\n" * 50_000 + "Größe – Köln\n").encode() + b"a\xffb\n", None, "read as utf-8, invalid bytes replaced"),
        (b'<?xml version="1.0" encoding="windows-1251"?>\n<a>' + "Да".encode("cp1251") + b"</a>", None, ""),
        ("# -*- coding: cp1250 -*-\nx = 'ż'\n".encode("cp1250"), "# -*- coding: cp1250 -*-\nx = 'ż'\n", ""),
        (b"\0" * 20_000 + b"line one\nline two\n", "line one\nline two\n", "20,000 NUL bytes left out"),
        (b"one\n\0\0\0\0two\n" * 3, "one\ntwo\n" * 3, "12 NUL bytes left out"),
    ],
)
def test_what_a_text_says_and_what_is_damaged(data: bytes | str, text: str | None, note: str) -> None:
    data = data.encode() if isinstance(data, str) else data
    found, told = decode(data)
    assert told == note
    assert why_binary(data) is None
    assert text is None or found == text
    assert found.count("\ufffd") == (1 if "replaced" in note else 0)


@pytest.mark.parametrize(
    "data", [b"a\0b", b"\x7fELF\0\0\0", bytes(range(256)) * 40, b"PK\0\0" + b"\1\2" * 99, b"\0" * 100]
)
def test_binary_files_stay_binary(data: bytes) -> None:
    assert why_binary(data)


def test_names_of_two_ideographs_are_japanese_in_shift_jis() -> None:
    rows = "".join(f"{n},customer {n},{['東京', '大阪', '名古屋'][n % 3]},{n * 7}\n" for n in range(40))
    assert decode(rows.encode("cp932")) == (rows, "read as cp932")


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Größe".encode("cp850"))
    (tmp_path / "b.dat").write_bytes(b"odd \0\1\2\3 text\n" * 40)
    corpus = read([tmp_path], encoding="CP850")
    assert corpus["a.txt"] == "Größe"
    assert corpus.documents[0].note == ""
    assert [one.name for one in corpus.skipped] == ["b.dat"]
    assert "odd" in read([tmp_path / "b.dat"], encoding="ascii")["b.dat"]
    with pytest.raises(ConfigurationError, match="unknown text encoding 'klingon'"):
        read([tmp_path], encoding="klingon")


def test_only_encodings_of_texts_are_known() -> None:
    assert known_encoding("Windows-1252") == "cp1252"
    assert known_encoding("hex") is None
    assert known_encoding("utf-7") is None
    assert declared_encoding(b'<?xml version="1.0" encoding="hex"?>') is None


@pytest.mark.parametrize("sign", list("’•…€£§°©³µ±\xa0è½®¥«"))
def test_a_sign_that_comes_again_and_again_is_no_other_language(sign: str) -> None:
    text = "".join(f"Entry {number} of {number * 3}{sign} is here\n" for number in range(40))
    assert decode(text.encode("cp1252")) == (text, "read as cp1252")


def test_a_named_encoding_is_for_what_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Größe über".encode())
    (tmp_path / "b.txt").write_bytes("Größe über".encode("cp850"))
    corpus = read([tmp_path], encoding="cp850")
    assert (corpus["a.txt"], corpus["b.txt"]) == ("Größe über", "Größe über")


def test_a_log_with_zeros_may_be_in_a_legacy_encoding() -> None:
    data = b"\0" * 512 + ("INFO ok\n" * 200 + "Größe überschritten\n" * 3).encode("latin-1")
    assert why_binary(data) is None
    assert decode(data)[0].endswith("Größe überschritten\n")


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_stray_escape_does_not_make_a_text_japanese(encoding):
    text, note = decode("Le café est fermé.\n\x1b$B\nÀ bientôt, après l'été.\n".encode(encoding))
    assert "café est fermé" in text
    assert "iso2022_jp" not in note


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\rtwo\r\rthree", "one\ntwo\n\nthree"),
        (b"one\r\ntwo\rthree\n", "one\r\ntwo\nthree\n"),
        ("é\rb\r".encode("utf-16"), "é\nb\n"),
    ],
)
def test_lone_carriage_returns_are_line_ends(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    corpus = read([tmp_path / "a.txt"])
    assert corpus["a.txt"] == text
    assert corpus.documents[0].note == "lone CRs read as line ends"


def test_windows_line_ends_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\r\n" + b"\r" * 100_000 + b"\n")
    corpus = read([tmp_path / "a.txt"])
    assert corpus["a.txt"].startswith("one\r\ntwo\r\r\n\r")
    assert corpus.documents[0].note == ""
