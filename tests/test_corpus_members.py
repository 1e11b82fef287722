"""Files inside files, and third-party readers: names, limits and exceptions."""

import gzip
import json
import textwrap
import zipfile
from email.message import EmailMessage

import pytest

import documents
from rlm_dspy.corpus import read
from rlm_dspy.corpus.collecting import Collector, Limits
from rlm_dspy.corpus.readers import archives, choosing
from rlm_dspy.corpus.readers.reader import Reader, UnreadableError
from rlm_dspy.errors import CorpusError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path / "home"))


def collected(files, **limits):
    collector = Collector(Limits(**limits), secrets=False)
    for name, data in files.items():
        collector.add(data, name, "/" + name)
    return collector.finish()[0]


def reasons(corpus):
    return {one.name: one.reason for one in corpus.skipped}


# Secrets


def test_the_folders_of_an_archive_tell_secrets_too():
    inside = {".kube/config": b"token", ".docker/config.json": b"{}", "home/.aws/sso/t.json": b"{}", "a.md": b"a"}
    corpus = collected({"z.zip": documents.packed(inside), "w.zip": documents.packed({"u\\.ssh\\config": b"x"})})
    assert corpus.names == ("z.zip/a.md",)
    secret = ["w.zip/u/.ssh/config", "z.zip/.docker/config.json", "z.zip/.kube/config", "z.zip/home/.aws/sso/t.json"]
    assert reasons(corpus) == dict.fromkeys(secret, "looks like a secret")


def test_any_folder_above_tells_a_secret(tmp_path):
    (tmp_path / ".aws" / "sso" / "cache").mkdir(parents=True)
    (tmp_path / ".aws" / "sso" / "cache" / "t.json").write_text("{}")
    (tmp_path / "a.md").write_text("a")
    corpus = read([tmp_path], hidden=True)
    assert corpus.names == ("a.md",)
    assert reasons(corpus) == {".aws/sso/cache/t.json": "looks like a secret"}
    assert len(read([tmp_path], hidden=True, secrets=True)) == 2
    with pytest.raises(CorpusError, match="looks like a secret"):
        read([tmp_path / ".aws" / "sso" / "cache" / "t.json"])


# Names


def test_members_of_archives_with_one_name_are_told_apart_by_the_folders_above(tmp_path):
    for folder in "pq":
        docs = tmp_path / "z" / folder / "docs"
        docs.mkdir(parents=True)
        (docs / "f.zip").write_bytes(documents.packed({"in.html": b"<p>" + folder.encode(), "in2.md": b"x"}))
    assert read([tmp_path / "z" / folder / "docs" for folder in "pq"]).names == (
        "docs/f.zip/in.html", "docs/f.zip/in2.md", "q/docs/f.zip/in.html", "q/docs/f.zip/in2.md",
    )  # fmt: skip


# Limits


def test_what_is_nested_in_a_file_shares_its_limit():
    bomb = documents.packed({f"{n}.zip": documents.packed({"zeros.txt": bytes(8_000_000)}) for n in range(6)})
    corpus = collected({"bomb.zip": bomb, "after.zip": documents.packed({"a.md": b"a"})})
    assert "after.zip/a.md" in corpus.names
    read_of_it = [name for name in (*corpus.names, *reasons(corpus)) if name.endswith("zeros.txt")]
    assert len(read_of_it) == 3
    assert "bomb.zip/2.zip/zeros.txt" in reasons(corpus)
    assert reasons(corpus)["bomb.zip/…"].startswith("3 more files in the archive: ")


def test_members_that_are_refused_count_too(monkeypatch):
    opened = []
    within = archives._within
    monkeypatch.setattr(archives, "_within", lambda *given: opened.append(1) or within(*given))
    corpus = collected({"b.zip": documents.packed({f"{n}.txt": bytes(25_000_000) for n in range(3)})})
    assert len(opened) == 1
    assert "zip bomb" in reasons(corpus)["b.zip/0.txt"]
    assert reasons(corpus)["b.zip/…"].startswith("2 more files in the archive: ")


