"""The rules of .gitignore, measured against git itself."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy.corpus import read
from rlm_dspy.errors import CorpusError


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


def git_lists(root):
    """What git itself would take."""
    listed = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=root, capture_output=True, check=True, env={"PATH": os.environ["PATH"], "HOME": str(root)},
    )  # fmt: skip
    return tuple(sorted(name for name in listed.stdout.decode().split("\0") if name))


def test_nested_ignore_rules_with_negation_agree_with_git(make):
    files = {
        ".gitignore": "*.log\n!keep.log\n/build/\ndoc/**/draft.md\nlib/*\n!lib/public\n# comment\n\\#odd.txt\ntail \n",
        "app/.gitignore": "!special.log\nlocal.txt\n/only-here.txt\n",
        "app/sub/.gitignore": "*\n!*.py\n",
    }
    names = [
        "a.log", "keep.log", "build/x.py", "src/build/x.py", "doc/a/b/draft.md", "doc/draft.md", "doc/final.md",
        "lib/secretive/x.py", "lib/public/x.py", "app/special.log", "app/other.log", "app/local.txt", "local.txt",
        "app/only-here.txt", "app/deep/only-here.txt", "app/sub/x.py", "app/sub/x.md", "#odd.txt", "tail", "Größe.md",
    ]  # fmt: skip
    root = make(files | dict.fromkeys(names, "x"))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".git/info/exclude").write_text("doc/final.md\n")
    assert read([root], hidden=True).names == git_lists(root)
    assert "doc/final.md" not in read([root]).names
    assert len(read([root], ignore=False)) == len(names)


def test_rules_above_the_folder_hold_within_the_repository(make):
    root = make({".gitignore": "*.tmp\nskipped/\n", "sub/in/a.py": "1", "sub/in/b.tmp": "2", "skipped/c.tmp": "3"})
    assert read([root / "sub"]).names == ("in/a.py", "in/b.tmp")
    (root / ".git").mkdir()
    assert read([root / "sub"]).names == ("in/a.py",)
    assert read([root / "skipped"]).names == ("c.tmp",), "it was named, so it is wanted"
    (root / "skipped/deep").mkdir()
    (root / "skipped/deep/d.tmp").write_text("4")
    assert read([root / "skipped/deep"]).names == ("d.tmp",)


def test_a_worktree_uses_the_exclude_file_of_its_repository(make):
    root = make({"main/.git/info/exclude": "*.tmp\n", "main/.git/worktrees/w/commondir": "../..\n"})
    make({"work/.git": f"gitdir: {root}/main/.git/worktrees/w\n", "work/a.tmp": "1", "work/b.py": "2"})
    assert read([root / "work"]).names == ("b.py",)


def test_a_worktree_whose_repository_is_gone_has_no_exclude_file(make):
    assert read([make({".git": "gitdir: /nowhere\n", "a.py": "1"})]).names == ("a.py",)


def test_ignore_rules_that_are_none_are_left_out(make):
    root = make({".gitignore": b"\xef\xbb\xbf*.log\n!\nfoo[z-a]\n\xff\n", "a.log": "1", "b.py": "2"})
    assert read([root]).names == ("b.py",)


def test_everything_but_some_is_the_usual_idiom(make):
    files = {
        ".gitignore": "*\n!*/\n!*.py\n!/docs/**\n",
        "a.py": "1",
        "src/deep/b.py": "2",
        "c.md": "3",
        "docs/d.md": "4",
    }
    assert read([make(files)]).names == ("a.py", "docs/d.md", "src/deep/b.py")


ATOMS = [
    "a",
    "b",
    "c",
    "d",
    "*",
    "**",
    "***",
    "*.x",
    "a*",
    "?",
    "[ab]",
    "[!a]",
    "[^b]*",
    "[a-c]",
    "[b-a]",
    "[]a]",
    "[[:alpha:]]",
    "\\a",
    "*a*b*",
    "**a",
    "f.?",
    "a.x",
    "b.x",
]
PATTERNS = st.builds(
    lambda negated, root, parts, folder: negated + root + "/".join(parts) + folder,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(st.sampled_from([*ATOMS, "e ", "e\\ "]), min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)
FOLDERS = ["", "a/", "b/", "a/b/", "b/c/", "a/b/c/", "d/", "d/d/"]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(FOLDERS), st.lists(PATTERNS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_rules_leave_what_git_leaves(rules):
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            Path(folder, name).mkdir(exist_ok=True)
            for file in ("a.x", "b.x", "e", "f.y"):
                Path(folder, name, file).write_text("x")
            if name in rules:
                Path(folder, name, ".gitignore").write_text("\n".join(rules[name]) + "\n")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        listed = git_lists(folder)
        try:
            assert read([folder], hidden=True).names == listed
        except CorpusError:
            assert listed == ()


def test_a_pattern_made_to_be_slow_is_not(make):
    assert len(read([make({".gitignore": "*a" * 40 + "b\n" + "**/" * 40 + "x\n", "a" * 200: "1"})])) == 1


@pytest.mark.parametrize("version", ["2", "4"])
def test_what_git_tracks_is_read_even_where_a_rule_matches_it(make, version):
    root = make(
        dict.fromkeys(["a.log", "b.log", "build/kept.txt", "build/made.txt", "build/deep/kept.py", "src/Größe.md"], "x")
        | {".gitignore": "*.log\nbuild/\n"}
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
    for command in (
        ["init", "-q"],
        ["config", "index.version", version],
        ["add", "-f", "a.log", "build/kept.txt", "build/deep/kept.py", "src"],
        ["update-index", "--index-version", version],
    ):
        subprocess.run(["git", *command], cwd=root, check=True, env=environment)
    assert read([root], hidden=True).names == git_lists(root)
    assert read([root / "build"]).names == ("deep/kept.py", "kept.txt", "made.txt")  # named on purpose


def test_the_users_own_excludes_count(make, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    root = make({"a.txt": "x", "b.tmp": "x", "c.bak": "x"})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (home / ".config/git/ignore").write_text("*.tmp\n")
    assert read([root]).names == ("a.txt", "c.bak")
    (home / ".gitconfig").write_text(f"[core]\n\texcludesFile = {home}/mine\n")
    (home / "mine").write_text("*.bak\n")
    assert read([root]).names == ("a.txt", "b.tmp")


@pytest.mark.parametrize("index", [b"", b"DIRC", b"DIRC\0\0\0\2\xff\xff\xff\xff" + b"x" * 99, b"\0" * 500])
def test_a_broken_index_tracks_nothing(make, index):
    root = make({"a.txt": "x", "b.log": "x", ".gitignore": "*.log\n"})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".git/index").write_bytes(index)
    assert read([root]).names == ("a.txt",)


def skipped_rules(corpus):
    """Why files of rules were not used, besides why they are not read as texts."""
    return {one.name: one.reason for one in corpus.skipped if one.missed}


LOOP = "its rules are not honoured: Too many levels of symbolic links"


def test_rules_that_cannot_be_read_are_told(make):
    root = make({"a.log": "x", "a.md": "x", "sub/b.md": "x", "sub/deep/.gitignore": "*.log", "sub/deep/c.log": "x"})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".git/info/exclude").unlink()
    for place in (".gitignore", "sub/.gitignore", ".git/info/exclude", ".git/config"):
        (root / place).unlink(missing_ok=True)
        (root / place).symlink_to(Path(place).name)  # a loop cannot be opened, whoever tries
    corpus = read([root])
    assert corpus.names == ("a.log", "a.md", "sub/b.md")
    assert skipped_rules(corpus) == dict.fromkeys(
        [".gitignore", "sub/.gitignore", ".git/info/exclude", ".git/config"], LOOP
    )
    assert str(corpus.problems[0]) == f".git/config: not read: {LOOP}"
    below = read([root / "sub"])
    assert skipped_rules(below) == dict.fromkeys(
        [".gitignore", "../.gitignore", "../.git/info/exclude", "../.git/config"], LOOP
    )
    assert skipped_rules(read([root], ignore=False)) == {}


def test_rules_that_are_too_large_or_no_file_are_told(make):
    root = make({"a.md": "x", ".gitignore": "#" * 10_000_001, "sub/.gitignore/x.md": "x"})
    assert skipped_rules(read([root])) == {
        ".gitignore": "its rules are not honoured: it is too large",
        "sub/.gitignore": "its rules are not honoured: it is not a regular file",
    }


def test_a_git_index_that_cannot_be_used_is_told(make):
    root = make({"a.log": "x", "b.md": "x", ".gitignore": "*.log\n"})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-f", "."], cwd=root, check=True)
    assert read([root]).names == ("a.log", "b.md")
    told = "the files that it lists are not read if a rule ignores them: "
    (root / ".git/index").write_bytes(b"DIRC")
    assert skipped_rules(read([root])) == {".git/index": f"{told}it is damaged"}
    (root / ".git/index").unlink()
    (root / ".git/index").symlink_to("index")
    assert skipped_rules(read([root])) == {".git/index": f"{told}Too many levels of symbolic links"}


def test_a_git_folder_that_cannot_be_entered_is_told_once(make):
    long = "x" * 300
    root = make({"a.log": "x", ".git": f"gitdir: ../{long}/.git/worktrees/a\n"})
    (told,) = skipped_rules(read([root])).items()
    assert told[0] == ".git"
    assert told[1].startswith("its rules are not honoured: ")
    assert told[1].endswith(f"{long} cannot be entered: File name too long")


def test_without_git_or_with_the_null_device_as_its_excludes_nothing_is_told(make, monkeypatch):
    root = make({"a.md": "x", "loose/b.md": "x"})
    assert skipped_rules(read([root])) == {}
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "config", "core.excludesFile", os.devnull], cwd=root, check=True)
    assert skipped_rules(read([root])) == {}


def test_a_repository_inside_a_folder_has_its_own_rules_and_files(make):
    files = {".gitignore": "*.log\n", "keep.log": "kept", "other.log": "o", "local.txt": "l", "a.txt": "a"}
    root = make({f"{name}/{file}": text for name in ("one", "two") for file, text in files.items()}, "projects")
    for name in ("one", "two"):
        repository = root / name
        subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
        subprocess.run(["git", "add", "-f", "keep.log"], cwd=repository, check=True)
        (repository / ".git" / "info").mkdir(exist_ok=True)
        (repository / ".git" / "info" / "exclude").write_text("local.txt\n")
    assert sorted(read(root).names) == ["one/a.txt", "one/keep.log", "two/a.txt", "two/keep.log"]


@pytest.mark.parametrize(
    "config",
    [
        "[core]\n\texcludesFile = {place}\n",
        "[core] excludesFile = {place}\n",
        '[core]\nexcludesfile = "{place}" ; mine\n',
        "[core]\nexcludesfile={place} # mine\n",
        "[include]\n\tpath = more\n",
    ],
)
def test_each_form_of_a_configuration_names_the_excludes(make, tmp_path, monkeypatch, config):
    root = make({"a.txt": "a", "b.bak": "b"})
    (root / ".git").mkdir()
    place = tmp_path / "mine"
    place.write_text("*.bak\n")
    (root / ".git" / "config").write_text(config.format(place=place))
    (root / ".git" / "more").write_text(f"[core]\nexcludesFile = {place}\n")
    assert read(root).names == ("a.txt",)
