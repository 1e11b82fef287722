"""Texts too large for one value are split into parts that keep the line numbers of the file."""

import os
import random

import pytest

from rlm_dspy.corpus import collecting, read
from rlm_dspy.evidence import Evidence, check
from rlm_dspy.sandbox import Sandbox


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(collecting, "MAX_VALUE_BYTES", 1000)
    monkeypatch.setattr(collecting, "PART_BYTES", 400)


def lines(many, word="line"):
    return "".join(f"{word} {number}\n" for number in range(1, many + 1))


def test_a_large_text_is_read_in_parts_that_end_with_a_line(tmp_path):
    (tmp_path / "a.log").write_text(lines(300))
    (tmp_path / "b.log").write_text("small")
    corpus = read([tmp_path])
    parts = [name for name in corpus.names if name.startswith("a.log/part-")]
    assert parts[0] == "a.log/part-1"
    assert {name for name in corpus.names if name not in parts} == {"b.log"}
    assert "".join(corpus[name] for name in sorted(parts, key=lambda n: int(n.rpartition("-")[2]))) == lines(300)
    assert all(corpus[name].endswith("\n") and len(corpus[name]) <= 410 for name in parts)


def test_the_places_in_a_part_are_the_lines_of_the_file(tmp_path):
    (tmp_path / "a.log").write_text(lines(300))
    corpus = read([tmp_path])
    with Sandbox(main="context") as sandbox:
        code = "print([(m['text'], m['place']) for m in grep(r'line 2.7$', source='a.log')][3])"
        assert sandbox.run(code, {"context": corpus}).stdout == "('line 237', 'line 237')\n"
    (found,), _ = check([Evidence(quote="line 237")], {"context": corpus})
    assert found.where.startswith("a.log/part-")
    assert found.where.endswith(":line 237")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("broken", [True, False], ids=["lines", "one line"])
def test_no_character_is_cut_in_two(tmp_path, encoding, broken):
    chance = random.Random(1)
    text = "".join(chance.choice("aé€😀ਊ" + "\n" * broken) for _ in range(3000))
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.txt").write_bytes((bom + text).encode(encoding))
    corpus = read([tmp_path])
    assert len(corpus) > 3
    assert not any(document.note for document in corpus.documents)
    parts = sorted(corpus.names, key=lambda name: int(name.rpartition("-")[2]))
    assert "".join(corpus[name] for name in parts) == text


def test_each_part_is_decoded_as_it_needs(tmp_path):
    (tmp_path / "a.txt").write_bytes(lines(60, "Größe").encode() + lines(100, "Größe").encode("cp1252"))
    texts = dict(read([tmp_path]).items())
    assert "Größe 60\n" in "".join(texts.values())
    assert "Größe 100\n" in "".join(texts.values())


def test_what_is_no_text_is_not_cut(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0" * 2000)
    (tmp_path / "b.html").write_text("<p>" + "word " * 400 + "</p>")
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n" + "x" * 2000)
    corpus = read([tmp_path])
    assert corpus.names == ("b.html",)
    assert {one.name: one.reason for one in corpus.skipped} == {"a.bin": "binary", "id": "has a private key"}


def test_the_rest_of_a_large_text_is_told_when_a_limit_is_reached(tmp_path):
    (tmp_path / "a.log").write_text(lines(300))
    corpus = read([tmp_path], max_files=2)
    (told,) = corpus.skipped
    before = sum(document.lines for document in corpus.documents)
    assert len(corpus) == 2
    assert told.reason.endswith(f"of 2 files (max_files raises it), as is what follows line {before} of a.log")


def test_a_file_that_grows_while_it_is_read_ends_where_it_ended(tmp_path, monkeypatch):
    (tmp_path / "a.log").write_text(lines(300))
    plain = collecting.File.read

    def grow(self, most):
        with open(tmp_path / "a.log", "a") as file:
            file.write(lines(100, "new"))
        return plain(self, most)

    monkeypatch.setattr(collecting.File, "read", grow)
    assert read([tmp_path]).chars == len(lines(300))


@pytest.fixture
def meddle(monkeypatch):
    """Let something happen after the first bytes of a file were read, as another process may."""

    def after_first_read(act):
        plain_read, done = os.read, []

        def read_then_act(descriptor, size):
            data = plain_read(descriptor, size)
            if not done:
                done.append(True)
                act()
            return data

        monkeypatch.setattr(os, "read", read_then_act)

    return after_first_read


def append_line(path):
    with path.open("a") as file:
        file.write("one more\n")


def problems(corpus):
    return [str(one) for one in corpus.problems]


def test_a_text_in_parts_that_shrinks_while_it_is_read_is_told(tmp_path, meddle):
    path = tmp_path / "a.log"
    path.write_text(lines(300))
    size = path.stat().st_size
    meddle(lambda: os.truncate(path, 500))
    corpus = read([path])
    assert sum(document.size for document in corpus.documents) == 500
    told = f"a.log/part-{len(corpus) + 1}: not read: a.log changed while it was read: 500 of {size:,} bytes"
    assert problems(corpus) == [told]


def test_a_text_in_parts_that_grows_while_it_is_read_is_told(tmp_path, meddle):
    path = tmp_path / "a.log"
    path.write_text(lines(300))
    size = path.stat().st_size
    meddle(lambda: append_line(path))
    corpus = read([path])
    assert sum(document.chars for document in corpus.documents) == size
    (told,) = problems(corpus)
    assert told.endswith(f"a.log changed while it was read: {size:,} of {size + 9:,} bytes")


def test_a_small_file_that_grows_while_it_is_read_is_told(tmp_path, meddle):
    path = tmp_path / "a.md"
    path.write_text("The captain is Ada.\n")
    meddle(lambda: append_line(path))
    corpus = read([tmp_path])
    assert corpus["a.md"] == "The captain is Ada.\n"
    assert problems(corpus) == ["a.md: changed while it was read: 20 of 29 bytes"]


def test_a_small_file_that_is_emptied_before_it_is_read_is_told(tmp_path, monkeypatch):
    path = tmp_path / "a.md"
    path.write_text("The captain is Ada.\n")
    (tmp_path / "b.md").write_text("text")
    plain_read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: os.truncate(path, 0) or plain_read(descriptor, size))
    assert problems(read([tmp_path])) == ["a.md: not read: changed while it was read: 0 of 20 bytes"]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_files_of_the_system_that_state_another_size_have_not_changed():
    assert problems(read(["/proc/self/status"])) == []
