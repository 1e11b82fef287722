"""Decide whether a quote supports an answer or merely occurs in the context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlm_dspy.run import html_table, replace_surrogates

SHORT_ANSWER_CHARS = 80  # the longest answer that is looked for in a quote
STRONG_WORDS = 5  # a quote of this many words is evidence by itself
_PRINTED_PLACE = re.compile(r"^(?:\|\s*)?(?:(?:[^\s:]+:)?\d+: )?")  # a bar, and the source and line of a hit


def is_weak(quote: str, answers: Iterable[str]) -> bool:
    """Return whether a quote contains none of the short answers and has fewer than five words."""
    if len(re.findall(r"\w+", quote)) >= STRONG_WORDS:
        return False
    plain = _plain_words(quote)
    return not any(words in plain for words in map(_plain_words, answers) if words)


def short_answers(outputs: Mapping[str, Any]) -> list[str]:
    """Return the texts and numbers in the outputs that are short enough to search for."""
    answers: list[str] = []
    for value in outputs.values():
        items = value if isinstance(value, (list, tuple, set)) else [value]
        for item in items:
            if isinstance(item, (str, int, float)) and not isinstance(item, bool):
                answers.append(str(item))
    return [answer for answer in answers if len(answer) <= SHORT_ANSWER_CHARS]


def printed_quotes(answers: Iterable[str], shown: Iterable[str]) -> list[str]:
    """Return the printed lines that hold one of the answers, newest first, without the bars and places before them.

    Numbers under five digits are skipped: they occur in lines by chance.
    """
    distinct = [answer.strip() for answer in answers if re.search(r"[^\W\d]|\d{5}", answer)]
    forms = [re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.I) for answer in distinct]
    quotes: list[str] = []
    for text in reversed(list(shown)):
        for line in text.splitlines():
            quote = _PRINTED_PLACE.sub("", line.strip()).strip()
            if quote not in quotes and any(form.search(quote) for form in forms):
                quotes.append(quote)
    return quotes


def weak_advice(weak: list[Evidence]) -> str:
    """Return advice to the model about weak quotes."""
    quotes = ", ".join(repr(item.quote[:60]) for item in weak[:3])
    return (
        f"the evidence {quotes} is in the context, but does not show the answer: quote the words that hold it (or at "
        "least five words around them), or correct the answer. If it was computed, or is not there, give an empty list."
    )


@lru_cache(maxsize=10_000)  # each answer is compared with each quote
def _plain_words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


_PLACE = re.compile(
    r"(?P<path>.*?)(?:#L|:\s*(?:line\s*)?|\s+line\s+|^lines?\s+)(?P<line>\d+)(?:\s*[-\u2013:].*)?", re.DOTALL
)
_LABEL = re.compile(
    r"(?P<path>.+?)(?::\s*(?:page|slide|row|cell|sheet)\b"
    r"|(?:,\s*|\s+)(?:page|slide|row|cell|sheet(?:\b.*?\brow)?)\s*\d+(?!\w|\.\w)).*",
    re.DOTALL,
)
_MAX_SOURCE_CHARS = 1_000  # characters of a source that are parsed


class Evidence(BaseModel):
    """A quote of the context that backs an answer; the host fills in and checks all but the quote."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    quote: str = Field(description="words copied exactly from the context")
    source: str | None = Field(default=None, description="the file's name, on a corpus")
    start: int | None = None
    end: int | None = None
    line: int | None = None
    place: str | None = Field(default=None, description="set by the host: page, sheet row, table row")
    match: Literal["exact", "normalized", "fuzzy"] | None = Field(default=None, description="set by the host")
    weak: bool = Field(default=False, description="set by the host: it neither holds the answer nor says much")

    @model_validator(mode="before")
    @classmethod
    def _normalized_input(cls, value: Any) -> Any:
        if isinstance(value, str) and hasattr(value, "record"):  # a hit of the toolkit
            value = value.record()
        if isinstance(value, str):
            return {"quote": replace_surrogates(value)}
        if not isinstance(value, Mapping):
            return value
        fields = {key: value.get(key) for key in ("quote", "source", "start", "end", "line")}
        if fields["quote"] is None:
            fields["quote"] = next((value[key] for key in ("text", "passage", "snippet") if key in value), None)
        if fields["source"] is None:
            fields["source"] = next((value[key] for key in ("path", "file", "name") if key in value), None)
        span = value.get("range")
        if fields["start"] is None and isinstance(span, (list, tuple)) and len(span) == 2:
            fields["start"], fields["end"] = span
        if isinstance(fields["quote"], str):
            fields["quote"] = replace_surrogates(fields["quote"])
        _split_place(fields)
        return fields | {key: _position_number(fields[key]) for key in ("start", "end", "line")}

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: the quote, where it is, and how well it matches."""
        rows = [("quote", self.quote), ("where", self.where), ("match", self.match or "not found in the context")]
        if self.weak:
            rows.append(("weak", "it does not show the answer"))
        return html_table(rows)

    @property
    def where(self) -> str:
        """Where the quote is: ``path:line``, ``path:page 3`` in a converted file, ``line N`` in a single text."""
        if self.place is not None:
            if self.source is None:
                return self.place
            return f"{self.source}:{self.place}"
        if self.line is None:
            return self.source or ""
        if self.source is None:
            return f"line {self.line}"
        return f"{self.source}:{self.line}"


# What models write


def _position_number(value: Any) -> int | None:
    """Return a position from the model as an int, or None if invalid; the host finds the true one anyway."""
    if isinstance(value, (int, str)):
        digits = re.match(r"\s*(\d{1,12})", str(value))
    else:
        digits = None
    if digits and not isinstance(value, bool):
        return int(digits[1])
    return None


def _split_place(fields: dict[str, Any]) -> None:
    """Split the place off a source written as ``path:line``, ``path#L12``, ``line 12`` or ``path:page 3``."""
    if fields["source"] is None:
        return
    source = replace_surrogates(str(fields["source"]))[:_MAX_SOURCE_CHARS].strip()
    if label := _LABEL.fullmatch(source):
        source = label["path"].strip(" ,(")
    if place := _PLACE.fullmatch(source):
        source = place["path"].strip(" ,")
        if fields["line"] is None:
            fields["line"] = place["line"]
    fields["source"] = source or None
