"""Questions over many lines of one shape: counts, comparisons, pairs, sums, first and last."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter

from rlm_dspy.tuning.tasks.drawing import Draw, Item

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
    """Count labelled lines: by label; by label and user or month; or with labels to be told from the text."""
    users = draw.names(12)
    rows = _texts(draw, users)
    label, other = draw.rng.sample(list(LABELS), 2)
    user = draw.rng.choice(users)
    month = _START.replace(month=draw.rng.randrange(1, 13)).strftime("%Y-%m")
    counts = Counter(row[2] for row in rows)
    kind = draw.rng.choice(draw.by_level(("count", "most"), ("user", "month", "compare"), ("count", "user", "compare")))
    (_, most), (_, second), *_ = [*counts.most_common(2), ("", 0), ("", -1)]
    kind = "count" if kind == "most" and most == second else kind  # a tie has no right answer
    hint = " (the kinds of texts are complaint, praise, question and request)" if draw.level == "hard" else ""
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
            "more" if counts[label] > counts[other] else "less" if counts[label] < counts[other] else "equal",
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


def _texts(draw: Draw, users: list[str]) -> list[tuple[datetime.date, str, str, str]]:
    """Return (day, user, label, line) of as many texts as fill the context."""
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
    """List every pair of users that both wrote texts of two kinds: the work grows with the square of the users."""
    count = draw.by_level(8, 14, 24)
    users = draw.names(count)
    first, second, *others = draw.rng.sample(list(LABELS), len(LABELS))
    both = sorted(draw.rng.sample(users, draw.by_level(3, 4, 6)))
    allowed = {user: [*others, draw.rng.choice((first, second))] for user in users if user not in both}
    lines = [_post(draw, user, label) for user in both for label in (first, second)]
    length = sum(map(len, lines))
    while length < draw.chars:
        user = draw.rng.choice(users)
        line = _post(draw, user, draw.rng.choice(allowed.get(user, list(LABELS))))
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


def _post(draw: Draw, user: str, label: str) -> str:
    said = draw.rng.choice(LABELS[label])
    return f"User: {user} || Text: {said} || Label: {label}"


def logs(draw: Draw) -> Item:
    """Answer from a CSV log: a count, a sum over a filter, or the first, last or slowest line of a service."""
    services = [name.lower() for name in draw.names(6)]
    rows = _requests(draw, services)
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


def _requests(draw: Draw, services: list[str]) -> list[tuple[str, str, int, int, int]]:
    """Return (time, service, status, ms, bytes) of as many requests as fill the context."""
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
