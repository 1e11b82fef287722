"""Documents to text: each kind with its pages, broken or hostile ones with a reason, cached by content."""

import gzip
import io
import json
import os
import re
import signal
import sqlite3
import sys
import textwrap
import time
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

import documents
from rlm_dspy import safe_files
from rlm_dspy.corpus import Corpus, document_cache, read
from rlm_dspy.corpus.readers import archives, choosing, converter, office
from rlm_dspy.corpus.readers.office import pdf, request_loop
from rlm_dspy.corpus.readers.reader import Converted, Reader, UnreadableError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path / "home"))


def corpus_of(tmp_path: Path, name: str, data: bytes | str, **options) -> Corpus:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    (folder / "other.txt").write_text("other")
    return read([folder], **options)


def reason(corpus: Corpus, name: str) -> str:
    return next(one.reason for one in corpus.skipped if one.name == name)


# Kinds


def test_a_pdf_keeps_its_pages(tmp_path):
    corpus = corpus_of(tmp_path, "a.pdf", documents.pdf(["The first page.", "The second page."]))
    assert corpus["a.pdf"] == "The first page.\nThe second page.\n"
    assert [corpus.place("a.pdf", line) for line in (1, 2)] == ["page 1", "page 2"]


def test_a_word_document_keeps_headings_and_tables(tmp_path):
    assert corpus_of(tmp_path, "a.docx", documents.word())["a.docx"].splitlines() == [
        "# Terms", "The notice period is ninety days.", "Deposit\t1200 EUR", "Rent\tmonthly 800 EUR",
    ]  # fmt: skip


def test_a_presentation_keeps_slides_and_notes(tmp_path):
    corpus = corpus_of(tmp_path, "a.pptx", documents.slides())
    assert corpus["a.pptx"] == "Opening\nRevenue grew by 14 percent\nGrouped\nNotes: Mention Denmark.\n"
    assert corpus.place("a.pptx", 3) == "slide 2"


def test_a_workbook_keeps_sheets_and_rows(tmp_path):
    corpus = corpus_of(tmp_path, "a.xlsx", documents.sheet())
    assert corpus["a.xlsx"] == "=== Sales ===\nregion\tsum\nnorth\t10\nsouth\t20\n"
    assert corpus.place("a.xlsx", 4) == "sheet Sales row 3"


def test_a_workbook_that_understates_its_size_is_read_whole(tmp_path):
    with zipfile.ZipFile(io.BytesIO(documents.sheet())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    small = re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', files["xl/worksheets/sheet1.xml"])
    assert small != files["xl/worksheets/sheet1.xml"]
    data = documents.packed(files | {"xl/worksheets/sheet1.xml": small})
    assert corpus_of(tmp_path, "a.xlsx", data)["a.xlsx"] == "=== Sales ===\nregion\tsum\nnorth\t10\nsouth\t20\n"


def test_html_is_what_is_seen_of_it(tmp_path):
    page = """<html><head><title>Shop &amp; Co</title><style>p {color: red}</style></head><body>
    <script>alert("x")</script><h2>Prices</h2><p>Tea   costs
    3&nbsp;euros.</p><ul><li>one<li>two</ul><!-- hidden --><noscript>no</noscript><svg><p>t</p></svg></body>"""
    text = corpus_of(tmp_path, "a.html", page)["a.html"]
    assert text == "Shop & Co\n\n## Prices\n\nTea costs 3 euros.\n\n- one\n- two\n"


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        ("<html><head><title>T</title><meta charset=utf-8><body><p>one", "T\n\none\n"),
        ("<head><link rel=x><p>one</p><p>two", "one\n\ntwo\n"),
        ("<head><script>x()</script>one <b>two</b>", "one two\n"),
        ("<head><noscript><p>no</p></noscript><title>T</title></head>one", "T\none\n"),
        ("<p>a</p><p hidden>b</p><p>c</p>", "a\n\nc\n"),
        ("<div>a<span style='color: red; Display : none'>b<i>c</i></span>d</div>", "ad\n"),
        ("<div><div hidden><div>a</div><li>b<br>c</div>d</div>", "d\n"),
        ("<ul><li>a<li hidden>b<li>c</ul><p hidden>d<p>e", "- a\n- c\n\ne\n"),
        ("<table><tr><td>a<td hidden>b<td>c<tr hidden><td>d<tr><td>e</table>", "\ta \tc\n\te\n"),
        ("<input hidden>a<br hidden>b<img style='display:none'>c", "a\nbc\n"),
        ("<body style='display:none'>a<div><object>b</div>c</b>", "a\n\nc\n"),
        ("<pre>a  b</pre>c  d", "a  b\nc d\n"),
    ],
)
def test_html_that_is_sloppy_or_hides_something(page, seen):
    assert office.answer("html", page.encode())["text"] == seen


