"""Generate the retrieval set: three corpora and questions with the lines that answer them, the same for a seed.

python datasets/retrieval/make_retrieval.py                  # the committed questions and the digest of the corpora
python datasets/retrieval/make_retrieval.py --corpora DIR    # also writes the corpora, 1.3 MB, to look at them
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import material

HERE = Path(__file__).parent
SEED = 19
LANGUAGES = {
    "english": (material.ENGLISH, material.ENGLISH_FILLER, 90),
    "german": (material.GERMAN, material.GERMAN_FILLER, 48),
    "french": (material.FRENCH, material.FRENCH_FILLER, 48),
}
CODE_QUESTIONS = 150
TABLE_QUESTIONS = 120

Row = dict[str, object]
Texts = dict[str, str]


def made_set(seed: int = SEED) -> tuple[dict[str, Texts], list[Row]]:
    """Return the corpora, ``{corpus: {file: text}}``, and the questions."""
    corpora: dict[str, Texts] = {"prose": {}, "code": {}, "tables": {}}
    rows: list[Row] = []
    for language in LANGUAGES:
        rows += add_prose(corpora["prose"], language, random.Random(f"{seed} {language}"))
    rows += add_code(corpora["code"], random.Random(f"{seed} code"))
    rows += add_tables(corpora["tables"], random.Random(f"{seed} tables"))
    for number, row in enumerate(rows):
        row["id"] = f"{row['corpus']}-{number:03}"
    return corpora, rows


def digest_of(corpora: dict[str, Texts]) -> str:
    """Return the SHA-256 of the corpora."""
    return hashlib.sha256(json.dumps(corpora, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def question_row(corpus: str, question: str, source: str, lines: tuple[int, int], kind: str, topic: int) -> Row:
    """Return a question; every third topic is for development, so no sentence is in both splits."""
    split = "dev" if topic % 3 == 0 else "test"
    first, last = lines
    place = {"source": source, "first_line": first, "last_line": last}
    return {"id": "", "corpus": corpus, "question": question, **place, "kind": kind, "split": split}


# Prose


def add_prose(texts: Texts, language: str, chance: random.Random) -> list[Row]:
    """Write reports on places, which name the place in their title, and letters, which name it in each sentence."""
    facts, _, wanted = LANGUAGES[language]
    found: list[tuple[int, str, int, str, bool]] = []  # fact, file, line, place, whether in a report
    for number, place in enumerate(material.PLACES):
        chosen = chance.sample(range(len(facts)), min(len(facts), 12))
        in_report = number % 2 == 0
        name = f"{language}/{'report' if in_report else 'letter'}-{number:02}.md"
        lines = report_lines(language, place, chosen, in_report, chance)
        texts[name] = "".join(f"{text}\n" for _, text in lines)
        found += [(fact, name, line, place, in_report) for line, (fact, _) in enumerate(lines, 1) if fact is not None]
    chance.shuffle(found)
    rows = []
    for number, (fact, name, line, place, in_report) in enumerate(spread_evenly(found)[:wanted]):
        which = (number // len(facts) + fact) % 2
        question = facts[fact][1][which].format(P=place)
        kind = f"{'other forms' if which == 0 else 'synonyms'}{', under a heading' if in_report else ''}"
        rows.append(question_row("prose", question, name, (line, line), f"{language}: {kind}", fact))
    return rows


def spread_evenly(found: list[tuple[int, str, int, str, bool]]) -> list[tuple[int, str, int, str, bool]]:
    """Return one sentence of each fact, then the second of each, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for number, one in enumerate(found):
        turn = seen[one[0]] = seen.get(one[0], 0) + 1
        turns.append((turn, number, one))
    return [one for _, _, one in sorted(turns, key=lambda turn: turn[:2])]


def report_lines(
    language: str, place: str, chosen: list[int], in_report: bool, chance: random.Random
) -> list[tuple[int | None, str]]:
    """Return the lines of a document, each with the number of its fact, if it has one."""
    facts, filler, _ = LANGUAGES[language]
    title = material.TITLES[language].format(P=place) if in_report else chance.choice(material.PERSONS)
    lines: list[tuple[int | None, str]] = [(None, f"# {title}"), (None, "")]
    here = {"english": "the town", "german": "der Stadt", "french": "la ville"}[language]
    for number, fact in enumerate(chosen):
        if number % 2 == 0:
            lines += [(None, f"## {material.SECTIONS[language][number // 2 % 6]}"), (None, "")]
        others = [one for one in material.PLACES if one != place]
        words = {"N": chance.choice(material.PERSONS), "k": chance.randrange(3, 400)}
        sentence = chance.choice(facts[fact][0]).format(P=here if in_report else place, **words)
        before = filler_text(filler, 3, others, chance)
        after = filler_text(filler, 4, others, chance)
        lines += [(fact, f"{before} {sentence} {after}"), (None, "")]
    return lines


