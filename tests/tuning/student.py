"""Scripted models with something to learn: a student whose skill depends on what its prompt teaches it, and a teacher.

The task: a list says several times which tag an item has; right is the newest line, and the tag alone, without the
grade behind it. The student knows how to search. Which of the lines to take and how much of it to submit it does not
know, and guesses: unless its instructions tell it, or its demos show it, or labelled examples show what answers look
like. The teacher reads what an optimizer shows it: from feedback it infers the rule that was broken; where it is shown
no feedback, it proposes one idea after the other, good ones and bad ones.
"""

from __future__ import annotations

import json
import random
import re
import threading
import zlib
from collections import Counter
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

NEWEST = "Where several lines tell it, take the newest one."
ALONE = "Submit the tag alone, without the grade."
IDEAS = ("Think carefully.", NEWEST, "Be brilliant.", ALONE, f"{NEWEST} {ALONE}", "Take your time.")


def examples(count: int, seed: int = 0, filler: int = 40) -> list[dspy.Example]:
    """Questions about lists in which every item is told of three times."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        item = f"item{seed}{number:02d}"
        lines = [f"note {rng.randrange(10**6)}: nothing of interest" for _ in range(filler)]
        tags = [f"QX{rng.randrange(100, 1000)}{letter}" for letter in "abc"]
        for place, tag in zip(sorted(rng.sample(range(filler), 3)), tags, strict=True):
            lines[place] = f"{item} has tag {tag} (grade {rng.choice('ABC')})"
        question = f"Which tag does {item} have?"
        made.append(dspy.Example(context="\n".join(lines), question=question, answer=tags[-1]))
    return [example.with_inputs("context", "question") for example in made]


class Engine:
    """What student and teacher share: counted requests, answers by the text of the prompt."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.calls = 0
        self._seen: Counter[int] = Counter()
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        turns = [(message.role, message.text or "") for message in request.messages]
        key = zlib.crc32(json.dumps([system, turns]).encode())
        with self._lock:
            self.requests.append(request)
            self.calls += 1
            sample = self._seen[key]
            self._seen[key] += 1
        text = self.reply(system, turns, sample)
        size = len(system) + sum(len(turn) for _, turn in turns)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=Usage(input_tokens=size // 4, output_tokens=len(text) // 4),
            provider_data={"cost": 0.001},
        )

    def reply(self, system: str, turns: list[tuple[str, str]], sample: int) -> str:
        raise NotImplementedError

    @property
    def longest(self) -> int:
        """The characters of the longest prompt."""
        return max(sum(len(message.text or "") for message in r.messages) + len(str(r.system)) for r in self.requests)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self


class Student(Engine):
    """Plays an RLM in two steps; ``skill`` tells what its prompt has taught it."""

    def reply(self, system: str, turns: list[tuple[str, str]], sample: int) -> str:
        if "Functions in the REPL" not in system:  # the extract, or advice that dspy.Refine asks for
            return fill(system, dict.fromkeys(outputs(system), "I do not know") | {"advice": {}})
        users = [text for role, text in turns if role == "user"]
        own = max(place for place, text in enumerate(users) if "[step 1/" in text or text.startswith("Question: "))
        question = re.findall(r"Which tag does (\w+) have", users[own])[-1]
        if own == len(users) - 1:
            return act(f"hits = [hit['text'] for hit in grep(r'{question} has tag .*')]\nprint(hits)")
        guess = random.Random(f"{question}/{sample}")
        newest, alone = skill(system, turns[: 2 * own])
        newest = guess.random() < 0.5 if newest is None else newest
        alone = guess.random() < 0.5 if alone is None else alone
        part = ".split(' (')[0]" if alone else ""
        more = ", evidence=[]" if "evidence=" in system else ""
        return act(f"tag = hits[{-1 if newest else 0}].split('has tag ')[1]{part}\nSUBMIT(answer=tag{more})")


def skill(system: str, shown: list[tuple[str, str]]) -> tuple[bool | None, bool | None]:
    """What instructions, labelled examples and worked examples teach; None where they say nothing."""
    codes = [text for role, text in shown if role == "assistant" and "SUBMIT" in text]
    newest = alone = None
    if codes:
        newest = sum("hits[-1]" in code for code in codes) * 2 > len(codes)
        alone = sum("split(' (')" in code for code in codes) * 2 > len(codes)
    if labelled := re.findall(r"^\s*- .*; answer: (.+)$", system, re.M):
        alone = not any("(" in answer for answer in labelled)
    return (True if NEWEST in system else newest), (True if ALONE in system else alone)


def act(code: str) -> str:
    return f"[[ ## reasoning ## ]]\nnext\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def outputs(system: str) -> list[str]:
    """The output fields that a prompt asks for."""
    if "Your output fields are:" not in system and "Functions in the REPL" in system:
        return ["reasoning", "code"]  # a run in plain turns
    listed = system.partition("Your output fields are:")[2].partition("All interactions")[0]
    return re.findall(r"\d+\. `(\w+)`", listed)


def fill(system: str, values: dict[str, Any]) -> str:
    """The values in the format that the prompt asks for."""
    values = {name: value for name, value in values.items() if name in outputs(system)}
    if "JSON object" in system:
        return json.dumps(values)
    parts = (f"[[ ## {n} ## ]]\n{v if isinstance(v, str) else json.dumps(v)}" for n, v in values.items())
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


class Teacher(Engine):
    """Proposes instructions: the rule that feedback shows to be broken, else the next idea."""

    def __init__(self) -> None:
        super().__init__()
        self.proposed = 0

    def reply(self, system: str, turns: list[tuple[str, str]], sample: int) -> str:
        text = turns[-1][1]
        asked = outputs(system)
        values: dict[str, Any] = dict.fromkeys(asked, "A list of tags.")
        for name in asked:
            if name == "module_advice":
                values[name] = {"generate_action": self.rule(text)}
            elif "instruction" in name:
                values[name] = f"Answer by code: find the tag. {self.rule(text)}"
            elif "prefix" in name:
                values[name] = "Code:"
        return fill(system, values)

    def rule(self, text: str) -> str:
        pairs = re.findall(r"Expected: (QX\w+)(?:\\n|\n)Got: (QX\w+( \(grade \w\))?)", text)
        rules = [rule for rule in (NEWEST, ALONE) if rule in text]
        if any(not got.startswith(expected) for expected, got, _ in pairs) and NEWEST not in rules:
            rules.append(NEWEST)
        if any(grade for *_, grade in pairs) and ALONE not in rules:
            rules.append(ALONE)
        if not pairs:
            self.proposed += 1
            return IDEAS[(self.proposed - 1) % len(IDEAS)]
        return " ".join(rules)


def student(**options: Any) -> tuple[dspy.LM, Student]:
    engine = Student()
    return dspy.LM("scripted/student", engine=engine, **{"cache": False, "num_retries": 0, **options}), engine


def teacher(**options: Any) -> tuple[dspy.LM, Teacher]:
    engine = Teacher()
    return dspy.LM("scripted/teacher", engine=engine, **{"cache": False, "num_retries": 0, **options}), engine
