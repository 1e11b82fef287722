"""The generators of tasks: seeded choices, and names that no two splits share."""

from __future__ import annotations

import datetime
import itertools
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlm_dspy.counting import CHARS_PER_TOKEN
from rlm_dspy.evidence.absence import ABSENT

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")

_ONSETS = (
    "b", "br", "c", "d", "dr", "f", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "r", "s", "st", "t",
    "tr", "v", "w", "z",
)  # fmt: skip
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
    "bridge", "orchard", "market", "library", "harbour", "mill", "tower", "garden", "station", "well", "barn",
    "theatre", "quarry", "meadow",
)  # fmt: skip
_MANNERS = ("quiet", "crowded", "damp", "bright", "plain", "narrow", "old", "newly painted", "half empty", "dusty")


@dataclass(frozen=True)
class Item:
    """One generated question: a text or texts by name, the question, the exact answer and its scorer."""

    task: str
    level: Level
    context: str | dict[str, str]
    question: str
    answer: Any
    scorer: str
    support: tuple[str, ...] = ()


class Draw:
    """A source of random choices that depends only on its arguments."""

    def __init__(self, task: str, *, split: Split, seed: int, index: int, tokens: int, level: Level) -> None:
        self.rng = random.Random(f"{task}/{split}/{seed}/{index}/{tokens}/{level}")
        self.level: Level = level
        self.chars = tokens * CHARS_PER_TOKEN
        self._share = SPLITS.index(split)
        self._taken: set[str] = set()

    def name(self, syllables: int = 2) -> str:
        """Return a new capitalised name that only this split can have."""
        while True:
            word = "".join(self._random_syllable() for _ in range(syllables)).capitalize()
            if word not in self._taken and zlib.crc32(word.encode()) % len(SPLITS) == self._share:
                self._taken.add(word)
                return word

    def _random_syllable(self) -> str:
        return self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS) + self.rng.choice(_CODAS)

    def names(self, count: int, syllables: int = 2) -> list[str]:
        """Return ``count`` new names; a larger count needs more syllables."""
        return [self.name(syllables + (count > 2_000)) for _ in range(count)]

    def code(self, digits: int = 6) -> int:
        """Return a number with ``digits`` digits."""
        return self.rng.randrange(10 ** (digits - 1), 10**digits)

    def by_level(self, easy: Any, medium: Any, hard: Any) -> Any:
        """Return the value for this level."""
        return {"easy": easy, "medium": medium, "hard": hard}[self.level]

    def filler_lines(self, chars: int) -> list[str]:
        """Return lines of filler prose, about ``chars`` characters in total."""
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

    def spread_lines(self, lines: Sequence[str]) -> str:
        """Spread lines over a filler text of this draw's size, keeping their order."""
        filler = self.filler_lines(self.chars - sum(len(line) + 1 for line in lines))
        places = sorted(self.rng.choices(range(len(filler) + 1), k=len(lines)))
        text: list[str] = []
        last = 0
        for place, line in zip(places, lines, strict=True):
            text += [*filler[last:place], line]
            last = place
        return "\n".join([*text, *filler[last:]]) + "\n"


