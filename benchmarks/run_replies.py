"""Replies of real models: how many are parsed as the model intended, compared with DSPy's parsing.

    python benchmarks/run_replies.py                                   # parse the replies in benchmarks/replies
    python benchmarks/run_replies.py --record openai/qwen2.5-coder-1.5b --api-base http://127.0.0.1:8401/v1 --count 8

Recording asks the questions of the dev split in three ways (our prompt, that of dspy.RLM, and a plain request for a
```python block) and appends each reply unchanged to benchmarks/replies/MODEL.jsonl.

The intended code is determined without either parser: the code in fences that contain Python, or the whole reply or
its code field if that is Python. Of several such blocks, those up to and including the first that prints count; replies
without any Python are counted separately. The forms of tests/reply_siblings.jsonl were written by hand, each with its
intended code.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
from dspy.predict.rlm import _strip_code_fences
from dspy.utils.exceptions import AdapterParseError

import rlm_dspy
from rlm_dspy.rlm import adapters
from rlm_dspy.rlm.loop import ModelReply, read_cells
from rlm_dspy.tuning import data, tasks

HERE = Path(__file__).parent
RECORDED = HERE / "replies"
FORMS = HERE.parent / "tests" / "reply_siblings.jsonl"
ACTION = dspy.Signature("observation -> reasoning, code")
PLAIN = "You have a Python variable `context`. Reply with one ```python block that prints what helps to answer: "


def main() -> None:
    """Record replies, or parse recorded ones."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--record", metavar="MODEL")
    flags.add_argument("--api-base")
    flags.add_argument("--count", type=int, default=8, help="questions of each task")
    flags.add_argument("--show", action="store_true", help="print each reply that is parsed differently")
    given = flags.parse_args()
    if given.record:
        record(given.record, given.api_base, given.count)
        return
    for path in sorted(RECORDED.glob("*.jsonl")):
        report(path, given.show)
    forms(given.show)


def record(model: str, api_base: str | None, count: int) -> None:
    """Ask a model the questions of the dev split and save its replies."""
    options: dict[str, Any] = {"api_base": api_base, "api_key": "none"} if api_base else {}
    lm = dspy.LM(model, temperature=0.7, max_tokens=400, cache=False, **options)
    path = RECORDED / f"{model.rpartition('/')[2]}.jsonl"
    for index in range(count):
        for task in tasks.TASKS:
            row = data.example(data.generated(task, "dev", range(index, index + 1), tokens=8_000)[0], Path(), "r")
            for frame in ("ours", "dspy.RLM", "plain"):
                before = len(lm.history)
                ask(lm, frame, row)
                entries = [entry for entry in lm.history[before:] if entry["outputs"]]
                with path.open("a", encoding="utf-8") as file:
                    for entry in entries:
                        text, finish = entry["response"].text or "", entry["response"].finish_reason
                        file.write(json.dumps({"frame": frame, "task": task, "reply": text, "finish": finish}) + "\n")
                print(task, index, frame, len(entries), flush=True)


def ask(lm: dspy.LM, frame: str, row: Any) -> None:
    """Ask one question in one of the frames; its outcome does not matter here."""
    if frame == "plain":
        lm(PLAIN + row.question)
        return
    kind = rlm_dspy.RLM if frame == "ours" else dspy.RLM
    sub_lm = dspy.LM("none/none", engine=Silent(), cache=False)
    options: dict[str, Any] = {"max_iters": 3, "max_llm_calls": 4, "sub_lm": sub_lm}
    program = kind("context, question -> answer", interpreter_factory=rlm_dspy.Sandbox, **options)
    context = getattr(row.context, "text", row.context)
    if not isinstance(context, str):
        context = "\n\n".join(text for _, text in context.items())
    try:
        with dspy.context(lm=lm):
            program(context=context, question=row.question)
    except (rlm_dspy.RLMError, dspy.DSPyError, ValueError) as error:
        print("  ended by", type(error).__name__)


class Silent:
    """A sub-model with useless answers, so that only the model's own replies are recorded."""

    def complete(self, request: Any) -> Any:
        """Reply."""
        message = dspy.lm15.Message.assistant([dspy.lm15.TextPart("unknown")])
        usage = dspy.lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        return dspy.lm15.Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)