@pytest.mark.parametrize("page", ["<a b='" * 20_000, "<!--" * 100_000, "<object>" * 20_000 + "</b>" * 20_000])
def test_a_page_that_was_made_to_be_slow_costs_this_process_nothing(tmp_path, monkeypatch, page):
    one = converter.Converter(seconds=1)
    monkeypatch.setattr(converter, "shared", lambda: one)
    before = time.thread_time()
    corpus = corpus_of(tmp_path, "a.html", "<p>seen</p>" + page)
    assert time.thread_time() - before < 4
    assert "a.html" in corpus.names or "a page whose reader gave up" in reason(corpus, "a.html")
    one.close()


def test_a_page_of_many_tags_is_read_in_a_moment():
    before = time.thread_time()
    assert office.answer("html", b"<object>" * 50_000 + b"</b>" * 50_000)["error"] == "no text in it"
    assert time.thread_time() - before < 10


@pytest.mark.parametrize("charset", ["unicode_escape", "raw-unicode-escape", "undefined", "utf-16", "idna", "utf-7"])
def test_an_encoding_that_the_page_cannot_have_is_not_believed(tmp_path, charset):
    page = f"<meta charset={charset}><p>caf\u00e9 +AGE- \\ud800 xn--4ca.x"
    assert corpus_of(tmp_path, "a.html", page)["a.html"] == "caf\u00e9 +AGE- \\ud800 xn--4ca.x\n"


def test_html_in_its_declared_encoding(tmp_path):
    page = '<meta charset="windows-1251"><p>Привет</p>'.encode("cp1251")
    assert corpus_of(tmp_path, "a.html", page)["a.html"] == "Привет\n"


def test_a_notebook_is_its_cells_and_their_output(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": "2"}}]},
    ]
    corpus = corpus_of(tmp_path, "a.ipynb", json.dumps({"cells": cells}))
    assert corpus["a.ipynb"] == "# Title\ntext\n\n```python\n1 + 1\n```\nOutput:\n2\n\n"
    assert corpus.place("a.ipynb", 5) == "cell 2"


def test_a_notebook_names_its_language_and_has_no_lone_surrogates(tmp_path):
    cells = [{"cell_type": "code", "source": "x <- '\ud800'", "outputs": [{"text": "\udfff"}]}]
    for metadata in ({"kernelspec": {"language": "R"}}, {"language_info": {"name": "R"}}):
        notebook = json.dumps({"cells": cells, "metadata": metadata})
        assert corpus_of(tmp_path, "a.ipynb", notebook)["a.ipynb"] == "```r\nx <- '?'\n```\nOutput:\n?\n\n"
    for metadata in (None, {"language_info": None, "kernelspec": {"language": "a b"}}, {"language_info": {"name": 3}}):
        notebook = json.dumps({"cells": cells, "metadata": metadata})
        assert corpus_of(tmp_path, "a.ipynb", notebook)["a.ipynb"].startswith("```python\n")


