"""Questions over one long text: hidden facts, chains of assignments, chains of people."""

from __future__ import annotations

import itertools

from rlm_dspy.tuning.tasks.drawing import Draw, Item


def needle(draw: Draw) -> Item:
    """Find an access code: one among prose, one among many alike, or all four that one place has."""
    place = draw.name(3)
    codes = [draw.code() for _ in range(draw.by_level(1, 1, 4))]
    sought = [f"The access code of {place} is {code}." for code in codes]
    others = draw.names(draw.by_level(0, max(5, draw.chars // 4_000), max(5, draw.chars // 4_000)), 3)
    lines = sought + [f"The access code of {other} is {draw.code()}." for other in others[:3_000]]
    many = len(codes) > 1
    return Item(
        task="needle",
        level=draw.level,
        context=draw.hidden(lines),
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
        told = [f"VAR {names[0]} = {number}"]
        told += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(names)]
        lines += zip(places, told, strict=True)
        if chain == 0:
            sought, value = names, number
    ordered = [line for _, line in sorted(lines)]
    return Item(
        task="variables",
        level=draw.level,
        context=draw.spread(ordered),
        question=f"Which variables hold the value {value} at the end? List all of them.",
        answer=sorted(sought),
        scorer="set_f1",
        support=tuple(line for line in ordered if any(f"VAR {name} =" in line for name in sought)),
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
    many = draw.chars > 2_000 * 195  # then names are longer, and biographies with them
    count = max(hops + 6, min(60_000, draw.chars // (292 if many else 195)))
    people = [f"{first} {last}" for first, last in zip(draw.names(count, 2), draw.names(count, 3), strict=True)]
    towns = draw.names(max(8, min(400, count // 4)), 3)
    home = {person: draw.rng.choice(towns) for person in people}
    links = {person: [draw.rng.choice(people) for _ in _STEPS] for person in people}
    biographies = []
    for person in people:
        told = [f"{person} was born in {home[person]} and became a {draw.rng.choice(_TRADES)}."]
        told += [text.format(a=person, b=other) for (_, text), other in zip(_STEPS, links[person], strict=True)]
        biographies.append(" ".join(told))
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
