"""The one place that removes secrets from everything printed or saved.

A secret is the value of an environment variable whose name says so, the password in an address that a variable holds,
or a value registered by a caller (a key read from a file). Values under eight characters are ignored: masking them
would damage ordinary words. A secret is also masked as it stands in JSON, in Python and in an address, line by line if
it has several lines, and its beginning or end where a text was cut.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MASK = "********"

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:(?:API_?|ACCESS_|ACCOUNT_|SECRET_|PRIVATE_|OPENAI_)KEYS?|CONNECTION_STRING|TOKEN|MCP_TOKENS|SECRET"
    r"|(?:PG|DB|MYSQL_?)?PASS(?:WORDS?|WD|PHRASE)?|CREDENTIALS?|COOKIES?|AUTHORIZATION|OTLP_HEADERS)(?:_|$)",
    re.I,
)
_SCHEME = re.compile(r"\s*(?:bearer|basic|token) ", re.I)  # before a token in a header
_KEY_NAME = re.compile(r"_KEYS?$", re.I)  # may also be a key of a table, so the value must look like a secret
_MIN_SECRET_CHARS = 8
_MIN_PART_CHARS = 12  # of a line of a secret, and of the beginning or the end of a key
_KEY = re.compile(r"[\w.~+-]{24,}")  # a key: unlike an address, it begins like no other text


def is_secret_name(name: str) -> bool:
    """Return whether a variable holds a secret, judging by its name alone."""
    return bool(_SECRET_NAME.search(name))


def _password(value: str) -> str:
    """Return the password in an address, "" if there is none."""
    try:
        if "://" in value:
            return urlsplit(value.strip()).password or ""
        return ""
    except ValueError:  # not an address
        return ""


def _secrets_in(value: str) -> Iterator[str]:
    """Yield a secret, and those that it lists, as in ``ann:TOKEN,bob:TOKEN`` and ``Authorization=Basic%20TOKEN``."""
    yield value
    if match := _SCHEME.match(value):
        yield value[match.end() :]
    for part in re.split(r"[,;]", value):
        _, mark, listed = part.replace("=", ":", 1).partition(":")
        if mark:
            yield from (listed, unquote(listed), unquote(listed).rpartition(" ")[2])


class Redactor:
    """Replaces every known secret in texts and JSON values by a mask."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._values: set[str] = set()
        self._keys: set[str] = set()
        for name, value in environ.items():
            if is_secret_name(name) or (_KEY_NAME.search(name) and _KEY.fullmatch(value.strip())):
                self.learn(_secrets_in(value))
        for value in environ.values():
            password = _password(value)
            self.learn((password, unquote(password)))

    def learn(self, values: Iterable[str]) -> None:
        """Add values that must never be shown, with and without the blanks around them."""
        for value in values:
            for form in (value, value.strip()):
                if len(form) >= _MIN_SECRET_CHARS:
                    self._values.update(_written_forms(form))
            if _KEY.fullmatch(value.strip()):
                self._keys.add(value.strip())

    def text(self, text: str) -> str:
        """Return the text with each secret masked, longest first so that no part of one remains; lines stay apart."""
        for value in sorted(self._values, key=len, reverse=True):
            if value in text:
                text = text.replace(value, MASK + "\n" * value.count("\n"))
        for key in self._keys:
            text = _without_parts(text, key)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON-like value with each secret masked, in keys and values."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def named(self, value: Any) -> Any:
        """Return a JSON-like value with every secret masked, and every value under a secret's name.

        Used for logs, where a name reveals more than a list of known values; not used for answers.
        """
        if isinstance(value, Mapping):
            shown: dict[str, Any] = {}
            for key, item in value.items():
                if item and is_secret_name(str(key)):
                    shown[self.text(str(key))] = MASK
                else:
                    shown[self.text(str(key))] = self.named(item)
            return shown
        if isinstance(value, (list, tuple)):
            return [self.named(item) for item in value]
        return self.value(value)


def _written_forms(secret: str) -> set[str]:
    """Return a secret as it may stand in a text: as it is, in JSON, in Python, in an address, and its long lines."""
    forms = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    forms |= {quote(secret, safe, errors="replace") for safe in ("/", "")}
    if "\n" in secret:
        lines = (line.strip() for line in secret.splitlines())
        forms.update(line for line in lines if len(line) >= _MIN_PART_CHARS and not line.startswith("-----"))
    return forms


def _without_parts(text: str, key: str) -> str:
    """Mask the beginning and the end of a key, which remain where a text was cut."""
    if key[:_MIN_PART_CHARS] in text:
        text = _without_beginnings(text, key)
    if key[-_MIN_PART_CHARS:] in text:
        text = _without_beginnings(text[::-1], key[::-1])[::-1]
    return text


def _without_beginnings(text: str, key: str) -> str:
    part = key[:_MIN_PART_CHARS]
    pieces: list[str] = []
    after = 0
    while (start := text.find(part, after)) >= 0:
        stop = start + len(part)
        while stop < len(text) and stop - start < len(key) and text[stop] == key[stop - start]:
            stop += 1
        pieces += [text[after:start], MASK]
        after = stop
    return "".join([*pieces, text[after:]])
