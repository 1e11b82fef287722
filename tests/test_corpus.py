"""Reading files, folders, globs and standard input into a corpus."""

import io
import logging
import os
import socket
from pathlib import Path

import pytest

from rlm_dspy.corpus import read, reading
from rlm_dspy.errors import ConfigurationError, CorpusError


@pytest.fixture
def make(tmp_path):
    """Write files below a folder and return it."""

    def write(files, folder="project"):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return write


def reasons(corpus):
    return {one.name: one.reason for one in corpus.skipped}


# Names


def test_names_are_relative_to_the_folder_and_sorted(make):
    corpus = read([make({"b.py": "b", "a/z.py": "z", "a.py": "a"})])
    assert corpus.names == ("a.py", "a/z.py", "b.py")
    assert corpus["a/z.py"] == "z"


def test_several_roots_keep_their_names_apart(make, monkeypatch):
    root = make({"src/x.py": "1", "tests/x.py": "2", "README.md": "3"})
    monkeypatch.chdir(root)
    assert read(["src", "tests/", "./README.md"]).names == ("README.md", "src/x.py", "tests/x.py")


def test_absolute_paths_never_appear_in_names(make, tmp_path):
    one, two = make({"x.py": "1"}, "one"), make({"x.py": "2"}, "two")
    corpus = read([one / "x.py", two / "x.py"])
    assert corpus.names == ("two/x.py", "x.py")
    assert not any(str(tmp_path) in name for name in corpus.names)


def test_names_that_still_clash_are_numbered(make, monkeypatch):
    root = make({"stdin": "1"})
    monkeypatch.chdir(root)
    assert read(["stdin", "-"], stdin=io.BytesIO(b"2")).names == ("stdin", "stdin~2")


def test_what_is_named_twice_is_read_once(make, monkeypatch):
    monkeypatch.chdir(make({"a/x.py": "1"}))
    assert read(["a", "a/x.py", "a/../a/x.py", "a"]).names == ("a/x.py",)


def test_a_single_path_needs_no_list(make):
    assert len(read(make({"a.txt": "a"}))) == 1


def test_odd_file_names_are_rendered_safely(make):
    root = make({"line\nbreak.txt": "1"})
    with open(os.fsencode(root) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"2")
    assert read([root]).names == ("caf\\xe9.txt", "line\\nbreak.txt")


# Globs


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.py", ("a.py",)),
        ("**/*.py", ("a.py", "lib/b.py", "lib/deep/c.py")),
        ("lib/**/*.py", ("lib/b.py", "lib/deep/c.py")),
        ("lib/*", ("lib/b.py", "lib/deep/c.py")),
        ("[ab].*", ("a.md", "a.py")),
        ("./lib/?.py", ("lib/b.py",)),
    ],
)
def test_globs_are_expanded(make, monkeypatch, pattern, names):
    monkeypatch.chdir(make({"a.py": "1", "a.md": "2", "lib/b.py": "3", "lib/deep/c.py": "4", ".gitignore": "out\n"}))
    assert read([pattern]).names == names


def test_a_glob_honours_the_ignore_rules_and_a_file_with_its_name_goes_first(make, monkeypatch):
    monkeypatch.chdir(make({".gitignore": "out/", "out/a.py": "1", "b.py": "2", "[b].py": "3"}))
    assert read(["**/*.py"]).names == ("[b].py", "b.py")
    assert read(["[b].py"]).names == ("[b].py",)


# What is left out


def test_include_and_exclude_narrow_a_folder(make):
    root = make({"a.py": "1", "b.md": "2", "lib/c.py": "3", "old/d.py": "4", "uv.lock": "5"})
    assert read([root], include=["*.py"], exclude=["old/"]).names == ("a.py", "lib/c.py")
    assert read([root], include="*.lock").names == ("uv.lock",)
    assert read([root], exclude=["*", "!lib/", "!lib/**"]).names == ("lib/c.py",)
    assert read([root], exclude=["./lib/", "./a.py"]).names == read([root], exclude=["lib/", "a.py"]).names
    assert read([root], include=["./a.py"]).names == ("a.py",)
    for wrong in ({"include": ["!"]}, {"exclude": ["[a"]}):
        with pytest.raises(ConfigurationError, match="pattern"):
            read([root], **wrong)