def test_an_email_in_html_is_read_in_its_own_encoding(tmp_path):
    mail = EmailMessage()
    mail.set_content("<meta charset=iso-8859-1><p>Gr\u00fc\u00dfe", subtype="html", charset="iso-8859-1")
    assert corpus_of(tmp_path, "a.eml", mail.as_bytes())["a.eml"].strip() == "Gr\u00fc\u00dfe"


def test_an_email_of_which_the_page_cannot_be_read_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "PROGRAM", tmp_path / "none.py")
    one = converter.Converter(tmp_path / "none.py")
    monkeypatch.setattr(converter, "shared", lambda: one)
    mail = EmailMessage()
    mail["Subject"] = "Hello"
    mail.set_content("<p>text", subtype="html")
    corpus = corpus_of(tmp_path, "a.eml", mail.as_bytes())
    assert corpus["a.eml"].startswith("Subject: Hello")
    assert "crashed" in reason(corpus, "a.eml/body.html")


def test_forwarded_messages_and_nested_attachments_are_read(tmp_path):
    corpus = corpus_of(tmp_path, "a.eml", documents.forwarded())
    assert set(corpus.names) == {"other.txt", "a.eml", "a.eml/sums.csv", "a.eml/message.eml"}
    assert corpus["a.eml"] == "From: ann@example.org\nSubject: Fwd: Offer\n\nSee below.\n"
    assert "Subject: Offer\n\nThe offer is 4711 euros." in corpus["a.eml/message.eml"]


def test_an_email_that_is_nothing_but_a_document_is_read(tmp_path):
    mail = EmailMessage()
    mail.set_content(documents.pdf(["The scan."]), maintype="application", subtype="pdf")
    assert corpus_of(tmp_path, "a.eml", mail.as_bytes())["a.eml/attachment-1"] == "The scan.\n"


def test_an_email_is_read_with_its_attachments(tmp_path):
    corpus = corpus_of(tmp_path, "a.eml", documents.message())
    assert "Subject: Contract\n\nSee the attachment." in corpus["a.eml"]
    assert corpus["a.eml/lease.pdf"] == "The rent is 950 euros.\n"


def test_compressed_files_are_read_inside(tmp_path):
    corpus = corpus_of(tmp_path, "app.log.gz", gzip.compress(b"started\n", mtime=0))
    assert corpus["app.log.gz/app.log"] == "started\n"
    inside = {"a/b.md": b"# B", "c.docx": documents.word(), ".env": b"KEY=1", "x.bin": b"\0\1"}
    corpus = corpus_of(tmp_path, "z.zip", documents.packed(inside))
    assert {"z.zip/a/b.md", "z.zip/c.docx"} <= set(corpus.names)
    assert reason(corpus, "z.zip/.env") == "looks like a secret"
    assert reason(corpus, "z.zip/x.bin") == "binary"


def test_kinds_are_told_by_name():
    kinds = [choosing.kind_of(name) for name in ("a.md", "b/c.CSV", "d.jsonl", "e", "f.log")]
    assert kinds == ["markdown", "csv", "jsonl", "text", "log"]


# Broken and hostile


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.pdf", b"%PDF-1.7\ngarbage", "a broken PDF"),
        ("a.pdf", documents.pdf(["secret"], password="x"), "an encrypted PDF"),
        ("a.pdf", documents.pdf([" "]), "no text in it"),
        ("a.docx", b"PK\x03\x04broken", "a broken ZIP archive"),
        ("a.docx", documents.packed({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}), "broken"),
        ("a.gz", gzip.compress(b"x" * 1000, mtime=0)[:-20], "broken"),
        ("a.ipynb", b"{}", "a broken notebook"),
    ],
)
def test_what_is_broken_is_skipped_with_one_reason(tmp_path, name, data, why):
    corpus = corpus_of(tmp_path, name, data)
    assert corpus.names == ("other.txt",)
    assert reason(corpus, name).startswith(why)


