"""The one place where secrets are taken out of what is printed or saved.

A secret is the value of an environment variable whose name says so, or a value that a caller registered (a key
read from a file). Values under eight characters are left alone: blanking them would maul ordinary words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "********"

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)", re.I
)
_MIN_SECRET_CHARS = 8


def is_secret_name(name: str) -> bool:
    """Tell whether a variable of this name holds a secret, going by the name alone."""
    return bool(_SECRET_NAME.search(name))


class Redactor:
    """Replaces every known secret in texts and JSON values by a mask."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._values: set[str] = set()
        self.learn(value for name, value in environ.items() if is_secret_name(name))

    def learn(self, values: Iterable[str]) -> None:
        """Add values that must never be shown, with the surrounding blanks that keys often carry."""
        for value in values:
            for form in (value, value.strip()):
                if len(form) >= _MIN_SECRET_CHARS:
                    self._values.add(form)

    def text(self, text: str) -> str:
        """Return the text with each secret masked, longest first so that no tail of one is left."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, MASK)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON-like value with each secret masked, in keys as well as in values."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def named(self, value: Any) -> Any:
        """Return a JSON-like value with everything masked that stands under the name of a secret, and each secret.

        For what is logged, where a name tells more than a list of known values can; answers keep theirs.
        """
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): MASK if item and is_secret_name(str(key)) else self.named(item)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.named(item) for item in value]
        return self.value(value)
