"""An audit of tuned programs: if instructions or demos contain answers of the test set, the score proves nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from rlm_dspy.context import Context
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence.absence import ABSENT
from rlm_dspy.evidence.locate import texts_of
from rlm_dspy.rlm.inputs import quotable_inputs
from rlm_dspy.tuning import program as programs
from rlm_dspy.tuning.scoring import normal_text

MIN_ANSWER_CHARS = 3  # shortest answer, in characters, that is checked: "7" and "no" occur everywhere
LONG_NUMBER = 5  # digits
MIN_SUBJECT_CHARS = 4  # characters of a word that names what a question is about
DEMOS = " (demos)"
MAX_NAMED_LEAKS = 5  # leaks listed in an error


@dataclass(frozen=True)
class Leak:
    """A test answer or question found in a program: the question, the text, and where, e.g. ``extract (demos)``."""

    question: str
    text: str
    part: str


def find_leaks(
    program: dspy.Module,
    test: Sequence[dspy.Example],
    *,
    known: Sequence[dspy.Example] = (),
    base: dspy.Module | None = None,
    field: str = "answer",
) -> list[Leak]:
    """Return the answers and questions of a test set that occur in a program's instructions or demos.

    Args:
        program: the tuned program.
        test: the test set, which the optimizer must not have seen.
        known: the questions that the optimizer did see: their answers are not leaks, nor is text from their contexts
            in a demo.
        base: the program before tuning; text that it already contains is not a leak.
        field: the field of the examples with the answer.
    """
    if base is not None:
        before = "\n".join(text for _, text in _tuned_texts(base))
    else:
        before = ""
    seen: set[str] = set()
    questions: set[str] = set()
    contexts: list[str] = []
    for example in known:
        seen.update(_answer_texts(example.get(field)))
        questions.add(normal_text(str(example.get("question") or "")))
        contexts += _context_texts(example)
    known_text = "\n".join(contexts).casefold()
    known_words = set(re.findall(r"\w+", " ".join([before, *questions, known_text])))
    leaks = []
    for part, text in _tuned_texts(program):
        for example in test:
            question = normal_text(str(example.get("question") or ""))
            for answer in dict.fromkeys([*_answer_texts(example.get(field)), question]):
                if answer in seen or answer in questions:
                    continue
                if not _holds_answer(text, answer) or _holds_answer(before, answer):
                    continue
                if _is_common(answer) and not _names_subject(text, question, known_words):
                    continue
                if part.endswith(DEMOS) and answer != question and answer in known_text:
                    continue
                leaks.append(Leak(str(example.get("id") or ""), answer, part))
    return leaks


def check_leaks(program: dspy.Module, test: Sequence[dspy.Example], **options: Any) -> None:
    """Refuse a program that contains answers of the test set; the arguments are those of :func:`find_leaks`.

    Raises:
        ConfigurationError: leaks were found; the message says where.
    """
    leaks = find_leaks(program, test, **options)
    if not leaks:
        return
    named = "; ".join(f"{leak.part} has {leak.text!r} of question {leak.question}" for leak in leaks[:MAX_NAMED_LEAKS])
    if len(leaks) > MAX_NAMED_LEAKS:
        more = f"; and {len(leaks) - MAX_NAMED_LEAKS} more"
    else:
        more = ""
    raise ConfigurationError(
        f"the program contains answers of the test set, so its score proves nothing: {named}{more}. "
        "Keep the test questions away from the optimizer, or use another test set."
    )


def _answer_texts(value: Any) -> Iterator[str]:
    """Yield the texts that reveal an answer, normalised for comparison."""
    for item in value if isinstance(value, (list, tuple, set)) else [value]:
        if item is None or isinstance(item, bool):
            continue
        text = normal_text(item)
        if len(text) >= MIN_ANSWER_CHARS and text != normal_text(ABSENT):
            yield text


def _tuned_texts(program: dspy.Module) -> Iterator[tuple[str, str]]:
    """Yield each predictor's instructions and demos, normalised for comparison."""
    with programs.expose_compiled_parts(program):
        predictors = program.named_predictors()
    for name, predictor in predictors:
        yield name, _normal_line(predictor.signature.instructions)
        demos = json.dumps([dict(demo) for demo in predictor.demos], ensure_ascii=False, default=str)
        yield name + DEMOS, _normal_line(demos)


def _normal_line(text: str) -> str:
    """Return a text, which may be JSON with escaped line breaks, normalised on one line."""
    return " ".join(normal_text(text.replace("\\n", " ")).split())


def _holds_answer(text: str, answer: str) -> bool:
    """Return whether a text contains an answer as whole words."""
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) is not None


def _is_common(answer: str) -> bool:
    """Return whether an answer is a short number, which occurs in many texts by chance."""
    return answer.isdecimal() and len(answer) < LONG_NUMBER


def _names_subject(text: str, question: str, known: set[str]) -> bool:
    """Return whether a text contains a word of the question that is not a known one, i.e. the question's subject."""
    words = {word for word in re.findall(r"\w+", question) if len(word) >= MIN_SUBJECT_CHARS}
    return any(word not in known and _holds_answer(text, word) for word in words)


def _context_texts(example: dspy.Example) -> Iterator[str]:
    """Yield the texts of a question's contexts, also of those behind handles."""
    if example._input_keys is None:  # an example without a context
        return
    for name, value in quotable_inputs(dict(example.inputs())).items():
        if isinstance(value, Context):
            yield value.text
        else:
            yield from (text.text for text in texts_of({name: value}))