def filler_text(filler: list[str], many: int, places: list[str], chance: random.Random) -> str:
    """Return some sentences about nothing."""
    chosen = chance.sample(filler, many)
    return " ".join(one.format(N=chance.choice(material.PERSONS), P=chance.choice(places)) for one in chosen)


# Code


def add_code(texts: Texts, chance: random.Random) -> list[Row]:
    """Write modules in Python and JavaScript; a question asks for a definition, which others call."""
    pairs = [(verb, thing) for verb in material.VERBS for thing in material.THINGS]
    chance.shuffle(pairs)
    rows: list[Row] = []
    for number in range(0, len(pairs), 6):
        python = number % 12 == 0
        ending = "py" if python else "js"
        name = f"{chance.choice(['core', 'service', 'tools'])}/module_{number // 6:02}.{ending}"
        lines: list[str] = []
        for verb, thing in pairs[number : number + 6]:
            others = [pair for pair in pairs if pair != (verb, thing)]
            calls = [joined_name(*pair, python) for pair in chance.sample(others, 3)]
            first = len(lines) + 1
            lines += function_lines(joined_name(verb, thing, python), calls, python, chance)
            which = chance.choice(["forms", "forms", "synonym", "plain"])
            question = code_question(verb, thing, which)
            kind = {"forms": "other forms", "synonym": "synonyms", "plain": "identifier"}[which]
            topic = material.THINGS.index(thing)
            rows.append(question_row("code", question, name, (first, first + 1), f"{ending}: {kind}", topic))
        texts[name] = "".join(f"{line}\n" for line in lines)
    chance.shuffle(rows)
    return sorted(rows[:CODE_QUESTIONS], key=lambda row: (str(row["source"]), int(str(row["first_line"]))))


def joined_name(verb: tuple[str, ...], thing: tuple[tuple[str, ...], str], python: bool) -> str:
    """Return an identifier: ``parse_tax_rate`` or ``parseTaxRate``."""
    words = [verb[0], *thing[0]]
    return "_".join(words) if python else words[0] + "".join(word.capitalize() for word in words[1:])


def code_question(verb: tuple[str, ...], thing: tuple[tuple[str, ...], str], which: str) -> str:
    """Return a question in words."""
    noun = " ".join(split_digits(word) for word in thing[0])
    if which == "forms":
        return (
            f"where is the {noun} {verb[1]}"
            if verb[1].endswith("ed")
            else f"where is the {verb[1]} of {plural_of(noun)}"
        )
    if which == "synonym":
        return f"function to {verb[2]} {thing[1]} ({thing[0][0]})"
    return f"which function is there to {verb[0]} the {noun}"


def plural_of(noun: str) -> str:
    """Return ``policies`` for ``policy``."""
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def split_digits(word: str) -> str:
    """Return ``http 2`` for ``http2``."""
    letters = word.rstrip("0123456789")
    return f"{letters} {word[len(letters) :]}".strip()


def function_lines(name: str, calls: list[str], python: bool, chance: random.Random) -> list[str]:
    """Return a function of about twenty lines that calls others."""
    mark, end = ("    ", "") if python else ("  ", ";")
    lines = [f"def {name}(value, options=None):" if python else f"export function {name}(value, options) {{"]
    for call in calls:
        size = chance.randrange(2, 90)
        lines += [f"{mark}part = {call}(value){end}", f"{mark}result = combine(part, {size}){end}"]
        lines += [f"{mark}log(result, {chance.randrange(1000)}){end}" for _ in range(3)]
    lines += [f"{mark}return result{end}"]
    return [*lines, *([] if python else ["}"]), "", ""]


# Tables