def test_what_is_nested_in_a_file_shares_the_number_of_files(monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
    inner = documents.packed({f"{n}.txt": b"x" for n in range(3)})
    corpus = collected({"a.zip": documents.packed({"1.zip": inner, "2.zip": inner, "3.zip": inner})})
    assert corpus.names == ("a.zip/1.zip/0.txt", "a.zip/1.zip/1.txt", "a.zip/1.zip/2.txt")
    assert reasons(corpus)["a.zip/2.zip/…"].startswith("3 more files")
    assert reasons(corpus)["a.zip/…"].startswith("1 more file in the archive")


def test_an_archive_without_files_is_explained():
    assert reasons(collected({"a.zip": documents.packed({"folder/": b""})})) == {"a.zip": "empty"}


# Depth


def nested(name, data, depth):
    for _ in range(depth):
        name, data = "in.zip", documents.packed({name: data})
    return data


def test_what_is_no_archive_is_read_however_deep_it_lies():
    notebook = json.dumps({"cells": [{"cell_type": "markdown", "source": "deep"}]}).encode()
    corpus = collected({"a.zip": nested("a.ipynb", notebook, 3), "b.zip": nested("a.eml", documents.message(), 3)})
    assert corpus.names == ("a.zip/in.zip/in.zip/a.ipynb", "b.zip/in.zip/in.zip/a.eml")
    assert reasons(corpus) == {"b.zip/in.zip/in.zip/a.eml/lease.pdf": "nested in more than 3 files"}


def test_an_archive_in_three_others_is_refused():
    corpus = collected({"a.zip": nested("a.zip", gzip.compress(b"x"), 3)})
    assert reasons(corpus) == {"a.zip/in.zip/in.zip/a.zip": "an archive nested in two others"}


def test_messages_in_messages_end_somewhere():
    mail = EmailMessage()
    mail.set_content("deepest")
    for _ in range(6):
        outer = EmailMessage()
        outer.set_content("outer")
        outer.add_attachment(mail)
        mail = outer
    corpus = collected({"a.eml": mail.as_bytes()})
    assert len(corpus) == 4
    assert list(reasons(corpus).values()) == ["nested in more than 3 files"]


# Third parties

THEIRS = """
    import struct
    from rlm_dspy.corpus.readers import Converted, Member, UnreadableError

    class PdfReadError(Exception):
        pass

    calls = []

    def members(data, name):
        yield Member("ch1.md", b"chapter one")
        yield Member("ch2.html", b"<p>chapter two")

    def named(data, name):
        calls.append(name)
        return name

    def own(data, name):
        raise PdfReadError("no xref")

    def packed(data, name):
        struct.unpack("<I", b"")

    def halfway(data, name):
        yield Member("ch1.md", b"chapter one")
        raise PdfReadError("no more")

    def stopped(data, name):
        raise StopIteration

    def refused(data, name):
        raise UnreadableError("locked")

    def texts(data, name):
        return iter(["one", "two"])

    def nothing(data, name):
        return None

    def none_inside(data, name):
        return [None]

    def nobody(data, name):
        return iter(())

    def text_as_bytes(data, name):
        return Converted(b"text")

    def member_as_text(data, name):
        return [Member("a.md", "text")]

    def bad_marks(data, name):
        return Converted("text", marks=[("page 1",)])

    def odd_marks(data, name):
        return Converted("text", marks=[(1, object(), False)])
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Install a distribution with the readers above, each for files that end with its name."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    body = textwrap.dedent(THEIRS)
    names = [line[4 : line.index("(")] for line in body.splitlines() if line.startswith("def ")]
    points = [*(f"{name} = theirs_of_members:{name}" for name in names), "broken = theirs_broken:read"]
    (info / "entry_points.txt").write_text("[rlm_dspy.readers]\n" + "\n".join(points))
    (site / "theirs_of_members.py").write_text(body)
    (site / "theirs_broken.py").write_text("raise RuntimeError('no display')")
    monkeypatch.syspath_prepend(site)
    choosing._installed_readers.cache_clear()
    yield
    choosing._installed_readers.cache_clear()


@pytest.mark.usefixtures("theirs")
def test_a_third_partys_reader_may_yield_files():
    for _ in range(2):
        corpus = collected({"a.members": b"x"})
        assert dict(corpus.items()) == {"a.members/ch1.md": "chapter one", "a.members/ch2.html": "chapter two\n"}
        assert corpus.skipped == ()


@pytest.mark.usefixtures("theirs")
def test_what_a_third_party_makes_of_a_file_is_kept_by_the_name_it_was_given():
    assert collected({"a.named": b"x", "b.named": b"x"})["b.named"] == "b.named"
    again = collected({"b.named": b"x"})
    assert again["b.named"] == "b.named"
    assert [document.kind for document in again.documents] == ["named"]
    import theirs_of_members

    assert theirs_of_members.calls == ["a.named", "b.named"]


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("own", "its reader failed: PdfReadError: no xref"),
        ("packed", "its reader failed: error: unpack requires"),
        ("halfway", "its reader failed: PdfReadError: no more"),
        ("stopped", "its reader failed: StopIteration"),
        ("refused", "locked"),
        ("texts", "its reader returned str where a file was expected"),
        ("nothing", "its reader failed: TypeError"),
        ("none_inside", "its reader returned NoneType where"),
        ("nobody", "empty"),
        ("text_as_bytes", "its reader returned Converted without"),
        ("member_as_text", "its reader returned Member without"),
        ("bad_marks", "its reader returned Converted without"),
        ("odd_marks", "its reader returned Converted without"),
        ("broken", "its reader theirs_broken:read cannot be loaded: RuntimeError: no display"),
    ],
)
def test_whatever_a_third_party_does_costs_that_file_only(ending, why):
    corpus = collected({f"a.{ending}": b"x", "z.txt": b"text"})
    assert corpus["z.txt"] == "text"
    assert reasons(corpus)[f"a.{ending}"].startswith(why)


@pytest.mark.usefixtures("theirs")
def test_a_reader_of_no_distribution_is_held_to_the_same(monkeypatch):
    import theirs_of_members

    for ending in ("texts", "own", "nothing"):
        reader = Reader(ending, getattr(theirs_of_members, ending))
        monkeypatch.setattr("rlm_dspy.corpus.collecting.find", lambda *_, reader=reader: reader)
        assert reasons(collected({"a.x": b"x"}))["a.x"].startswith("its reader ")


@pytest.mark.usefixtures("theirs")
def test_a_reader_that_cannot_be_loaded_is_told_of_a_huge_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr("rlm_dspy.corpus.collecting.MAX_VALUE_BYTES", 10)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.broken").write_text("x" * 20)
    (tmp_path / "in" / "b.txt").write_text("b")
    assert "cannot be loaded" in reasons(read([tmp_path / "in"]))["a.broken"]


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("注文書/東京の倉庫.txt", "cp932"),
        ("Größe.txt", "cp850"),
        ("Übersicht März.txt", "cp437"),
        ("счёт.txt", "cp866"),
    ],
)
def test_names_in_an_archive_are_decoded_as_its_maker_wrote_them(tmp_path, name, encoding):
    class Raw(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):
            return name.encode(encoding), self.flag_bits & ~0x800

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = Raw("x.txt")
        archive.writestr(info, "inside\n")
    assert f"a.zip/{name}" in read([tmp_path / "a.zip"]).names


def test_converting_a_folder_has_a_limit_and_what_is_beyond_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("rlm_dspy.corpus.collecting.MAX_CONVERSION_SECONDS", 0.0)
    (tmp_path / "a.html").write_text("<p>one</p>")
    (tmp_path / "b.txt").write_text("two")
    corpus = read([tmp_path])
    assert corpus.names == ("b.txt",)
    assert "allowed for converting files" in corpus.skipped[0].reason
    assert corpus.problems[0].unread


@pytest.mark.parametrize(
    ("charset", "encoding", "text"),
    [
        ("iso-8859-1", "cp1252", "It\u2019s 5 \u20ac \u2013 ok"),
        ("gb2312", "gbk", "\u6731\u9555\u57fa \u540c\u5fd7"),
        ("shift_jis", "cp932", "\u9ad9\u6a4b\u2460 \u69d8"),
        ("windows-31j", "cp932", "\u9ad9\u6a4b \u69d8"),
    ],
)
def test_a_mail_is_read_in_the_larger_encoding_that_its_name_stands_for(tmp_path, charset, encoding, text):
    head = f"From: a@example.org\nSubject: x\nContent-Type: text/plain; charset={charset}\n\n".encode()
    (tmp_path / "a.eml").write_bytes(head + text.encode(encoding) + b"\n")
    assert text in read([tmp_path / "a.eml"])["a.eml"]
    (tmp_path / "a.html").write_bytes(f'<meta charset="{charset}"><p>'.encode() + text.encode(encoding) + b"</p>")
    assert text in read([tmp_path / "a.html"])["a.html"]


NAME = "ФИО: ИВ, ТВЕРЬ"


def mail_of(kind, body, more=b""):
    return b"From: a@b.c\nMIME-Version: 1.0\nContent-Type: " + kind + b"\n" + more + b"\n" + body


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.mht", mail_of(b"text/html", b"<meta charset=koi8-r><p>" + NAME.encode("koi8-r"))),
        ("b.eml", mail_of(b"text/csv; charset=koi8-r; name=t.csv", NAME.encode("koi8-r"))),
        ("c.eml", mail_of(b"text/html; charset=koi8-r", NAME.encode("koi8-r"), b"Content-Disposition: attachment\n")),
        ("d.eml", mail_of(b"text/plain; charset=utf-7", NAME.encode("utf-7"))),
        ("e.eml", mail_of(b"text/plain; charset=hz-gb-2312", NAME.encode("hz"))),
    ],
)
def test_a_charset_that_is_told_is_believed_in_all_parts_of_a_mail(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    corpus = read([tmp_path])
    assert any(NAME in text for _, text in corpus.items())
    assert not corpus.problems


def test_the_encoding_that_the_user_names_holds_in_pages_and_mails_that_tell_none(tmp_path):
    name = NAME.encode("koi8-r")
    (tmp_path / "a.html").write_bytes(b"<p>" + name)
    (tmp_path / "b.eml").write_bytes(b"From: a@b.c\nSubject: " + name + b"\n\n" + name)
    (tmp_path / "c.html").write_bytes('<meta charset="cp1253"><p>Τιμή'.encode("cp1253"))
    (tmp_path / "d.html.gz").write_bytes(gzip.compress(b"<p>" + name))
    assert NAME not in read([tmp_path])["a.html"]
    corpus = read([tmp_path], encoding="koi8-r", exclude=["home"])
    assert [corpus[one].count(NAME) for one in corpus.names] == [1, 2, 0, 1]
    assert corpus["c.html"] == "Τιμή\n"


def test_a_mail_whose_text_part_is_blank_is_read_from_its_page(tmp_path):
    message = EmailMessage()
    message["Subject"] = "Order"
    message.set_content(" \n")
    message.add_alternative("<p>Your code is 998877</p>", subtype="html")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    assert "Your code is 998877" in read([tmp_path / "a.eml"])["a.eml"]


def test_an_output_that_only_draws_costs_itself(tmp_path):
    data = {"text/html": "<script>draw()</script>", "text/plain": "<x.HTML object>"}
    output = {"output_type": "display_data", "data": data}
    cells = [{"cell_type": "markdown", "source": "# Plan"}, {"cell_type": "code", "source": "x", "outputs": [output]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 4, "cells": cells}))
    assert "# Plan" in read([tmp_path / "a.ipynb"])["a.ipynb"]


def notebook_note(tmp_path, *outputs):
    cells = [{"cell_type": "code", "source": "x", "outputs": [output]} for output in outputs]
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 4, "cells": cells}))
    corpus = read([tmp_path / "a.ipynb"])
    return corpus["a.ipynb"], corpus.documents[0].note


def test_long_outputs_are_read_whole_and_a_notebook_that_is_cut_says_so(tmp_path, monkeypatch):
    long = {"text": "x" * 150_000 + "4711"}
    text, note = notebook_note(tmp_path, long)
    assert "4711" in text
    assert note == ""
    monkeypatch.setattr("rlm_dspy.corpus.readers.markup.MOST_CHARS", 1_000)
    text, note = notebook_note(tmp_path, long, long)
    assert text.count("4711") == 1
    assert note == "cut after cell 1: it has more than 1,000 characters"


def test_an_output_whose_page_cannot_be_read_is_told(tmp_path, monkeypatch):
    def fail(page):
        raise UnreadableError("a page whose reader crashed")

    monkeypatch.setattr("rlm_dspy.corpus.readers.markup._convert_page", fail)
    _, note = notebook_note(tmp_path, {"text": "1"}, {"data": {"text/html": "<p>x"}})
    assert note == "an output of cell 2 is not read: a page whose reader crashed"


def test_code_in_a_page_keeps_its_indentation(tmp_path):
    (tmp_path / "a.html").write_text("<pre><code>def f():\n    if x:\n        return 1\n</code></pre>")
    assert "def f():\n    if x:\n        return 1" in read([tmp_path / "a.html"])["a.html"]


def test_a_database_with_a_log_is_read_and_the_log_is_told(tmp_path):
    import sqlite3

    database = sqlite3.connect(tmp_path / "a.db")
    database.execute("pragma journal_mode=wal")
    database.execute("create table t (a)")
    database.execute("insert into t values ('hi')")
    database.commit()
    database.close()
    corpus = read([tmp_path / "a.db"])
    assert corpus["a.db"] == "=== t ===\na\nhi\n"
    assert "-wal" in corpus.documents[0].note


def test_a_sentence_with_from_begins_no_message_of_an_mbox(tmp_path):
    posted = "From a@b Mon Jan  1 00:00:00 2024\nSubject: plan\nFrom: a@b\n\nDear all,\n"
    body = "From Monday we move.\nAddress: Main St 5\n\nFrom June we pay.\nRent: 950\nbye\n\n"
    (tmp_path / "box.mbox").write_text(posted + body + posted.replace("plan", "other"))
    corpus = read([tmp_path / "box.mbox"])
    assert len(corpus) == 2
    assert body.strip() in corpus.documents[0].text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"one\n\n", b"one\n"),
        lambda data: b"\n" + data,
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: data.replace(b"\n", b"\r\n"),
    ],
)
def test_a_mailbox_of_sloppy_programs_is_read_message_by_message(tmp_path, change):
    message = b"From a@b.c Mon Jan  1 00:00:00 2024\nFrom: a@b.c\nSubject: %s\n\nbody %s\n\n"
    (tmp_path / "box").write_bytes(change(message % (b"x", b"one") + message % (b"y", b"two")))
    corpus = read([tmp_path / "box"])
    assert [corpus[name].split() for name in corpus.names] == [
        ["From:", "a@b.c", "Subject:", "x", "body", "one"],
        ["From:", "a@b.c", "Subject:", "y", "body", "two"],
    ]


def test_a_text_that_begins_with_from_is_no_mbox(tmp_path):
    (tmp_path / "a.txt").write_text("From here: the plan\nNote: bring water\n")
    assert read([tmp_path / "a.txt"])["a.txt"] == "From here: the plan\nNote: bring water\n"


def test_a_mail_whose_plain_text_is_a_stub_is_read_from_its_page_too(tmp_path):
    message = EmailMessage()
    message["Subject"], message["Reply-To"], message["Bcc"] = "Order", "desk@example.org", "boss@example.org"
    message.set_content("Please view this message in an HTML capable client.")
    message.add_alternative(f"<p>Your code is 998877.</p><p>{'It is valid today. ' * 20}</p>", subtype="html")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    corpus = read([tmp_path / "a.eml"])
    text = corpus["a.eml"]
    assert "Please view" in text
    assert "Your code is 998877" in text
    assert "Reply-To: desk@example.org" in text
    assert "Bcc: boss@example.org" in text
    assert "much shorter than the page" in corpus.problems[0].reason


def test_a_mail_whose_plain_text_says_the_same_as_its_page_is_read_once(tmp_path):
    message = EmailMessage()
    message.set_content("Your code is 998877")
    message.add_alternative(
        "<style>p {color: red; margin: 0; padding: 0}</style><p>Your code is 998877</p>", subtype="html"
    )
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    assert read([tmp_path / "a.eml"])["a.eml"].count("998877") == 1