def needle(draw: Draw) -> Item:
    """Find an access code: one in prose, one among many similar ones, or all four of one place."""
    place = draw.name(3)
    codes = [draw.code() for _ in range(draw.by_level(1, 1, 4))]
    sought = [f"The access code of {place} is {code}." for code in codes]
    others = draw.names(draw.by_level(0, max(5, draw.chars // 4_000), max(5, draw.chars // 4_000)), 3)
    lines = sought + [f"The access code of {other} is {draw.code()}." for other in others[:3_000]]
    draw.rng.shuffle(lines)
    many = len(codes) > 1
    return Item(
        task="needle",
        level=draw.level,
        context=draw.spread_lines(lines),
        question=f"What are all access codes of {place}?" if many else f"What is the access code of {place}?",
        answer=sorted(codes) if many else codes[0],
        scorer="set_f1" if many else "exact",
        support=tuple(sought),
    )


def variables(draw: Draw) -> Item:
    """Find every variable that holds a value, through chains of assignments in order."""
    chains, hops = draw.by_level((2, 2), (4, 4), (8, 8))
    lines: list[tuple[int, str]] = []
    sought: list[str] = []
    value = 0
    for chain in range(chains):
        names = [name.upper() for name in draw.names(hops + 1, 2)]
        number = draw.code(5)
        places = sorted(draw.rng.sample(range(1_000_000), hops + 1))
        assignments = [f"VAR {names[0]} = {number}"]
        assignments += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(names)]
        lines += zip(places, assignments, strict=True)
        if chain == 0:
            sought, value = names, number
    ordered = [line for _, line in sorted(lines)]
    starts = tuple(f"VAR {name} =" for name in sought)
    return Item(
        task="variables",
        level=draw.level,
        context=draw.spread_lines(ordered),
        question=f"Which variables hold the value {value} at the end? List all of them.",
        answer=sorted(sought),
        scorer="set_f1",
        support=tuple(line for line in ordered if line.startswith(starts)),
    )


_STEPS = (
    ("mentor", "{a} was taught by {b}."),
    ("employer", "{a} works for {b}."),
    ("landlord", "{a} rents rooms from {b}."),
)
_TRADES = ("baker", "surveyor", "printer", "pilot", "chemist", "tailor", "notary", "gardener")


def multihop(draw: Draw) -> Item:
    """Follow relations between people of synthetic biographies to somebody's birthplace."""
    hops = draw.by_level(1, 2, 3)
    many = draw.chars > 2_000 * 195  # then names are longer, and so are biographies
    count = max(hops + 6, min(60_000, draw.chars // (292 if many else 195)))
    people = [f"{first} {last}" for first, last in zip(draw.names(count, 2), draw.names(count, 3), strict=True)]
    towns = draw.names(max(8, min(400, count // 4)), 3)
    home = {person: draw.rng.choice(towns) for person in people}
    links = {}
    for person in people:
        links[person] = [draw.rng.choice(people) for _ in _STEPS]
    biographies = []
    for person in people:
        facts = [f"{person} was born in {home[person]} and became a {draw.rng.choice(_TRADES)}."]
        facts += [text.format(a=person, b=other) for (_, text), other in zip(_STEPS, links[person], strict=True)]
        biographies.append(" ".join(facts))
    start = draw.rng.choice(people)
    person, path, support = start, [], []
    for _ in range(hops):
        step = draw.rng.randrange(len(_STEPS))
        path.append(_STEPS[step][0])
        support.append(_STEPS[step][1].format(a=person, b=links[person][step]))
        person = links[person][step]
    chain = " of the ".join(reversed(path))
    return Item(
        task="multihop",
        level=draw.level,
        context="\n".join(biographies) + "\n",
        question=f"In which town was the {chain} of {start} born?",
        answer=home[person],
        scorer="exact",
        support=(*support, f"{person} was born in {home[person]}"),
    )


LABELS = {
    "complaint": (
        "The parcel came broken and nobody answers.",
        "Third outage this week, I am fed up.",
        "You charged me twice, that is wrong.",
    ),
    "praise": (
        "Wonderful service, thank you so much!",
        "The new layout is a joy to use.",
        "Best support I have ever had.",
    ),
    "question": ("How do I change my address?", "Is there a student price?", "When will the shop open again?"),
    "request": (
        "Please send me the invoice again.",
        "Please add a dark theme.",
        "Kindly cancel my order from Monday.",
    ),
}
_START = datetime.date(2024, 1, 1)


def counting(draw: Draw) -> Item:
    """Count labelled lines: by label; by label and user or month; or with labels to be inferred from the text."""
    users = draw.names(12)
    rows = _labelled_texts(draw, users)
    label, other = draw.rng.sample(list(LABELS), 2)
    user = draw.rng.choice(users)
    month = _START.replace(month=draw.rng.randrange(1, 13)).strftime("%Y-%m")
    counts = Counter(row[2] for row in rows)
    kind = draw.rng.choice(draw.by_level(("count", "most"), ("user", "month", "compare"), ("count", "user", "compare")))
    (_, most), (_, second), *_ = [*counts.most_common(2), ("", 0), ("", -1)]
    # a tie has no right answer
    if kind == "most" and most == second:
        kind = "count"
    hint = ""
    if draw.level == "hard":
        hint = " (the kinds of texts are complaint, praise, question and request)"
    more_or_less = "more" if counts[label] > counts[other] else "less"
    asked: dict[str, tuple[str, object]] = {
        "count": (f"How many texts are a {label}?", counts[label]),
        "most": ("Which label is the most frequent?", counts.most_common(1)[0][0]),
        "user": (f"How many texts of the user {user} are a {label}?", sum(r[1:3] == (user, label) for r in rows)),
        "month": (
            f"How many texts dated in {month} are a {label}?",
            sum(r[0].strftime("%Y-%m") == month and r[2] == label for r in rows),
        ),
        "compare": (
            f"Is the label {label} more, less or equally frequent as {other}? Answer more, less or equal.",
            "equal" if counts[label] == counts[other] else more_or_less,
        ),
    }
    question, answer = asked[kind]
    return Item(
        task="counting",
        level=draw.level,
        context="\n".join(row[3] for row in rows) + "\n",
        question=question + hint,
        answer=answer,
        scorer="closeness" if isinstance(answer, int) else "exact",
    )


def _labelled_texts(draw: Draw, users: list[str]) -> list[tuple[datetime.date, str, str, str]]:
    """Return (day, user, label, line) for enough texts to fill the context."""
    rows, length = [], 0
    while length < draw.chars:
        label, user = draw.rng.choices(list(LABELS), (4, 3, 2, 1))[0], draw.rng.choice(users)
        day = _START + datetime.timedelta(days=draw.rng.randrange(366))
        said = draw.rng.choice(LABELS[label])
        line = f"Date: {day} || User: {user} || Text: {said}"
        line += "" if draw.level == "hard" else f" || Label: {label}"
        rows.append((day, user, label, line))
        length += len(line) + 1
    return rows


def pairs(draw: Draw) -> Item:
    """List every pair of users who both wrote texts of two kinds; the work grows with the square of the users."""
    count = draw.by_level(8, 14, 24)
    users = draw.names(count)
    first, second, *others = draw.rng.sample(list(LABELS), len(LABELS))
    both = sorted(draw.rng.sample(users, draw.by_level(3, 4, 6)))
    allowed = {user: [*others, draw.rng.choice((first, second))] for user in users if user not in both}
    lines = [_post_line(draw, user, label) for user in both for label in (first, second)]
    length = sum(map(len, lines))
    while length < draw.chars:
        user = draw.rng.choice(users)
        line = _post_line(draw, user, draw.rng.choice(allowed.get(user, list(LABELS))))
        lines.append(line)
        length += len(line) + 1
    draw.rng.shuffle(lines)
    return Item(
        task="pairs",
        level=draw.level,
        context="\n".join(lines) + "\n",
        question=(
            f"List all pairs of different users who both have at least one {first} and at least one {second}. "
            "Write each pair as 'A & B', names in alphabetical order."
        ),
        answer=[f"{a} & {b}" for a, b in itertools.combinations(both, 2)],
        scorer="set_f1",
    )


def _post_line(draw: Draw, user: str, label: str) -> str:
    said = draw.rng.choice(LABELS[label])
    return f"User: {user} || Text: {said} || Label: {label}"


def logs(draw: Draw) -> Item:
    """Answer from a CSV log: a count, a sum over a filter, or the first, last or slowest line of a service."""
    services = [name.lower() for name in draw.names(6)]
    rows = _request_rows(draw, services)
    faults = sorted({row[1:3] for row in rows if row[2] != 200}) or sorted({row[1:3] for row in rows})
    service, status = draw.rng.choice(faults)
    wanted = [row for row in rows if row[1:3] == (service, status)]
    kind = draw.rng.choice(draw.by_level(("count",), ("sum", "first"), ("last", "slowest")))
    asked: dict[str, tuple[str, object]] = {
        "count": (f"How many lines of the service {service} have status {status}?", len(wanted)),
        "sum": (
            f"What is the sum of bytes over the lines of {service} with status {status}?",
            sum(r[4] for r in wanted),
        ),
        "first": (f"At what time is the first line of {service} with status {status}?", wanted[0][0]),
        "last": (f"At what time is the last line of {service} with status {status}?", wanted[-1][0]),
        "slowest": (
            f"What is the greatest ms of the lines of {service} with status {status}?",
            max(r[3] for r in wanted),
        ),
    }
    question, answer = asked[kind]
    return Item(
        task="logs",
        level=draw.level,
        context="time,service,status,ms,bytes\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n",
        question=question,
        answer=answer,
        scorer="exact",
    )


def _request_rows(draw: Draw, services: list[str]) -> list[tuple[str, str, int, int, int]]:
    """Return (time, service, status, ms, bytes) for enough requests to fill the context."""
    rows = []
    clock = datetime.datetime(2025, 3, 1)
    length = 0
    while length < draw.chars:
        clock += datetime.timedelta(seconds=draw.rng.randrange(1, 40))
        row = (
            clock.isoformat(),
            draw.rng.choice(services),
            draw.rng.choices((200, 404, 500, 503), (80, 10, 6, 4))[0],
            draw.rng.randrange(3, 2_000),
            draw.rng.randrange(100, 99_999),
        )
        rows.append(row)
        length += 45
    return rows


_FILE = 6_000  # approximate characters of a generated file


def code(draw: Draw) -> Item:
    """Answer about a generated package: a default, the file that defines a name, a base class, a constant."""
    modules = [name.lower() for name in draw.names(max(2, min(1_500, draw.chars // _FILE)), 2)]
    size = draw.chars // len(modules)
    files: dict[str, str] = {}
    functions: list[tuple[str, str, str, int]] = []
    classes: list[tuple[str, str, str]] = []
    bases = draw.names(3, 2)
    for module in modules:
        path = f"package/{module}.py"
        limit = draw.code(4)
        lines = [f'"""The {module} of the package."""', "", f"{module.upper()}_LIMIT = {limit}", ""]
        length = 0
        while length < size:
            name, parameter, value = draw.name(3).lower(), draw.name(2).lower(), draw.rng.randrange(2, 500)
            functions.append((path, name, parameter, value))
            block = [f"def {name}(data, {parameter}={value}):", f'    """Return data after {parameter} rounds."""']
            block += [
                f"    for _ in range({parameter}):",
                "        data = data + [len(data)]",
                "    return data",
                "",
                "",
            ]
            if len(functions) % 5 == 0:
                child, base = draw.name(3), draw.rng.choice(bases)
                classes.append((path, child, base))
                block += [f"class {child}({base}):", f'    """A {base.lower()} of its own kind."""', "", ""]
            lines += block
            length += sum(map(len, block)) + len(block)
        files[path] = "\n".join(lines)
    path, name, parameter, value = draw.rng.choice(functions)
    line = f"def {name}(data, {parameter}={value}):"
    if draw.level == "easy":
        return _code_item(draw, files, f"What is the default of {parameter} in the function {name}?", value, line)
    if draw.level == "medium" or not classes:
        return _code_item(draw, files, f"Which file defines the function {name}?", path, line)
    base = draw.rng.choice(sorted({base for *_, base in classes}))
    children = [child for _, child, of in classes if of == base]
    asked = f"How many classes inherit from {base}?"
    return _code_item(draw, files, asked, len(children), *(f"class {child}({base}):" for child in children))


def _code_item(draw: Draw, files: dict[str, str], question: str, answer: object, *support: str) -> Item:
    return Item("code", draw.level, files, question, answer, "exact", support)


_KINDS = ("berths", "cranes", "warehouses", "tugboats")


def synthesis(draw: Draw) -> Item:
    """Weigh reports: one has the answer, the newest of three conflicting ones has it, or none does."""
    count = max(3, min(2_000, draw.chars // _FILE))
    port, absent, *others = draw.names(6, 3)
    kind = draw.rng.choice(_KINDS)
    days = draw.rng.sample(range(3_000), count)
    lines: dict[int, list[str]] = {day: [] for day in days}
    for other in others:
        lines[draw.rng.choice(days)].append(f"The port of {other} has {draw.rng.randrange(2, 90)} {kind}.")
    stated = sorted(draw.rng.sample(days, min(count, draw.by_level(1, 3, 3))))
    values = draw.rng.sample(range(2, 200), len(stated))
    for day, value in zip(stated, values, strict=True):
        lines[day].append(f"The port of {port} has {value} {kind}.")
    files = {}
    for number, day in enumerate(days):
        date = datetime.date(2016, 1, 1) + datetime.timedelta(days=day)
        body = draw.filler_lines(draw.chars // count - 60)
        for line in lines[day]:
            body.insert(draw.rng.randrange(len(body) + 1), line)
        files[f"reports/{number:04d}.txt"] = "\n".join([f"Report of {date}.", *body]) + "\n"
    # Every other hard question has no answer in the corpus.
    declines = draw.level == "hard" and draw.rng.random() < 0.5
    asked = absent if declines else port
    return Item(
        task="synthesis",
        level=draw.level,
        context=files,
        question=(
            f"According to the newest report that tells it, how many {kind} does the port of {asked} have? "
            f"If no report tells it, answer '{ABSENT}'."
        ),
        answer=ABSENT if declines else values[-1],
        scorer="abstention",
        support=() if declines else (f"The port of {port} has {values[-1]} {kind}.",),
    )
