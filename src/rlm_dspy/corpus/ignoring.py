"""The rules of ``.gitignore``, nested, with negation, from the repository's root down."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rlm_dspy.corpus.gitignore import Rule, parse, verdict


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
    layers = _layer(_exclude_file(top), str(top))
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
    try:
        text = file.read_text("utf-8", errors="replace") if file.is_file() else ""
    except OSError:
        return ()
    rules = parse(text.removeprefix("\ufeff").split("\n"))
    return (Layer(folder, rules),) if rules else ()


def _repository(root: Path) -> Path | None:
    # Where a folder may not be entered this says no; Path.exists would raise.
    return next((folder for folder in (root, *root.parents) if os.path.exists(folder / ".git")), None)


def _exclude_file(top: Path) -> Path:
    git = top / ".git"
    try:
        if git.is_file():  # a worktree or submodule: the file names the real folder, which may share another's
            git = top / git.read_text("utf-8", errors="replace").removeprefix("gitdir:").strip()
            shared = git / "commondir"
            git = git / shared.read_text("utf-8", errors="replace").strip() if shared.is_file() else git
    except OSError:
        pass  # then its rules cannot be read either
    return git / "info" / "exclude"
