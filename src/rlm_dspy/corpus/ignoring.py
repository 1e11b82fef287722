"""The rules of ``.gitignore``, nested, with negation, from the repository's root down."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rlm_dspy.corpus.git_index import Tracked, tracked_below
from rlm_dspy.corpus.gitignore import Rule, parse, verdict

MOST_BYTES = 10_000_000  # of a file of patterns


@dataclass(frozen=True)
class Layer:
    """The rules of one file; they hold for the paths below ``folder``."""

    folder: str
    rules: tuple[Rule, ...]

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Return True for ignored, False for re-included, None where no rule speaks."""
        names = path[len(self.folder) :].replace(os.sep, "/").strip("/").split("/")
        return verdict(self.rules, names, is_folder)


def ignored(layers: tuple[Layer, ...], path: str, is_folder: bool) -> bool:
    """Ask the layers, the deepest first: the last rule that speaks decides."""
    for layer in reversed(layers):
        verdict = layer.verdict(path, is_folder)
        if verdict is not None:
            return verdict
    return False


def layers_above(root: str) -> tuple[Layer, ...]:
    """Collect the rules that reach a folder from above: the repository's own and those of its upper folders.

    A folder that these rules themselves ignore was named on purpose, so they do not apply to it.
    """
    top = _repository(Path(root))
    if top is None:
        return ()
    layers = _layer(_own_excludes(top), str(top)) + _layer(git_folder(top) / "info" / "exclude", str(top))
    for folder in reversed(Path(root).parents):
        if folder == top or (top in folder.parents and not ignored(layers, str(folder), True)):
            layers += layer_in(str(folder))
        elif top in folder.parents:
            return ()
    return () if Path(root) != top and ignored(layers, root, True) else layers


def layer_in(folder: str) -> tuple[Layer, ...]:
    """Read the rules that a folder itself has."""
    return _layer(Path(folder, ".gitignore"), folder)


def _layer(file: Path, folder: str) -> tuple[Layer, ...]:
    text = _text(file)
    rules = parse(text.removeprefix("\ufeff").split("\n"))
    return (Layer(folder, rules),) if rules else ()


def _text(file: Path) -> str:
    """Return the text of a small file, nothing if it cannot be read."""
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            return ""
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _repository(root: Path) -> Path | None:
    # Where a folder may not be entered this says no; Path.exists would raise.
    return next((folder for folder in (root, *root.parents) if os.path.exists(folder / ".git")), None)


def tracked_around(root: str) -> Tracked:
    """Return what git tracks in the repository that a folder is in: that is read even where a rule matches it."""
    top = _repository(Path(root))
    return Tracked() if top is None else tracked_below(top, git_folder(top, shared=False))


def everything_in(folder: str) -> Layer:
    """Return the rule that ignores all in a folder, in which only what git tracks is read."""
    return Layer(folder, parse(["*"]))


def _own_excludes(top: Path) -> Path:
    """Return the user's file of patterns for all repositories: ``core.excludesFile``, or where git looks without it."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "git"
    named = None
    for place in (config / "config", Path.home() / ".gitconfig", git_folder(top) / "config"):
        named = _excludes_in(place) or named
    return Path(named).expanduser() if named else config / "ignore"


def _excludes_in(place: Path) -> str | None:
    """Return the ``excludesFile`` of the section ``core`` of a configuration of git."""
    section, found = "", None
    for line in _text(place).split("\n"):
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[] \t").lower()
        name, equals, value = line.partition("=")
        if section == "core" and equals and name.strip().lower() == "excludesfile":
            found = value.strip().strip('"')
    return found


def git_folder(top: Path, *, shared: bool = True) -> Path:
    """Return the folder that holds a repository's data; ``shared`` is that of all its worktrees."""
    git = top / ".git"
    try:
        if git.is_file():  # a worktree or submodule: the file names the real folder, which may share another's
            git = top / git.read_text("utf-8", errors="replace").removeprefix("gitdir:").strip()
            common = git / "commondir"
            if shared and common.is_file():
                git = git / common.read_text("utf-8", errors="replace").strip()
    except OSError:
        pass  # then its rules cannot be read either
    return git
