"""Seeded choices for generated tasks, and names that no two splits share."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlm_dspy.metering import CHARS_PER_TOKEN

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")

_ONSETS = (
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
_CODAS = ("", "", "l", "n", "r", "s", "th", "m", "nd", "rk")

_FILLER = (
    "The {a} near the {b} was {c} again after {n} days of rain.",
    "On most mornings {n} people walk from the {a} to the {b}, talking little.",
    "A {c} {a} stood beside the {b}, and nobody could say for how long.",
    "Page {n} of the guide calls the {a} {c}, which few visitors would dispute.",
    "They repaired the {a} in {n} hours and left the {b} as it was.",
    "Between the {a} and the {b} lies a {c} path of some {n} steps.",
    "Whoever has seen the {c} {b} at dusk remembers the {a} too.",
)
_THINGS = (
    "bridge",
    "orchard",
    "market",
    "library",
    "harbour",
    "mill",
    "tower",
    "garden",
    "station",
    "well",
    "barn",
    "theatre",
    "quarry",
    "meadow",
)
_MANNERS = ("quiet", "crowded", "damp", "bright", "plain", "narrow", "old", "newly painted", "half empty", "dusty")


@dataclass(frozen=True)
class Item:
    """One generated question: a text or texts by name, what is asked, the exact answer and how it is scored."""

    task: str
    level: Level
    context: str | dict[str, str]
    question: str
    answer: Any
    scorer: str
    support: tuple[str, ...] = ()


class Draw:
    """A source of choices that depends on nothing but what it was made of."""

    def __init__(self, task: str, *, split: Split, seed: int, index: int, tokens: int, level: Level) -> None:
        self.rng = random.Random(f"{task}/{split}/{seed}/{index}/{tokens}/{level}")
        self.level: Level = level
        self.chars = tokens * CHARS_PER_TOKEN
        self._share = SPLITS.index(split)
        self._taken: set[str] = set()

    def name(self, syllables: int = 2) -> str:
        """Return a new capitalised name that only this split can have."""
        while True:
            word = "".join(self._syllable() for _ in range(syllables)).capitalize()
            if word not in self._taken and zlib.crc32(word.encode()) % len(SPLITS) == self._share:
                self._taken.add(word)
                return word

    def _syllable(self) -> str:
        return self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS) + self.rng.choice(_CODAS)

    def names(self, count: int, syllables: int = 2) -> list[str]:
        """Return ``count`` new names; more of them need more syllables."""
        return [self.name(syllables + (count > 2_000)) for _ in range(count)]

    def code(self, digits: int = 6) -> int:
        """Return a number of so many digits."""
        return self.rng.randrange(10 ** (digits - 1), 10**digits)

    def by_level(self, easy: Any, medium: Any, hard: Any) -> Any:
        """Return what belongs to this level."""
        return {"easy": easy, "medium": medium, "hard": hard}[self.level]

    def filler(self, chars: int) -> list[str]:
        """Return lines of harmless prose, about ``chars`` characters in all."""
        pool = [
            self.rng.choice(_FILLER).format(
                a=self.rng.choice(_THINGS),
                b=self.rng.choice(_THINGS),
                c=self.rng.choice(_MANNERS),
                n=self.rng.randrange(2, 90),
            )
            for _ in range(400)
        ]
        lines: list[str] = []
        while chars > 0:
            batch = self.rng.choices(pool, k=min(2_000, chars // 75 + 1))
            lines += batch
            chars -= sum(map(len, batch)) + len(batch)
        return lines

    def hidden(self, lines: Sequence[str]) -> str:
        """Hide lines at random places of a filler text of this draw's size."""
        shuffled = list(lines)
        self.rng.shuffle(shuffled)
        return self.spread(shuffled)

    def spread(self, lines: Sequence[str]) -> str:
        """Spread lines over a filler text of this draw's size, keeping their order."""
        filler = self.filler(self.chars - sum(len(line) + 1 for line in lines))
        places = sorted(self.rng.choices(range(len(filler) + 1), k=len(lines)))
        text: list[str] = []
        last = 0
        for place, line in zip(places, lines, strict=True):
            text += [*filler[last:place], line]
            last = place
        return "\n".join([*text, *filler[last:]]) + "\n"