def add_tables(texts: Texts, chance: random.Random) -> list[Row]:
    """Write tables of staff, parts and freights; a question gives some fields of a row and asks for another."""
    rows: list[Row] = []
    for name, header, make, ask in (
        ("staff", "name,role,department,town,phone", staff_fields, staff_questions),
        ("parts", "article,material,colour,supplier,warehouse,price", part_fields, part_questions),
        ("freights", "ship,cargo,tonnes,origin,destination,month", freight_fields, freight_questions),
    ):
        records = unique_records(make, 1400, chance)
        for part in range(4):
            lines = [header, *(",".join(record) for record in records[part * 350 : part * 350 + 350])]
            texts[f"{name}-{part + 1}.csv"] = "".join(f"{line}\n" for line in lines)
        for number in sorted(chance.sample(range(1400), TABLE_QUESTIONS // 3)):
            question, kind = chance.choice(list(ask(records[number])))
            line = number % 350 + 2
            source = f"{name}-{number // 350 + 1}.csv"
            rows.append(question_row("tables", question, source, (line, line), kind, number))
    return rows


def unique_records(make, many: int, chance: random.Random) -> list[list[str]]:
    """Return records whose asked fields differ from all others."""
    seen: set[tuple[str, ...]] = set()
    records: list[list[str]] = []
    while len(records) < many:
        key, record = make(chance)
        if key not in seen:
            seen.add(key)
            records.append(record)
    return records


def staff_fields(chance: random.Random) -> tuple[tuple[str, ...], list[str]]:
    """Return what the question gives, and a row."""
    role, department = chance.choice(material.ROLES), chance.choice(material.DEPARTMENTS)
    town = chance.choice(material.PLACES)
    name = f"{chance.choice(material.PERSONS)} {chance.choice('ABCDEFGHIJKLM')}."
    return (role, department, town), [name, role, department, town, f"0{chance.randrange(10**6):06}"]


def part_fields(chance: random.Random) -> tuple[tuple[str, ...], list[str]]:
    """Return what the question gives, and a row."""
    good, stuff, colour = (
        chance.choice(material.GOODS),
        chance.choice(material.MATERIALS),
        chance.choice(material.COLOURS),
    )
    house = chance.choice(material.PLACES)
    price = f"{chance.randrange(1, 90)}.{chance.randrange(100):02}"
    return (good, stuff, colour, house), [good, stuff, colour, f"{chance.choice(material.PERSONS)} Ltd", house, price]


def freight_fields(chance: random.Random) -> tuple[tuple[str, ...], list[str]]:
    """Return what the question gives, and a row."""
    cargo, month = chance.choice(material.CARGOES), chance.choice(material.MONTHS)
    origin, goal = chance.sample(material.PLACES, 2)
    ship = f"{chance.choice(material.PERSONS)} {chance.randrange(1, 40)}"
    return (cargo, origin, goal), [ship, cargo, str(chance.randrange(20, 900)), origin, goal, month]


def staff_questions(record: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (question, kind)."""
    _, role, department, town, _ = record
    yield f"phone number of the {department} {role} in {town}", "staff: phrase"
    yield f"Who of the {role}s works for {department} at {town}?", "staff: other forms"
    yield f"name, {town} {role} {department}", "staff: fields"


def part_questions(record: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (question, kind)."""
    good, stuff, colour, _, house, _ = record
    yield f"Who supplies {colour} {good}s of {stuff} to the warehouse at {house}?", "parts: other forms"
    yield f"price of the {good} {stuff} {colour} kept in {house}", "parts: phrase"
    yield f"What do {colour}, {stuff} {good}s cost in {house}?", "parts: other forms"


def freight_questions(record: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (question, kind)."""
    _, cargo, _, origin, goal, _ = record
    yield f"Which ship took {cargo} from {origin} to {goal}?", "freights: fields"
    yield f"tonnes of {cargo} shipped {origin} {goal}", "freights: phrase"
    yield f"In which month was the {cargo} of {origin} shipped to the destination {goal}?", "freights: fields"


def main() -> None:
    """Write the questions and the digest."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--seed", type=int, default=SEED)
    flags.add_argument("--out", type=Path, default=HERE)
    flags.add_argument("--corpora", type=Path)
    given = flags.parse_args()
    corpora, rows = made_set(given.seed)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (given.out / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    (given.out / "corpora.sha256").write_text(f"{digest_of(corpora)}\n")
    if given.corpora is not None:
        for corpus, texts in corpora.items():
            for name, text in texts.items():
                path = given.corpora / corpus / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    size = sum(len(text.encode()) for texts in corpora.values() for text in texts.values())
    print(f"{len(rows)} questions over {size:,} bytes")


if __name__ == "__main__":
    main()