def report(path: Path, show: bool) -> None:
    """Print how many replies of one recording are parsed as intended, by prompt frame."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for frame in sorted({row["frame"] for row in rows}):
        report_frame(f"{path.stem}, {frame}", [row for row in rows if row["frame"] == frame], show)


def report_frame(title: str, rows: list[dict[str, Any]], show: bool) -> None:
    """Print one line; dspy's figure for our frame says nothing about dspy, which never uses that frame."""
    count: Counter[str] = Counter()
    for row in rows:
        meant = meaning(row["reply"])
        cut = row["finish"] == "length"
        if meant is None:
            count["no Python"] += 1
            continue
        count["Python"] += 1
        ours, theirs = our_reading(row["reply"], row["finish"]), dspy_reading(row["reply"])
        right = ours is None if cut and ours is None else ours == meant
        count["ours"] += right
        count["dspy"] += theirs == meant
        if show and not right:
            print(f"--- meant ---\n{meant}\n--- read ---\n{ours}\n--- reply ---\n{row['reply']}\n")
    total = count["Python"] or 1
    print(
        f"{title}: {len(rows)} replies, {count['no Python']} without Python; of {total}: "
        f"ours {count['ours'] / total:.1%}, dspy {count['dspy'] / total:.1%}"
    )


def meaning(reply: str) -> str | None:
    """Return the intended code of a reply, None if it contains no Python."""
    spoken = re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL)
    field = re.split(r"^\[\[ ## code ## \]\]\s*$", spoken, flags=re.MULTILINE)[-1]
    field = re.split(r"^\[\[ ## completed ## \]\]", field, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```(?:python|py|repl)?[ \t]*\n(.*?)(?:^```|\Z)", field, flags=re.DOTALL | re.MULTILINE)
    cells = [block.strip("\n").rstrip() for block in blocks if parses(block)]
    if not cells:
        whole = field.strip("\n").rstrip()
        return whole if parses(whole) and re.search(r"\w\(|=", whole) else None
    kept: list[str] = []
    for cell in cells:
        kept.append(cell)
        if "print(" in cell or "SUBMIT(" in cell:
            break
    return "\n\n".join(kept)


def our_reading(reply: str, finish: str) -> str | None:
    """Return the code that we run, up to the first cell that prints."""
    try:
        fields = adapters.action_adapter().parse(ACTION, reply)
        parsed = read_cells(ModelReply(reasoning=fields["reasoning"], code=fields["code"], finish=finish), "answer")
    except AdapterParseError:
        parsed = read_cells(ModelReply(text=reply, finish=finish), "answer")
    kept: list[str] = []
    for cell in parsed.cells:
        kept.append(cell)
        if "print(" in cell or "SUBMIT(" in cell:
            break
    return "\n\n".join(kept) if kept else None


def dspy_reading(reply: str) -> str | None:
    """Return the code that dspy.RLM runs."""
    try:
        return str(_strip_code_fences(dspy.ChatAdapter().parse(ACTION, reply)["code"]))
    except (AdapterParseError, SyntaxError):
        return None


def parses(code: str) -> bool:
    """Whether code parses as a cell."""
    try:
        compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return False
    return bool(code.strip())


def forms(show: bool) -> None:
    """Print how many of the hand-written forms are parsed as intended."""
    rows = [json.loads(line) for line in FORMS.read_text(encoding="utf-8").splitlines()]
    count: Counter[str] = Counter()
    for row in rows:
        ours, theirs = our_reading(row["reply"], row["finish"]), dspy_reading(row["reply"])
        wanted = set(readings(row["right"]))
        count["ours"] += same(ours, wanted)
        count["dspy"] += same(theirs, wanted)
        if show and not same(ours, wanted):
            print(row["id"], wanted, ours)
    total = len(rows)
    print(f"written forms: {total}; ours {count['ours'] / total:.1%}, dspy {count['dspy'] / total:.1%}")


def readings(right: list[dict[str, Any]]) -> Iterator[str | None]:
    """Yield each correct result: code up to the first cell that prints, or None for a reply to retry."""
    for one in right:
        kept: list[str] = []
        for cell in one.get("cells", ()):
            kept.append(cell.strip("\n"))
            if "print(" in cell or "SUBMIT(" in cell:
                break
        yield "\n\n".join(kept) if kept else None


def same(code: str | None, wanted: set[str | None]) -> bool:
    """Whether code equals one of the wanted ones, or has the same syntax tree."""
    return code in wanted or bool(code and tree(code) and tree(code) in {tree(text) for text in wanted if text})


def tree(code: str) -> str:
    """Return the syntax tree, without a `pass` that may replace an import that was moved up."""
    if not parses(code):
        return ""
    parsed = compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    parsed.body = [node for node in parsed.body if not isinstance(node, ast.Pass)] or parsed.body
    return ast.dump(parsed)


if __name__ == "__main__":
    sys.exit(main())
