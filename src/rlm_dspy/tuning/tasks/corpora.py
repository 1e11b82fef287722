"""Questions over many files: a generated package, and reports that contradict each other or say nothing."""

from __future__ import annotations

import datetime

from rlm_dspy.tuning.scoring import ABSENT
from rlm_dspy.tuning.tasks.drawing import Draw, Item

_FILE = 6_000  # characters of a generated file, about


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
        return _about(draw, files, f"What is the default of {parameter} in the function {name}?", value, line)
    if draw.level == "medium" or not classes:
        return _about(draw, files, f"Which file defines the function {name}?", path, line)
    base = draw.rng.choice(sorted({base for *_, base in classes}))
    children = [child for _, child, of in classes if of == base]
    asked = f"How many classes inherit from {base}?"
    return _about(draw, files, asked, len(children), *(f"class {child}({base}):" for child in children))


def _about(draw: Draw, files: dict[str, str], question: str, answer: object, *support: str) -> Item:
    return Item("code", draw.level, files, question, answer, "exact", support)


_KINDS = ("berths", "cranes", "warehouses", "tugboats")


def synthesis(draw: Draw) -> Item:
    """Weigh reports: one says it, the newest of three that disagree, or none does and the answer is to say so."""
    count = max(3, min(2_000, draw.chars // _FILE))
    port, absent, *others = draw.names(6, 3)
    kind = draw.rng.choice(_KINDS)
    days = draw.rng.sample(range(3_000), count)
    told: dict[int, list[str]] = {day: [] for day in days}
    for other in others:
        told[draw.rng.choice(days)].append(f"The port of {other} has {draw.rng.randrange(2, 90)} {kind}.")
    stated = sorted(draw.rng.sample(days, min(count, draw.by_level(1, 3, 3))))
    values = draw.rng.sample(range(2, 200), len(stated))
    for day, value in zip(stated, values, strict=True):
        told[day].append(f"The port of {port} has {value} {kind}.")
    files = {}
    for number, day in enumerate(days):
        date = datetime.date(2016, 1, 1) + datetime.timedelta(days=day)
        body = draw.filler(draw.chars // count - 60)
        for line in told[day]:
            body.insert(draw.rng.randrange(len(body) + 1), line)
        files[f"reports/{number:04d}.txt"] = "\n".join([f"Report of {date}.", *body]) + "\n"
    # Of the hard questions every other one has no answer in the corpus.
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