def test_hidden_noise_and_binary_files_are_skipped_with_the_reason(make):
    files = {
        "a.py": "1", ".hidden": "2", ".git/config": "3", "x.bin": b"a\0b", "doc.pdf": b"%PDF-1.7\nabc", "none.txt": "",
        "package-lock.json": "{}", "app.min.js": "x", "node_modules/m/i.js": "y", "env/pyvenv.cfg": "", "env/b.py": "z",
        "controls.dat": bytes(range(1, 32)) * 9,
    }  # fmt: skip
    corpus = read([make(files)])
    assert corpus.names == ("a.py",)
    assert reasons(corpus) == {
        ".hidden": "hidden", ".git/": "hidden", "x.bin": "binary", "doc.pdf": "a broken PDF",
        "none.txt": "empty", "package-lock.json": "a lock file", "app.min.js": "minified",
        "node_modules/": "installed packages or caches", "env/": "a virtual environment", "controls.dat": "binary",
    }  # fmt: skip
    assert ".hidden" in read([make(files)], hidden=True).names
    assert not any(name.startswith(".git/") for name in read([make(files)], hidden=True).names)


SECRETS = [
    ".env", ".env.local", "prod.env", "server.pem", "server.KEY", "id_rsa", "id_ed25519", ".netrc", ".npmrc", ".pypirc",
    "credentials", "credentials.json", "secrets.yaml", ".git-credentials", "service-account-1.json", "main.tfvars",
    ".ssh/config", ".aws/config",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_not_read_unless_allowed(make, name):
    root = make({name: "token=1", "a.py": "1"})
    assert read([root], hidden=True).names == ("a.py",)
    assert reasons(read([root], hidden=True))[name] == "looks like a secret"
    assert name in read([root], hidden=True, secrets=True).names
    with pytest.raises(CorpusError, match="looks like a secret: it is read only if secrets are allowed"):
        read([root / name])
    assert len(read([root / name], secrets=True)) == 1


@pytest.mark.parametrize("name", [".env.example", "id_rsa.pub", "credentials.py", "keys.md", "environment.ts"])
def test_harmless_names_are_no_secrets(make, name):
    assert read([make({name: "x"})], hidden=True).names == (name,)


def test_a_private_key_is_known_by_its_content(make):
    corpus = read([make({"notes.txt": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc", "a.py": "1"})])
    assert reasons(corpus) == {"notes.txt": "has a private key"}


def test_a_link_to_a_secret_is_a_secret(make):
    root = make({"id_rsa": "1"})
    (root / "plain.txt").symlink_to(root / "id_rsa")
    with pytest.raises(CorpusError, match="secret"):
        read([root / "plain.txt"])


def test_named_files_are_read_though_hidden_or_ignored(make):
    root = make({".gitignore": "*.log\n", "a.log": "1", ".hidden": "2"})
    assert read([root / "a.log", root / ".hidden"]).names == (".hidden", "a.log")


def test_links_are_not_followed_and_cycles_do_no_harm(make, tmp_path):
    root = make({"a.py": "1", "sub/b.py": "2"})
    outside = make({"c.py": "3"}, "outside")
    (root / "sub/up").symlink_to(root)
    (root / "out").symlink_to(outside)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    corpus = read([root])
    assert corpus.names == ("a.py", "sub/b.py")
    assert sorted(reasons(corpus)) == ["gone", "out", "sub/up"]
    assert read([root / "out"]).names == ("c.py",), "a link that is named is followed"


def test_linked_folders_are_told_with_patterns_too(make, monkeypatch):
    root = make({"a.md": "1", "b.py": "2"})
    outside = make({"c.md": "3", "d.py": "4"}, "outside")
    (root / "docs").symlink_to(outside)
    (root / "d.py").symlink_to(outside / "d.py")
    told = {"docs": "a symbolic link: name it to read what it points to"}
    assert reasons(read([root], include=["*.md"])) == told
    monkeypatch.chdir(root.parent)
    assert reasons(read(["project/**/*.md"])) == {"project/docs": told["docs"]}
    assert read(["project/docs/*.md"]).names == ("project/docs/c.md",)


def test_pipes_and_sockets_are_skipped_without_waiting(make, monkeypatch):
    root = make({"a.py": "1"})
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        assert set(reasons(read([root])).values()) == {"not a regular file"}
    with pytest.raises(CorpusError, match="not a regular file"):
        read(["pipe"])


class WriteWhenLogged(logging.Handler):
    """Writes to a pipe, and closes it, once its reader logs that it waits."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe = pipe

    def emit(self, record):
        self.told = record.getMessage()
        os.write(self.pipe, b"The captain is Ada.\n")
        os.close(self.pipe)


def test_a_pipe_whose_writer_needs_long_for_its_first_byte_is_read(make, monkeypatch):
    monkeypatch.setattr(reading, "WRITER_SECONDS", 0)
    end, pipe = os.pipe()
    writer = WriteWhenLogged(pipe)
    logger = logging.getLogger(reading.__name__)
    logger.addHandler(writer)
    try:
        corpus = read([make({"a.py": "1"}), f"/dev/fd/{end}"])
    finally:
        logger.removeHandler(writer)
        os.close(end)
    assert corpus.skipped == ()
    assert corpus[str(end)] == "The captain is Ada.\n"
    assert writer.told == f"{end}: still waiting for its first byte"


def test_unreadable_files_and_folders_are_told(make, monkeypatch):
    root = make({"a.py": "1", "b.py": "2", "sub/c.py": "3"})
    plain_open, plain_scan = os.open, os.scandir

    def refuse(path):
        if str(path).endswith(("b.py", "sub")):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", lambda path, *rest, **more: refuse(path) or plain_open(path, *rest, **more))
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or plain_scan(path))
    corpus = read([root])
    assert corpus.names == ("a.py",)
    assert reasons(corpus) == {"b.py": "unreadable: Permission denied", "sub/": "unreadable: Permission denied"}


def test_a_folder_that_may_not_be_entered_is_one_clear_line(make, monkeypatch):
    root = make({"a.py": "1"})
    plain_stat, plain_scan = os.stat, os.scandir

    def refuse(path):
        if str(path).startswith(f"{root}"):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", lambda p, **more: (str(p) != str(root) and refuse(p)) or plain_stat(p, **more))
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or plain_scan(path))
    with pytest.raises(CorpusError, match="unreadable: Permission denied"):
        read([root])


def test_large_files_are_left_out_with_the_limit(make):
    corpus = read([make({"a.py": "1", "big.txt": "x" * 2000})], max_file_bytes=1000)
    assert reasons(corpus) == {"big.txt": "larger than the limit of 0.001 MB (max_file_bytes raises it)"}
    for name in ("max_file_bytes", "max_files", "max_bytes"):
        with pytest.raises(ConfigurationError, match=name):
            read(["."], **{name: 0})


# Encodings


@pytest.mark.parametrize(
    ("data", "text", "note"),
    [
        (b"\xef\xbb\xbfna\xc3\xafve", "naïve", ""),
        ("naïve 😀".encode("utf-16"), "naïve 😀", ""),
        ("naïve".encode("utf-32"), "naïve", ""),
        (b"\xff\xfea\0\x00\xd8", "a�", "read as utf-16-le, invalid bytes replaced"),
        ("Grüße «naïve»".encode("cp1252"), "Grüße «naïve»", "read as cp1252"),
        ("Привет, как дела сегодня".encode("cp1251"), "Привет, как дела сегодня", "read as cp1251"),
        ("日本語のテキストです".encode("euc_jp"), "日本語のテキストです", "read as euc_jp"),
        ("Größe Maß".encode() + b"\xff", "Größe Maß�", "read as utf-8, invalid bytes replaced"),
        (b"lone \xed\xa0\x80 surrogate, caf\xe9\x81", None, "read as cp1252, invalid bytes replaced"),
    ],
)
def test_text_of_any_encoding_is_read_and_guesses_are_noted(make, data, text, note):
    document = read([make({"a.txt": data})]).documents[0]
    assert document.note == note
    assert document.size == len(data)
    document.text.encode()  # no lone surrogates
    assert text is None or document.text == text


def test_mojibake_that_is_valid_utf8_stays_as_it_is(make):
    mojibake = "✅ done, 🚀 next →".encode().decode("cp1252", "replace")
    assert read([make({"seed.txt": mojibake})])["seed.txt"] == mojibake


def test_line_ends_and_white_space_stay_as_they_are(make):
    assert read([make({"a.txt": "a\r\nb \tc\n\n"})])["a.txt"] == "a\r\nb \tc\n\n"


# Standard input and errors


def test_a_dash_reads_standard_input(make):
    corpus = read(["-", make({"a.py": "1"}) / "a.py", "-"], stdin=io.BytesIO(b"piped"))
    assert dict(corpus.items()) == {"a.py": "1", "stdin": "piped"}


def test_a_closed_standard_input_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CorpusError, match="standard input is closed"):
        read(["-"])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no paths were given"),
        ([""], "an empty path"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["no*where"], r"no\*where: no files there"),
        (["a\0b"], "no such file"),
        (["x" * 5000], "no such file"),
        (["-"], "nothing to read in standard input: empty"),
        (["empty"], "nothing to read in empty: no files there"),
        (["binary"], r"nothing to read in binary: binary \(2 times\)"),
        (["blank.txt"], "nothing to read in blank.txt: only white space"),
        ([b"bytes"], "must be text"),
    ],
)
def test_unusable_inputs_are_one_clear_line(make, monkeypatch, paths, message):
    root = make({"binary/a": b"\0", "binary/b": b"\0\0", "blank.txt": " \n"})
    (root / "empty").mkdir()
    monkeypatch.chdir(root)
    with pytest.raises(CorpusError, match=message) as caught:
        read(paths, stdin=io.BytesIO())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_path_is_an_error_even_beside_good_ones(make):
    with pytest.raises(CorpusError, match="gone"):
        read([make({"a.py": "1"}), "gone"])


def test_thousands_of_files_are_read(tmp_path):
    for number in range(3000):
        folder = tmp_path / f"d{number % 50}"
        folder.mkdir(exist_ok=True)
        Path(folder, f"{number}.txt").write_text("text")
    assert len(read([tmp_path])) == 3000


def test_patterns_work_beside_names_that_are_not_unicode(tmp_path, monkeypatch):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    for path in (os.path.join(folder, b"menu.txt"), os.path.join(os.fsencode(tmp_path), b"a.txt")):
        with open(path, "wb") as file:
            file.write(b"text\n")
    monkeypatch.chdir(tmp_path)
    assert read(["."], include=["*.txt"]).names == ("a.txt", r"caf\xe9/menu.txt")
    assert read([r"**/*.txt"]).names == ("a.txt", r"caf\xe9/menu.txt")
    assert read(["."], include=["menu.*"]).names == (r"caf\xe9/menu.txt",)


def test_no_two_names_look_the_same(make, tmp_path):
    raw = [
        "a\nb.md", "a\\nb.md", "a\\\\nb.md", "a\\\nb.md", "plain\\b.md", "\x85.md", "\udc85.md", "\\x85.md",
        "\\u0085.md", "d\te/f.md", "d\\te/f.md",
    ]  # fmt: skip
    root = make({"a.md": "x"})
    for name in raw:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name.encode("unicode_escape").decode())
    corpus = read([root])
    assert set(corpus.names) == {
        "a.md", "a\\nb.md", "a\\\\nb.md", "a\\\\\\\\nb.md", "a\\\\\\nb.md", "plain\\b.md", "\\u0085.md", "\\x85.md",
        "\\\\x85.md", "\\\\u0085.md", "d\\te/f.md", "d\\\\te/f.md",
    }  # fmt: skip
    assert len({document.path for document in corpus.documents}) == len(raw) + 1
    assert corpus["a\\nb.md"] == "a\\nb.md"
    assert corpus["a\\\\nb.md"] == "a\\\\nb.md"
