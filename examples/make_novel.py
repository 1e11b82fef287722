"""Write a novel of more than 500,000 characters in which a letter changes hands; the plot is known to the code.

python examples/make_novel.py > novel.txt
"""

import random
from dataclasses import dataclass

PEOPLE = ("Anna Holm", "Piet Brandt", "Clara Voss", "Jonas Reed", "Marta Lind", "Emil Sand", "Ida Thorn", "Oskar Vane")
PLACES = ("the harbour", "the mill", "the old church", "the customs house", "the inn", "the lighthouse", "the market")
THINGS = ("the lantern", "the map", "the silver key", "the violin", "the blue coat")
HANDOVERS = (
    "{giver} put the letter into the hands of {taker}.",
    "{giver} gave the letter to {taker} and left.",
    "While {giver} slept, {taker} took the letter.",
)
MENTIONS = (
    "{one} asked {two} who had written the letter.",
    "{one} dreamed of the letter that night.",
    "{one} told {two} that the letter was lost, which was not true.",
)
SCENES = (
    "{one} met {two} at {place} and they spoke about the weather until it was dark.",
    "{one} gave {thing} to {two}, who did not want it.",
    "It rained at {place}, and {one} waited there for an hour.",
    "While {two} slept, {one} took {thing} and brought it back before dawn.",
    "{one} walked from {place} to the river, counting the boats.",
    "Nobody at {place} had seen {one} since Sunday.",
)


@dataclass
class Novel:
    """A novel, and who holds the letter at its beginning and at the end of each chapter."""

    text: str
    holders: tuple[str, ...]


def make_novel(seed: int = 7, chapters: int = 80) -> Novel:
    """Return the same novel for the same seed."""
    chance = random.Random(seed)
    holder = chance.choice(PEOPLE)
    lines, holders = [f"{holder} found the letter under the door.\n"], [holder]
    for number in range(1, chapters + 1):
        sentences = [write_sentence(chance, SCENES) for _ in range(105)]
        sentences.insert(chance.randrange(100), write_sentence(chance, MENTIONS))
        if chance.random() < 0.3:
            taker = chance.choice([name for name in PEOPLE if name != holder])
            handover = chance.choice(HANDOVERS).format(giver=holder, taker=taker)
            sentences.insert(chance.randrange(100), handover)
            holder = taker
        paragraphs = [" ".join(sentences[start : start + 7]) for start in range(0, len(sentences), 7)]
        lines.append(f"Chapter {number}\n\n" + "\n\n".join(paragraphs) + "\n")
        holders.append(holder)
    return Novel("\n".join(lines), tuple(holders))


def write_sentence(chance: random.Random, forms: tuple[str, ...]) -> str:
    """Return a sentence about two people, a place and a thing."""
    one, two = chance.sample(PEOPLE, 2)
    return chance.choice(forms).format(one=one, two=two, place=chance.choice(PLACES), thing=chance.choice(THINGS))


if __name__ == "__main__":
    print(make_novel().text)