def test_a_bomb_is_not_unpacked(tmp_path):
    bomb = b"\0" * 60_000_000
    corpus = corpus_of(tmp_path, "a.gz", gzip.compress(bomb))
    assert "zip bomb" in reason(corpus, "a.gz")
    corpus = corpus_of(tmp_path, "b.zip", documents.packed({"x.txt": bomb}))
    assert "zip bomb" in reason(corpus, "b.zip/x.txt")
    corpus = corpus_of(tmp_path, "c.docx", documents.packed({"[Content_Types].xml": bomb, "word/document.xml": b""}))
    assert "zip bomb" in reason(corpus, "c.docx")


def test_archives_in_archives_end_somewhere(tmp_path):
    data = b"deep"
    for _ in range(6):
        data = documents.packed({"in.zip": data})
    corpus = corpus_of(tmp_path, "a.zip", data)
    assert any("archive nested in two others" in one.reason for one in corpus.skipped)


def test_an_archive_of_many_files_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    corpus = corpus_of(tmp_path, "a.zip", documents.packed({f"{n}.txt": b"x" for n in range(5)}))
    assert len(corpus) == 3
    assert "3 more files" in reason(corpus, "a.zip/…")


def test_a_long_document_is_cut_at_the_same_place_everywhere_and_says_so(monkeypatch):
    monkeypatch.setattr(request_loop, "MOST_CHARS", 3)
    assert office.answer("pptx", documents.slides())["note"] == "cut after slide 1: it has more than 3 characters"
    monkeypatch.setattr(pdf, "MOST_CHARS", 5)
    made = office.answer("pdf", documents.pdf(["one", "two", "three"]))
    assert (made["text"], made["note"]) == ("one\n", "cut after page 1: it has more than 3 characters")


def test_a_text_that_was_cut_because_time_ran_out_is_not_kept():
    kept = document_cache.ConversionCache()
    texts = iter((Converted("cut", late=True), Converted("whole"), Converted("never asked for")))
    asked = [kept.converted(Reader("x", str, "1"), b"x", lambda: next(texts)).text for _ in range(3)]
    assert asked == ["cut", "whole", "whole"]
    kept.close()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    assert office.answer("pdf", b"") == {"missing": "pypdfium2"}
    reader = converter.Converter()
    monkeypatch.setattr(reader, "_asked", lambda *request: {"missing": "pypdfium2"})
    with pytest.raises(UnreadableError, match="a PDF: to read it, pip install pypdfium2"):
        reader.convert("pdf", b"")


@pytest.mark.parametrize("spend", ["while True: pass", "(b'a' * 200_000) .count(b'a' * 99_999 + b'b'); " * 10_000])
def test_what_a_document_may_cost_is_time_of_a_processor(tmp_path, spend):
    script = tmp_path / "hanging.py"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))"
    script.write_text(f"{limit}\n{spend}")
    one = converter.Converter(script, seconds=60)
    with pytest.raises(UnreadableError, match="more than 60 s of a processor"):
        one.convert("pdf", b"x")


def test_the_program_limits_the_processor_for_each_document(monkeypatch):
    asked = []
    monkeypatch.setattr("resource.setrlimit", lambda what, limits: asked.append(limits[0]))
    request_loop._limit_time(5)
    request_loop._limit_time(0)
    assert [limit - int(time.process_time()) in (5, 6) for limit in asked] == [True]


@pytest.mark.parametrize(
    ("program", "why"),
    [("import time; time.sleep(60)", "more than 1 s"), ("import os; os._exit(3)", "crash"), ("print()", "gave|crash")],
)
def test_a_reader_that_hangs_or_dies_costs_one_document(tmp_path, program, why):
    script = tmp_path / "bad.py"
    script.write_text(program)
    one = converter.Converter(script, seconds=1, patience=1)
    with pytest.raises(UnreadableError, match=why):
        one.convert("pdf", b"x" * 200_000)
    one._program = converter.PROGRAM
    assert "page" in one.convert("pdf", documents.pdf(["a page"])).text
    one.close()


