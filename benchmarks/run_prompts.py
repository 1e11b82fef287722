"""Characters of each prompt part in thirteen scripted tasks, compared with dspy.RLM.

    python benchmarks/run_prompts.py

Both programs run the same code for each task, step by step, on the same sandbox, with sub-calls answered by a script.
So only the programs' own texts differ: the system text, the first look at the inputs, the frame of a turn. The parts
are: the system text, the first user message, the later observations, the model's own replies, and the total of all
prompts of a run.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted, texts

SEED = 7
EVIDENCE = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
PLAIN = "context, question -> answer"


@dataclass(frozen=True)
class Shape:
    """A task: its inputs and the cells that solve it; the last cell submits."""

    name: str
    context: Any
    question: str
    cells: tuple[str, ...]
    signature: str = PLAIN


def shapes() -> list[Shape]:
    """Return the thirteen tasks, generated from a seed."""
    draw = random.Random(SEED)
    words = ["river", "stone", "gate", "winter", "ledger", "harbour", "lantern", "market", "north", "quiet", "seven"]
    prose = "\n".join(" ".join(draw.choices(words, k=12)) + "." for _ in range(2_000))
    needle = prose[:80_000] + "\nThe access code of the north gate is 48213.\n" + prose[80_000:]
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["id", "city", "price"])
    for number in range(4_000):
        rows.writerow([number, draw.choice(["Rome", "Ulm", "Oslo"]), draw.randint(1, 500)])
    logs = "\n".join(f"2026-01-{draw.randint(1, 28):02} {draw.choice(['ERROR', 'INFO'])} job {n}" for n in range(3_000))
    folder = {f"src/m{n:03}.py": f"def f{n}(x):\n    limit = {n}\n    return x + limit\n" * 20 for n in range(80)}
    reports = {f"reports/{n:04}.txt": f"Report {n}\n" + prose[n * 200 : n * 200 + 3_000] for n in range(100)}
    reviews = [f"Review {n}: " + " ".join(draw.choices(words, k=20)) for n in range(400)]
    size, long = "print(len(context))", ("print(context[:9000])", "print(context[9000:18000])")
    look, submit = "print(context[:300])", "SUBMIT(answer=str(n))"
    count = "n = sum('ERROR' in line for line in context.splitlines())\nprint(n)"
    price = (
        "import csv, io\nrows = list(csv.DictReader(io.StringIO(context)))\n"
        "n = sum(int(r['price']) for r in rows if r['city'] == 'Rome')\nprint(n)"
    )
    find = "import re\nn = re.search(r'north gate is (\\d+)', context)[1]\nprint(n)"
    quote = "SUBMIT(answer=str(n), evidence=[{'quote': 'The access code of the north gate is 48213.'}])"
    names = "hits = [k for k, v in context.items() if 'f17(' in v]\nprint(hits)\nn = hits[0]"
    labels = "n = llm_query_batched([t for t in context[:8]])\nprint(n[:3])"
    return [
        Shape("needle", needle, "What is the access code of the north gate?", (look, find, submit)),
        Shape("needle, evidence", needle, "What is the access code of the north gate?", (find, quote), EVIDENCE),
        Shape("count", logs, "How many lines are errors?", (look, count, submit)),
        Shape("count, one step", logs, "How many lines are errors?", (f"{count}\n{submit}",)),
        Shape("CSV sum", table.getvalue(), "What is the total price of Rome?", (look, price, submit)),
        Shape("CSV look-up", table.getvalue(), "Which city has id 17?", (look, "n = 'Rome'\nprint(n)", submit)),
        Shape("code in a folder", folder, "Where is f17 defined?", ("print(list(context)[:9])", names, submit)),
        Shape("reports in a folder", reports, "Which report speaks of harbours?", (size, "n = 3", submit)),
        Shape("two hops", needle, "Who may pass the gate with it?", (look, find, "print(context[-200:])", submit)),
        Shape("labels", reviews, "Which reviews are angry?", ("print(context[:2])", labels, submit)),
        Shape("list of records", [{"id": n, "text": t} for n, t in enumerate(reviews)], "How many?", (
            size, "n = len(context)\nprint(n)", submit)),
        Shape("short text", prose[:1_500], "What is it about?", ("n = 'a gate'", submit)),
        Shape("long outputs", prose, "What is it about?", (*long, "n = 1", submit)),
    ]  # fmt: skip


def main() -> None:
    """Print a row for each task and program, and the totals."""
    print("| task | steps | program | system | first look | observations | replies | sent in all |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    sums: dict[str, list[int]] = {}
    for shape in shapes():
        for name, kind in (("dspy.RLM", dspy.RLM), ("rlm_dspy.RLM", rlm_dspy.RLM)):
            sizes = measure(kind, shape)
            total = sums.setdefault(name, [0] * len(sizes))
            sums[name] = [before + size for before, size in zip(total, sizes, strict=True)]
            cells = " | ".join(f"{size:,}" for size in sizes)
            print(f"| {shape.name} | {len(shape.cells)} | {name} | {cells} |")
    for name, sizes in sums.items():
        print(f"| all | | {name} | {' | '.join(f'{size:,}' for size in sizes)} |")
    saved = 1 - sums["rlm_dspy.RLM"][-1] / sums["dspy.RLM"][-1]
    print(f"\nrlm_dspy.RLM sends {saved:.1%} fewer characters (four of them are about a token)")


def measure(kind: Callable[..., Any], shape: Shape) -> list[int]:
    """Run a task and count the characters of its prompts."""
    lm, script = scripted(*(action(cell, "Look for it.") for cell in shape.cells), model="openai/gpt-5")
    sub_lm, _ = scripted("angry")
    context = shape.context
    if isinstance(context, dict) and kind is rlm_dspy.RLM:
        context = rlm_dspy.Corpus.from_texts(context)
    program = kind(shape.signature, sub_lm=sub_lm, interpreter_factory=rlm_dspy.Sandbox)
    with dspy.context(lm=lm):
        program(context=context, question=shape.question)
    prompts = [texts(request) for request in script.requests]
    system, *turns = prompts[-1]
    users = [turn for turn in turns if turn.startswith("user")]
    replies = [turn for turn in turns if turn.startswith("assistant")]
    whole = sum(len(part) for prompt in prompts for part in prompt)
    return [len(system), len(users[0]), sum(map(len, users[1:])), sum(map(len, replies)), whole]


if __name__ == "__main__":
    main()
