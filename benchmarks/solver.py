"""A scripted model that writes the code to solve each generated task, for any RLM.

It is not a language model. It shows that the datasets' answers match their contexts, that a program written for one RLM
runs in the other, and how the machinery handles correct code at any size. It cannot answer a direct call.
"""

import inspect
import re
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

MODEL = "scripted/solver"


def solve(question, context):  # noqa: C901  a cell of code, one branch for each task
    """Compute the answer; this source is what the model writes."""
    import collections
    import itertools
    import re

    named = {"": context} if isinstance(context, str) else dict(context.items())
    if list(named) == [""] and context.startswith("=== "):  # files written into one text
        parts = re.split(r"(?m)^=== (.+) \(\d+ lines\) ===\n", context)
        named = dict(zip(parts[1::2], parts[2::2], strict=False))
    text = "\n".join(named.values())
    kinds = {
        "broken": "complaint",
        "outage": "complaint",
        "charged": "complaint",
        "Wonderful": "praise",
        "layout": "praise",
        "support I": "praise",
        "send me": "request",
        "dark theme": "request",
        "cancel": "request",
    }

    def posts():
        for line in text.splitlines():
            said = dict(part.split(": ", 1) for part in line.split(" || ") if ": " in part)
            if "User" in said:
                label = next((kind for word, kind in kinds.items() if word in said["Text"]), "question")
                yield said.get("Date", ""), said["User"], said.get("Label", label)

    if found := re.search(r"access codes? of (\w+)", question):
        return ", ".join(re.findall(rf"The access code of {found[1]} is (\d+)\.", text))
    if found := re.search(r"hold the value (\d+)", question):
        values = {}
        for name, other in re.findall(r"(?m)^VAR (\w+) = (?:VAR )?(\w+)$", text):
            values[name] = values.get(other, other)
        return ", ".join(name for name, value in values.items() if value == found[1])
    if found := re.search(r"In which town was the (.+) of (\w+ \w+) born", question):
        links = {"mentor": "was taught by", "employer": "works for", "landlord": "rents rooms from"}
        person = found[2]
        for step in reversed(found[1].split(" of the ")):
            person = re.search(rf"{person} {links[step]} (\w+ \w+)\.", text)[1]
        return re.search(rf"{person} was born in (\w+)", text)[1]
    if found := re.search(
        r"of the service (\w+) have status (\d+)|of (?:the lines of )?(\w+) with status (\d+)", question
    ):
        service, status = found[1] or found[3], found[2] or found[4]
        rows = [row for row in (line.split(",") for line in text.splitlines()[1:]) if row[1:3] == [service, status]]
        asked = next(word for word in ("How many", "sum of bytes", "first", "last", "greatest ms") if word in question)
        return {
            "How many": len(rows),
            "sum of bytes": sum(int(row[4]) for row in rows),
            "first": rows[0][0],
            "last": rows[-1][0],
            "greatest ms": max(int(row[3]) for row in rows),
        }[asked]
    if "List all pairs" in question:
        wanted = set(re.findall(r"at least one (\w+)", question))
        has = collections.defaultdict(set)
        for _, user, label in posts():
            has[user].add(label)
        return "\n".join(f"{a} & {b}" for a, b in itertools.combinations(sorted(u for u in has if wanted <= has[u]), 2))
    if "frequent" in question or "texts" in question:
        rows = list(posts())
        counts = collections.Counter(label for *_, label in rows)
        if "most frequent" in question:
            return counts.most_common(1)[0][0]
        if found := re.search(r"label (\w+) more, less or equally frequent as (\w+)", question):
            gap = counts[found[1]] - counts[found[2]]
            return "more" if gap > 0 else "less" if gap < 0 else "equal"
        label = re.search(r"are a (\w+)", question)[1]
        user, month = re.search(r"user (\w+)", question), re.search(r"dated in ([\d-]+)", question)
        return sum(
            kind == label and (not user or who == user[1]) and (not month or day.startswith(month[1]))
            for day, who, kind in rows
        )
    if found := re.search(r"default of (\w+) in the function (\w+)", question):
        return re.search(rf"def {found[2]}\(data, {found[1]}=(\d+)\)", text)[1]
    if found := re.search(r"Which file defines the function (\w+)", question):
        return next(name for name, body in named.items() if f"def {found[1]}(" in body)
    if found := re.search(r"classes inherit from (\w+)", question):
        return len(re.findall(rf"(?m)^class \w+\({found[1]}\):", text))
    kind, port = re.search(r"how many (\w+) does the port of (\w+)", question).groups()
    told = [
        (re.search(r"Report of ([\d-]+)", body)[1], value[1])
        for body in named.values()
        for value in [re.search(rf"port of {port} has (\d+) {kind}", body)]
        if value
    ]
    return max(told)[1] if told else "not in the corpus"


class Solver:
    """Writes the program in the first step and submits in the second."""

    def complete(self, request: Request) -> Response:
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        said = "".join(message.text or "" for message in request.messages)
        if "`code`" not in system:
            text = "[[ ## answer ## ]]\nThis takes code.\n\n[[ ## evidence ## ]]\n[]\n\n[[ ## completed ## ]]"
        elif "def solve(" not in said:
            text = _act(inspect.getsource(solve) + "\nanswer = solve(question, context)\nprint(str(answer)[:500])")
        else:
            text = _act("SUBMIT(answer=str(answer), evidence=[])")
        used = Usage(input_tokens=(len(system) + len(said)) // 4, output_tokens=len(text) // 4)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=used,
            provider_data={"cost": 0.0},
        )


def _act(code: str) -> str:
    return f"[[ ## reasoning ## ]]\nnext\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def solver() -> Any:
    """Return the scripted model as an LM."""
    return dspy.LM(MODEL, engine=Solver(), cache=False, num_retries=0)


# The source of ``solve`` must not depend on this module.
assert not re.search(r"\b(dspy|inspect)\.", inspect.getsource(solve))