def test_after_an_interrupt_the_next_document_gets_its_own_text(tmp_path, monkeypatch):
    script = tmp_path / "interrupting.py"
    script.write_text(
        textwrap.dedent("""
            import json, os, signal, sys, time
            for line in sys.stdin.buffer:
                text = sys.stdin.buffer.read(json.loads(line)["size"]).decode()
                body = json.dumps({"text": text, "marks": [], "note": "", "late": False}).encode()
                if text == "first":
                    os.kill(os.getppid(), signal.SIGINT)
                    time.sleep(5)
                sys.stdout.buffer.write(b"%d\\n" % len(body) + body)
                sys.stdout.buffer.flush()
        """)
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    one = converter.Converter(script)
    try:
        with pytest.raises(KeyboardInterrupt):
            one.convert("pdf", b"first")
        assert one.convert("pdf", b"second").text == "second"
    finally:
        signal.signal(signal.SIGINT, before)
        one.close()


def test_many_open_files_are_no_matter():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2_000:
        pytest.skip("no more than 1,024 files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2_000, hard))
    held: list[int] = []
    one = converter.Converter()
    try:
        while not held or held[-1] < 1_024:
            held.append(os.open(os.devnull, os.O_RDONLY))
        assert one.convert("pdf", documents.pdf(["a page"])).text == "a page\n"
    finally:
        one.close()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Third parties


def test_a_third_partys_reader_is_found_by_entry_point(tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[rlm_dspy.readers]\nfoo = theirs:read_foo\nbad = theirs:fail\ngone = theirs:nothing\n"
    )
    (site / "theirs.py").write_text(
        textwrap.dedent("""
            def read_foo(data, name):
                return data.decode().upper()
            def fail(data, name):
                raise KeyError("oops")
        """)
    )
    monkeypatch.syspath_prepend(site)
    choosing._installed_readers.cache_clear()
    try:
        assert corpus_of(tmp_path, "a.foo", "text")["a.foo"] == "TEXT"
        assert "KeyError" in reason(corpus_of(tmp_path, "a.bad", "text"), "a.bad")
        assert "cannot be loaded" in reason(corpus_of(tmp_path, "a.gone", "text"), "a.gone")
    finally:
        choosing._installed_readers.cache_clear()


# The cache


def test_a_document_is_converted_once(tmp_path, monkeypatch):
    data = documents.pdf(["kept"])
    first = corpus_of(tmp_path, "a.pdf", data)
    monkeypatch.setattr(converter.Converter, "convert", lambda *_: pytest.fail("converted again"))
    second = corpus_of(tmp_path, "a.pdf", data)
    assert second.documents == first.documents
    assert second.place("a.pdf", 1) == "page 1"
    assert (safe_files.cache_folder() / "documents").stat().st_mode & 0o777 == 0o700


def test_a_changed_document_is_converted_anew(tmp_path):
    corpus_of(tmp_path, "a.pdf", documents.pdf(["old"]))
    assert corpus_of(tmp_path, "a.pdf", documents.pdf(["new"]))["a.pdf"] == "new\n"


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
def test_without_a_usable_cache_folder_reading_goes_on(tmp_path, monkeypatch, home):
    monkeypatch.setenv("RLM_DSPY_HOME", home)
    assert corpus_of(tmp_path, "a.pdf", documents.pdf(["kept"]))["a.pdf"] == "kept\n"


def test_a_damaged_cache_is_no_harm(tmp_path, monkeypatch):
    data = documents.pdf(["kept"])
    corpus_of(tmp_path, "a.pdf", data)
    for file in (safe_files.cache_folder() / "documents").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    assert corpus_of(tmp_path, "a.pdf", data)["a.pdf"] == "kept\n"


def test_nothing_in_the_cache_is_unpickled(tmp_path):
    data = documents.pdf(["kept"])
    corpus_of(tmp_path, "a.pdf", data)
    trap = f"cos\nmkdir\n(V{tmp_path / 'trapped'}\ntR.".encode()
    with sqlite3.connect(safe_files.cache_folder() / "documents" / "cache.db") as db:
        assert db.execute("update Cache set mode = 4, filename = null, value = ?", (trap,)).rowcount == 1
    db.close()
    assert corpus_of(tmp_path, "a.pdf", data)["a.pdf"] == "kept\n"
    assert not (tmp_path / "trapped").exists()


def test_the_cache_folder_follows_the_platform(monkeypatch):
    for name in ("RLM_DSPY_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    for platform, folder in (("linux", "/h/.cache/rlm-dspy"), ("darwin", "/h/Library/Caches/rlm-dspy")):
        monkeypatch.setattr(sys, "platform", platform)
        assert safe_files.cache_folder() == Path(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert safe_files.cache_folder() == Path("/x/rlm-dspy")


def test_converted_values_are_plain():
    assert Converted("a").marks == ()


# The program that converts, run here


def test_each_office_kind_is_converted_by_the_program():
    made = {kind: office.answer(kind, data) for kind, data in (
        ("docx", documents.word()), ("pptx", documents.slides()), ("xlsx", documents.sheet()),
    )}  # fmt: skip
    assert made["docx"]["text"].startswith("# Terms\n")
    assert made["pptx"]["marks"] == [(1, "slide 1", False), (2, "slide 2", False)]
    assert made["xlsx"]["marks"] == [(1, "sheet Sales", False), (2, "sheet Sales row", True)]
    assert office.answer("xlsx", b"no archive")["error"].startswith("broken: BadZipFile")
    assert office.answer("pdf", documents.pdf(["x"], password="p")) == {"error": "an encrypted PDF"}


def test_the_program_answers_until_its_input_ends(monkeypatch):
    data = documents.pdf(["one page"])
    request = json.dumps({"kind": "pdf", "size": len(data)}).encode() + b"\n" + data
    asked, told = io.TextIOWrapper(io.BytesIO(request * 2)), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", asked)
    monkeypatch.setattr(sys, "stdout", told)
    monkeypatch.setattr("resource.setrlimit", lambda *limits: None)
    office.main()
    lines = told.buffer.getvalue().split(b"\n")
    assert json.loads(lines[1][: int(lines[0])])["text"] == "one page\n"


def test_html_that_is_very_long_keeps_its_markup(tmp_path, monkeypatch):
    monkeypatch.setattr("rlm_dspy.corpus.readers.markup._MAX_HTML_BYTES", 10)
    assert corpus_of(tmp_path, "a.html", "<p>text text text</p>")["a.html"] == "<p>text text text</p>"


@pytest.mark.parametrize("ending", ["bz2", "xz"])
def test_other_compressions_are_read_too(tmp_path, ending):
    import bz2
    import lzma

    data = {"bz2": bz2, "xz": lzma}[ending].compress(b"inside\n")
    assert corpus_of(tmp_path, f"a.txt.{ending}", data)[f"a.txt.{ending}/a.txt"] == "inside\n"
    assert reason(corpus_of(tmp_path, f"b.txt.{ending}", data[:9]), f"b.txt.{ending}").startswith("broken")
    noise = "".join(f"{n * 7919 % 100_003} " for n in range(200_000)) + "\n"
    cut = {"bz2": bz2, "xz": lzma}[ending].compress(noise.encode())
    read_back = corpus_of(tmp_path, f"c.txt.{ending}", cut[:-1_000])
    document = next(one for one in read_back.documents if one.name.startswith("c.txt"))
    assert noise.startswith(document.text)
    assert len(document.text) > 1_000
    assert "cut off or damaged" in document.note


def test_the_texts_of_a_drawing_in_a_page_are_read(tmp_path):
    drawing = "<title>Sales</title><desc>By month</desc><style>b {}</style><g><text>Jan <tspan>950</tspan></text></g>"
    shown = f"<svg><defs><text>unused</text></defs>{drawing}</svg>"
    page = f"<p>Chart:</p>{shown}<svg hidden><text>gone</text></svg><p>end</p>"
    text = corpus_of(tmp_path, "a.html", page.encode())["a.html"]
    assert text.split() == ["Chart:", "Sales", "By", "month", "Jan", "950", "end"]


NOTICE = EmailMessage()
NOTICE["From"], NOTICE["Message-ID"] = "a@b.c", "<1@x>"
NOTICE.set_content("the code is 4711 ü", cte="base64")
CELLS = json.dumps({"cells": [{"cell_type": "markdown", "source": "# Code 4711"}], "metadata": {}, "nbformat": 4})
PAGE = "<!doctype html><script>1111</script><p>The <b>co</b>de is 4711"


@pytest.mark.parametrize("name", ["page", "text", "page.php", "report.xls", "1700.M1P2.host:2,S", "a.bak"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PAGE.encode(), "html"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a - b -->\n<html><body>The <b>co</b>de is 4711", "html"),
        (PAGE.encode("utf-16"), "html"),
        (CELLS.encode(), "notebook"),
        (NOTICE.as_bytes(), "e-mail"),
        (b"From: a@b.c\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nX-Spam: 9\n\nThe code is 4711\n", "e-mail"),
    ],
)
def test_pages_mails_and_notebooks_are_told_by_their_content(tmp_path, name, data, kind):
    corpus = corpus_of(tmp_path, name, data)
    assert corpus[name].rstrip().endswith(("ode is 4711", "Code 4711", "ode is 4711 ü"))
    assert "1111" not in corpus[name]
    assert {one.kind for one in corpus.documents} == {kind, "text"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", PAGE),
        ("a.vue", PAGE),
        ("mail.txt", NOTICE.as_string()),
        ("a.json", CELLS),
        ("index.php", "<html><?php echo 1 ?></html>"),
        ("notes", "From: Bob\nDate: Monday\nInvoice: 55\n\nx\n"),
        ("notes", "From: Bob\nDate: Mon, 1 Jan 2024\nthen a sentence\n"),
        ("settings", '{"cells": 3}'),
        ("page", "<p>a <html>"),
        ("page.d", "<html>a"),
    ],
)
def test_texts_and_sources_are_read_as_written(tmp_path, name, text):
    assert corpus_of(tmp_path, name, text)[name] == text


def test_content_decides_on_standard_input_and_in_archives(tmp_path):
    assert "1111" not in read("-", stdin=io.BytesIO(PAGE.encode()))["stdin"]
    assert "1111" not in corpus_of(tmp_path, "page.gz", gzip.compress(PAGE.encode()))["page.gz/page"]


@pytest.mark.parametrize("name", ["12.emlx", "12"])
def test_a_message_of_apple_mail_is_read_without_its_length_and_its_flags(tmp_path, name):
    body = NOTICE.as_bytes()
    text = corpus_of(tmp_path, name, b"%d     \n" % len(body) + body + b"<?xml version='1.0'?><plist/>")[name]
    assert text == "From: a@b.c\n\nthe code is 4711 ü\n"


def test_an_opendocument_drawing_is_read(tmp_path):
    names = 'xmlns:o="urn:o" xmlns:d="urn:d" xmlns:t="urn:t"'
    page = "<d:page><d:custom-shape><t:p>Pump 4711</t:p></d:custom-shape></d:page>"
    parts = {
        "mimetype": b"application/vnd.oasis.opendocument.graphics",
        "content.xml": f"<o:document {names}><o:body><o:drawing>{page}</o:drawing></o:body></o:document>".encode(),
    }
    corpus = corpus_of(tmp_path, "a.odg", documents.packed(parts))
    assert "Pump 4711" in corpus["a.odg"]
    assert corpus.place("a.odg", 1) == "page 1"
