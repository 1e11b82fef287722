"""What keeps a page safe: a policy that allows only its own script and style, which are files of this package.

The policy holds even if an escape is missing: a text from a model stays text, and nothing is requested.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def content_policy(style: str, script: str = "") -> str:
    """Return the content security policy of a page with this style and this script."""
    allowed = "'none'"
    if script:
        allowed = _hash_source(script)
    sources = f"script-src {allowed}; style-src {_hash_source(style)}"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def package_text(package: str, name: str) -> str:
    """Return the text of a file of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")
