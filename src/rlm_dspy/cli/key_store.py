"""The keys that ``rlm-dspy keys`` keeps: in the system's keyring where there is one, else in a file of mode 0600.

A keyring cannot list its entries, so the file also has the names of the keys that are there. The optional package
``keyring`` is imported only if a key is kept in it or put into it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlm_dspy.cli.home_files import user_toml
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.safe_files import entry_error, write_private

SERVICE = "rlm-dspy"  # of the entries in the keyring
KEYRING = "keyring"
_NAME = re.compile(r"[A-Z][A-Z0-9_]*_API_KEY")
_USUAL_PRIORITY = 1  # of a keyring of the system; those that fail or keep plain text have less


@dataclass(frozen=True)
class StoredKey:
    """A key that is kept, and where: ``keyring`` or the path of the file."""

    name: str
    value: str = field(repr=False)
    place: str


def keys_file() -> Path:
    """Return the file of keys, beside the user's ``config.toml``."""
    return user_toml().with_name("keys.toml")


def key_name(text: str) -> str:
    """Return the variable that a name stands for: ``groq`` is ``GROQ_API_KEY``.

    Raises:
        ConfigurationError: the text is not the name of a variable.
    """
    name = text.strip().upper().replace("-", "_")
    if not name.endswith("_API_KEY"):
        name += "_API_KEY"
    if not _NAME.fullmatch(name):
        raise ConfigurationError("that is not the name of a key. Write it like GROQ_API_KEY or groq.")
    return name


def stored_keys(environ: Mapping[str, str]) -> tuple[StoredKey, ...]:
    """Return the kept keys; one that the environment sets is not looked up.

    Raises:
        ConfigurationError: the file or the keyring cannot be read.
    """
    kept = _read_file()
    stored = []
    for name, value in kept["keys"].items():
        if not environ.get(name):
            stored.append(StoredKey(name, value, str(keys_file())))
    for name in kept["in_keyring"]:
        if not environ.get(name):
            stored.append(StoredKey(name, _read_keyring(name), KEYRING))
    return tuple(stored)


def key_places() -> dict[str, str]:
    """Return where each kept key is, without its value.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    kept = _read_file()
    places = dict.fromkeys(kept["keys"], str(keys_file()))
    places |= dict.fromkeys(kept["in_keyring"], KEYRING)
    return dict(sorted(places.items()))


def put_key(name: str, value: str) -> str:
    """Keep a key, and return where.

    Raises:
        ConfigurationError: it cannot be kept.
    """
    kept = _read_file()
    keyring = _system_keyring()
    if keyring is None:
        if name in kept["in_keyring"]:
            kept["in_keyring"].remove(name)
        kept["keys"][name] = value
        _write_file(kept)
        return str(keys_file())
    try:
        keyring.set_password(SERVICE, name, value)
    except keyring.errors.KeyringError as error:
        raise ConfigurationError(f"the keyring does not take the key ({type(error).__name__}). Unlock it.") from None
    kept["keys"].pop(name, None)
    if name not in kept["in_keyring"]:
        kept["in_keyring"].append(name)
    _write_file(kept)
    return KEYRING


def remove_key(name: str) -> str:
    """Remove a key, and return where it was.

    Raises:
        ConfigurationError: no such key is kept, or it cannot be removed.
    """
    kept = _read_file()
    if name in kept["keys"]:
        del kept["keys"][name]
        _write_file(kept)
        return str(keys_file())
    if name not in kept["in_keyring"]:
        raise ConfigurationError(f"{name} is not kept here; `rlm-dspy keys list` shows what is.")
    keyring = _system_keyring()
    if keyring is None:
        raise ConfigurationError(f"{name} is in a keyring that cannot be used now. Remove it there.")
    try:
        keyring.delete_password(SERVICE, name)
    except keyring.errors.PasswordDeleteError:
        pass  # already removed from the keyring; drop the name
    except keyring.errors.KeyringError as error:
        raise ConfigurationError(f"the keyring does not remove {name} ({type(error).__name__}). Unlock it.") from None
    kept["in_keyring"].remove(name)
    _write_file(kept)
    return KEYRING


def is_open_to_others() -> bool:
    """Whether other users may read the file of keys."""
    try:
        mode = keys_file().stat().st_mode
    except OSError:
        return False
    return os.name == "posix" and bool(stat.S_IMODE(mode) & 0o077)


def _system_keyring() -> Any | None:
    """Return the package ``keyring``, None if it is not installed or has no keyring of the system."""
    if importlib.util.find_spec("keyring") is None:
        return None
    keyring = importlib.import_module("keyring")
    if keyring.get_keyring().priority < _USUAL_PRIORITY:
        return None
    importlib.import_module("keyring.errors")
    return keyring


def _read_keyring(name: str) -> str:
    keyring = _system_keyring()
    advice = f"Set {name} in the environment, or use `rlm-dspy keys remove {name}`."
    if keyring is None:
        raise ConfigurationError(f"{name} is in a keyring that cannot be used now. {advice}")
    try:
        value = keyring.get_password(SERVICE, name)
    except keyring.errors.KeyringError as error:
        raise ConfigurationError(
            f"the keyring does not give {name} ({type(error).__name__}). Unlock it. {advice}"
        ) from None
    if value is None:
        raise ConfigurationError(f"{name} is no longer in the keyring. {advice}")
    return str(value)


def _read_file() -> dict[str, Any]:
    """Return ``keys`` and ``in_keyring`` of the file; messages never show a line of it."""
    path = keys_file()
    if entry_error(path.parent) is not None:
        return {"keys": {}, "in_keyring": []}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        values = {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. Fix or remove the file.") from None
    except ValueError:
        raise ConfigurationError(f"{path} is not valid TOML. Fix or remove the file.") from None
    keys = values.get("keys", {})
    names = values.get("in_keyring", [])
    is_valid = isinstance(keys, dict) and isinstance(names, list)
    if not is_valid or not all(isinstance(one, str) and "\0" not in one for one in (*keys.values(), *names)):
        raise ConfigurationError(f"{path} does not hold keys as `rlm-dspy keys` writes them. Fix or remove the file.")
    return {"keys": keys, "in_keyring": names}


def _write_file(kept: Mapping[str, Any]) -> None:
    lines = ["# Written by `rlm-dspy keys`.", f"in_keyring = {json.dumps(kept['in_keyring'])}", "", "[keys]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in sorted(kept["keys"].items())]
    path = keys_file()
    try:
        write_private(path, "\n".join(lines) + "\n")
        if is_open_to_others():
            path.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None
