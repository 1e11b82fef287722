"""Files in a folder that are not read unless requested: secrets, and noise for any question."""

from __future__ import annotations

import os
import re

_PUBLIC_ENV = re.compile(r"\.env(\.\w+)*\.(example|sample|template|dist|defaults)|.*\.(example|sample|template)")

_SECRET = re.compile(
    r"""
    \.env | \.env\..+ | .*\.env | \.envrc
    | .*\.(pem | key | p12 | pfx | jks | keystore | kdbx | ppk | asc\.key | tfvars | tfstate)
    | id_(rsa | dsa | ecdsa | ed25519)(_sk)?
    | [._]netrc | \.npmrc | \.pypirc | \.pgpass | \.my\.cnf | \.git-credentials | \.htpasswd | \.dockercfg
    | \.?credentials(\.(json | ya?ml | toml | ini | cfg | csv | txt | db | xml))?
    | \.?secrets?\.(json | ya?ml | toml | ini | cfg | csv | txt)
    | service[-_]?account.*\.json | client[-_]secret.*\.json
    """,
    re.VERBOSE | re.IGNORECASE,
)

_SECRET_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".docker"})

_PRIVATE_KEY = re.compile(rb"\s*(?:\xef\xbb\xbf)?-----BEGIN [A-Z ]*PRIVATE KEY")

_LOCK_FILES = frozenset(
    {
        "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "poetry.lock",
        "uv.lock", "pdm.lock", "pipfile.lock", "cargo.lock", "gemfile.lock", "composer.lock", "go.sum",
        "flake.lock", "packages.lock.json", "pubspec.lock", "podfile.lock", "mix.lock",
    }
)  # fmt: skip

_MINIFIED = (".min.js", ".min.mjs", ".min.css", ".js.map", ".mjs.map", ".css.map", ".ts.map")

_NOISE_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__"})


def is_secret(name: str, folder: str = "") -> bool:
    """Return whether files with this name in such a folder usually hold credentials."""
    if not name.endswith(".pub") and not _SECRET_FOLDERS.isdisjoint(folder.replace(os.sep, "/").split("/")):
        return True
    return bool(_SECRET.fullmatch(name)) and not _PUBLIC_ENV.fullmatch(name)


def has_private_key(head: bytes) -> bool:
    """Return whether a file begins like a private key, whatever its name."""
    return bool(_PRIVATE_KEY.match(head))


def noise_reason(name: str) -> str | None:
    """Return why a file is noise for any question, or None."""
    low = name.lower()
    if low in _LOCK_FILES:
        return "a lock file"
    if low.endswith(_MINIFIED):
        return "minified"
    return None


def noise_folder(name: str, entries: frozenset[str]) -> str | None:
    """Return why a folder is full of third-party or generated files, or None."""
    if name in _NOISE_FOLDERS:
        return "installed packages or caches"
    if "pyvenv.cfg" in entries:
        return "a virtual environment"
    return None
