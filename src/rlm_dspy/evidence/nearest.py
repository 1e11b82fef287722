"""The passage most like a quote: what a model probably meant, or what its quote stands for."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rapidfuzz import fuzz

from rlm_dspy.evidence.model import Evidence, valid
from rlm_dspy.evidence.texts import Hit, Text, places, words_of

FUZZY = 92.0  # the likeness, of 100, from which a passage is taken for the quote
LEAST = 24  # characters that such a quote must have

_SLIP = 75  # the likeness of a word that was only misspelt
_NEAR = 60  # windows compared to find the nearest passage
_COMPARED = 300  # characters of a window that are compared and shown
_ADVISED = 50  # the likeness from which a passage is worth showing
_READ = 200_000_000  # characters in which a passage is looked for
_NEGATIONS = frozenset({"not", "no", "never", "none", "without", "nor", "neither", "cannot", "nicht", "kein", "keine"})


def fuzzy(quote: str, texts: Sequence[Text]) -> Hit | None:
    """Find a passage that is the quote but for slips of the pen: its numbers and negations are the same."""
    if len(quote) < LEAST:
        return None
    best: tuple[float, Hit] | None = None
    for hit in _candidates(quote, texts, len(quote)):
        window = hit.text.text[hit.start : hit.end]
        aligned = fuzz.partial_ratio_alignment(quote, window, score_cutoff=FUZZY)
        if aligned is None or (best is not None and aligned.score <= best[0]):
            continue
        start, end = _whole_words(window, aligned.dest_start, aligned.dest_end)
        if _facts(window[start:end]) == _facts(quote) and _slips(quote, window[start:end]):
            best = aligned.score, Hit(hit.text, hit.start + start, hit.start + end)
    return None if best is None else best[1]


def _facts(text: str) -> tuple[Counter[str], Counter[str]]:
    """What a slip must not change."""
    words = re.findall(r"[a-z]+", text.lower().replace("n't", " not"))
    return Counter(re.findall(r"\d+", text)), Counter(word for word in words if word in _NEGATIONS)


def _slips(quote: str, passage: str) -> bool:
    """Tell whether the words differ by letters alone, or by the little ones that are easily left out."""
    ours, theirs = re.findall(r"\w+", quote.lower()), re.findall(r"\w+", passage.lower())
    for change, a, b, c, d in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if change == "replace" and fuzz.ratio(" ".join(ours[a:b]), " ".join(theirs[c:d])) < _SLIP:
            return False
        if change in ("insert", "delete") and any(len(word) > 3 for word in (*ours[a:b], *theirs[c:d])):
            return False
    return True


def _whole_words(window: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and window[start - 1].isalnum() and window[start : start + 1].isalnum():
        start -= 1
    while end < len(window) and window[end].isalnum() and window[end - 1 : end].isalnum():
        end += 1
    return start, end


def advice(quote: str, texts: Sequence[Text], variables: Sequence[str]) -> str:
    """Tell a model, in a line, that a quote is not there, and what it may have meant."""
    told = _one_line(quote, 80)
    where = " or ".join(f"`{name}`" for name in variables) or "any context"
    near = _nearest(quote, texts)
    if near is None:
        return f"the quote {told} is not in {where}, nor anything like it: quote what is there, word for word."
    passage = _one_line(near.text.text[near.start : near.end], _COMPARED)
    place = Evidence(quote="", source=near.text.source, line=near.line).where
    return f"the quote {told} is not in {where}. The nearest passage, at {place}, is {passage}: copy from it exactly."


def _nearest(quote: str, texts: Sequence[Text]) -> Hit | None:
    """The passage most like a quote, among windows around its rarest words; None if none is much like it."""
    quote = quote[:_COMPARED]
    wanted = set(re.findall(r"\w+", quote.lower()))
    best: list[tuple[int, int, Hit]] = []
    for hit in _candidates(quote, texts, 20):
        shared = len(wanted & set(re.findall(r"\w+", hit.text.text[hit.start : hit.end].lower())))
        best.append((-shared, len(best), hit))
    ranked = sorted(best, key=lambda one: one[:2])[:5]
    closest = [(fuzz.ratio(quote, hit.text.text[hit.start : hit.end]), -order, hit) for _, order, hit in ranked]
    closest = [one for one in closest if one[0] >= _ADVISED]
    return max(closest, key=lambda one: one[:2])[2] if closest else None


def _candidates(quote: str, texts: Sequence[Text], slack: int) -> Iterator[Hit]:
    """Yield windows around the rarest words of a quote."""
    texts = _readable(texts)
    counts = {word: 0 for word in words_of(quote)[:8] if len(word) > 2}
    for text in texts:
        body = text.text
        for word in counts:
            counts[word] += body.count(word)
    for _, word in sorted((count, word) for word, count in counts.items() if count)[:3]:
        yield from _windows(texts, word, quote.find(word), len(quote), slack)


def _readable(texts: Sequence[Text]) -> list[Text]:
    """As many texts as can be searched in a moment, in their order."""
    left = _READ
    chosen: list[Text] = []
    for text in texts:
        left -= text.size
        if left < 0 and chosen:
            break
        chosen.append(text)
    return chosen


def _windows(texts: Sequence[Text], word: str, before: int, length: int, slack: int) -> Iterator[Hit]:
    """Yield as much text around a word as the quote has around it, up to whole words."""
    left = _NEAR
    for text in texts:
        body = text.text
        for place in places(body, word, left):
            left -= 1
            low, high = max(0, place - before), min(len(body), place - before + length + slack)
            cut = body.rfind(" ", place, high) if high < len(body) else -1
            yield Hit(text, low, cut if cut > place else high)
        if not left:
            return


def _one_line(text: str, most: int) -> str:
    shown = " ".join(valid(text).split())
    return f'"{shown[: most - 1]}…"' if len(shown) > most else f'"{shown}"'
