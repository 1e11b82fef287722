"""A handle for a long input: anything that renders it (tracers, demos, proposers, logs) shows one line."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema


class Context:
    """A text that renders as its length and digest; an RLM passes the text itself to the REPL.

    Example:
        >>> dspy.Example(context=rlm_dspy.Context(open("book.txt").read()), question="…", answer="…")
    """

    __slots__ = ("__weakref__", "_digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._digest = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of the text, in hexadecimal."""
        if not self._digest:
            self._digest = hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()
        return self._digest

    def __len__(self) -> int:
        return len(self.text)

    def __repr__(self) -> str:
        return f"Context({len(self.text):,} characters, sha256 {self.digest[:12]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        return self  # immutable by convention, and large

    def toDict(self) -> str:
        """Return the short rendering; DSPy calls this when it saves a demo."""
        return repr(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Accept handles and plain texts unchanged; serialise the short rendering."""
        return core_schema.no_info_plain_validator_function(
            lambda value: cls(value) if isinstance(value, str) else value,
            serialization=core_schema.plain_serializer_function_ser_schema(repr),
        )
