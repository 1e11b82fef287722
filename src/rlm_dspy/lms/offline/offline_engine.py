"""The offline extractive engine: plays the RLM's protocol by keyword search, without a model or a network.

It answers look-up questions from the text in its prompt or in the REPL, quotes what it found, and says so if it found
nothing. It does not reason, summarise or compute, and never claims to.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events

from rlm_dspy.lms.offline import answers, explorer, prompt, question_terms
from rlm_dspy.lms.offline.answers import Finding, Passage
from rlm_dspy.lms.offline.prompt import Field, Play, Prompt
from rlm_dspy.lms.offline.question_terms import ParsedQuestion
from rlm_dspy.sandbox import toolkit

MODEL = "offline/extractive"
_ASKING = re.compile(r"question|query|task|instruction|request|ask|prompt|goal", re.I)
_EXPLORE: Callable[..., Any] = explorer.explore
_MAX_SHOWN_CHARS = 7_000  # characters printed by one exploration


class OfflineEngine:
    """Answers requests extractively and deterministically, one at a time."""

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        text = answer_prompt(prompt.read(request))
        sent = sum(len(message.text or "") for message in request.messages) + len(str(request.system or ""))
        counted = Usage(input_tokens=sent // 4, output_tokens=len(text) // 4, total_tokens=sent // 4 + len(text) // 4)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=counted,
            provider_data={"cost": 0.0},
        )

    def stream(self, request: Request) -> Iterator[Any]:
        """Answer one request as a stream of events."""
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def dump_state(self) -> dict[str, Any]:
        """Return the state that a saved program keeps: none."""
        return {}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """Make the engine of a saved program."""
        return cls()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class AsyncOfflineEngine(OfflineEngine):
    """The same engine for async callers; each answer takes milliseconds of pure computation."""

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        return super().complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:  # type: ignore[override]
        """Answer one request as a stream of events."""
        for event in response_to_events(super().complete(request)):
            yield event

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""


def answer_prompt(given: Prompt) -> str:
    """Answer a prompt in the format that it asks for."""
    if given.plays_rlm:
        note, code = _choose_move(prompt.read_run_state(given))
        return _render_reply(given, {"reasoning": note, "code": f"```python\n{code}\n```"})
    if given.format == "plain":
        asked, text = _split_prompt(given.inputs["prompt"])
        return _look_up(asked, text)[1].answer
    asked, text = _asked_and_text(given)
    searched, finding, passages = _look_up(asked, text)
    return _render_reply(given, answers.fill_fields(given.outputs, searched, finding, passages)[0])


def _render_reply(asked: Prompt, values: dict[str, Any]) -> str:
    values = {field.name: values.get(field.name, "") for field in asked.outputs}
    if asked.format == "json":
        return json.dumps(values, ensure_ascii=False, indent=2)
    parts = []
    for name, value in values.items():
        if isinstance(value, str):
            text = value
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"[[ ## {name} ## ]]\n{text}")
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


# Playing a run


def _choose_move(play: Play) -> tuple[str, str]:
    """Choose the next reasoning and code of a run."""
    asked, target = _find_task(play)
    searched = question_terms.read(asked)
    rows = [row for seen in play.observations for row in prompt.json_lines(seen)]
    passages = answers.passages(rows, searched)
    refusals = sum("[SUBMIT refused]" in seen for seen in play.observations)
    if target is None or refusals:
        return _submit_move(play, searched, passages, refusals)
    if not play.observations:
        return "Look for the words of the question in the context.", _exploration_code(
            searched, target, _explorer_source()
        )
    if len(play.observations) == 1 and not rows:
        if re.search(r"(?i)timed? ?out|time limit|\d s(?:econds)?\b.*interrupted", play.observations[0]):
            return "That took too long: search for less.", _exploration_code(
                searched, target, _explorer_source(), lean=True
            )
        plain = _exploration_code(searched, target, _PLAIN + _explorer_source())
        return "The look-up failed here: search again with plain Python only.", plain
    finding = answers.find_answer(searched, passages)
    wider = question_terms.widen_question(searched, rows[0].get("missing", ()) if rows else ())
    if wider and not finding.found:
        if len(play.observations) == 1:
            return "Nothing fits yet: search again with parts of the names.", _exploration_code(wider, target, "")
        again = answers.find_answer(wider, answers.passages(prompt.json_lines(play.observations[-1]), searched))
        if again.found:
            return _submit_move(play, wider, list(again.passages), 0)
    return _submit_move(play, searched, passages, 0)


def _find_task(play: Play) -> tuple[str, str | None]:
    """The question and the variable to look in: the input that is named like a question, or the shortest; the rest."""
    whole = [variable for variable in play.variables if variable.whole]
    named = [variable for variable in whole if _ASKING.search(variable.name)]
    others = named or [variable for variable in whole if not variable.main]
    asking = min(others, key=lambda variable: len(variable.text), default=None)
    rest = [variable for variable in play.variables if variable is not asking]
    target = next((variable for variable in rest if variable.main), None) or max(
        rest, key=lambda variable: len(variable.text), default=None
    )
    return asking.text if asking else _output_words(play.outputs), target.name if target else None


def _exploration_code(searched: ParsedQuestion, target: str, functions: str, *, lean: bool = False) -> str:
    """Write the cell that searches for the question's words; ``functions`` is the source of those not defined yet."""
    plan = ",\n    ".join(f"{key!r}: {value!r}" for key, value in searched.plan(lean=lean).items())
    tools = f"lambda *a, **k: grep(*a, text={target}, **k), lambda *a, **k: search(*a, text={target}, **k)"
    return f"{functions}plan = {{\n    {plan},\n}}\nshow(*explore(plan, {target}, {tools}), {_MAX_SHOWN_CHARS})"


_PLAIN = """import re


def grep(pattern, text, max_matches=20, ignore_case=False):
    found = []
    for source, body in text.items() if hasattr(text, "items") else [(None, text)]:
        for match in re.finditer(pattern, body, re.M | (re.I if ignore_case else 0)):
            found.append({"source": source, "start": match.start(), "end": match.end()})
    return found[:max_matches]


def search(query, text, k=10):
    return []


"""


@functools.cache
def _explorer_source() -> str:
    """Return the explorer's source as a cell."""
    whole = inspect.getsource(explorer)
    return whole.partition("# --- cell ---\n")[2].partition("# --- end ---")[0].strip() + "\n\n"


def _submit_move(play: Play, searched: ParsedQuestion, passages: list[Passage], refusals: int) -> tuple[str, str]:
    """Write the SUBMIT; each refusal makes it simpler."""
    if passages:
        finding = answers.find_answer(searched, passages)
    else:
        finding = Finding(answers.NOTHING, found=False)
    if play.observations and not any(map(prompt.json_lines, play.observations)):
        finding = Finding("The look-up could not be done: its code failed in the REPL.", found=False)
    if refusals >= 3:
        finding = Finding(finding.answer, (), finding.found)
    values, empty = answers.fill_fields(play.outputs, searched, finding, passages)
    for field in play.outputs:
        if answers.is_evidence(field):
            values[field.name] = answers.evidence_quotes(finding, bare=refusals > 0)
        elif refusals >= 2 and field.type != "str":
            values[field.name] = answers.empty_value(field.type)
    note = answers.explain_finding(searched, finding)
    if empty:
        note += answers.missing_note(empty)
    arguments = ",\n    ".join(f"{name}={value!r}" for name, value in values.items())
    return note, f"SUBMIT(\n    {arguments},\n)"


# Answering from the prompt itself


def _look_up(asked: str, text: str) -> tuple[ParsedQuestion, Finding, list[Passage]]:
    searched = question_terms.read(asked)
    namespace: dict[str, Any] = {}
    texts = {name: body for name, body in prompt.split_files(text).items() if body.strip()}
    if not texts or not searched.terms:
        return searched, Finding(answers.NOTHING, found=False), []
    if set(texts) == {""}:
        namespace["context"] = texts[""]
    else:
        namespace["context"] = toolkit.CorpusTexts.from_texts(texts)
    toolkit.bind(namespace, "context")
    attempt: ParsedQuestion | None = searched
    while attempt:
        missing, rows = _EXPLORE(attempt.plan(), namespace["context"], namespace["grep"], namespace["search"])
        passages = answers.passages(rows, attempt)
        finding = answers.find_answer(attempt, passages)
        if finding.found:
            return attempt, finding, passages
        attempt = question_terms.widen_question(attempt, missing)
    return searched, Finding(answers.NOTHING, found=False), []


def _asked_and_text(prompt_read: Prompt) -> tuple[str, str]:
    """Choose the question and the text to search among the inputs."""
    inputs = {name: text for name, text in prompt_read.inputs.items() if text.strip()}
    if "trajectory" in inputs and "task" in inputs:
        return _from_run(inputs["task"], inputs["trajectory"])
    named = [name for name in inputs if _ASKING.search(name)]
    if named:
        asked = named[0]
    else:
        asked = min(inputs, key=lambda name: len(inputs[name]), default="")
    rest = {name: text for name, text in inputs.items() if name != asked}
    if not rest and not named:  # a single input to judge: the outputs are the question
        return _output_words(prompt_read.outputs), inputs.get(asked, "")
    return inputs.get(asked, ""), "\n\n".join(rest.values())


def _output_words(fields: tuple[Field, ...]) -> str:
    telling = (field for field in fields if field.name != "reasoning" and not answers.is_evidence(field))
    return " ".join(f"{field.name.replace('_', ' ')} {field.desc}" for field in telling)


def _from_run(task: str, trajectory: str) -> tuple[str, str]:
    """Return a run's question and, file by file, the output of its steps."""
    asked, _ = _find_task(Play(prompt.variables(task), (), ()))
    texts: dict[str, list[str]] = {}
    for row in prompt.json_lines(trajectory):
        texts.setdefault(str(row.get("source", "context")), []).append(str(row.get("text", "")))
    if not texts:
        return asked, trajectory
    return asked, "".join(f"=== {name} ===\n" + "\n".join(found) + "\n" for name, found in texts.items())


def _split_prompt(text: str) -> tuple[str, str]:
    """Split a plain prompt into its question and its text."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    asking = next((part for part in (*paragraphs[:1], *paragraphs[-1:], *paragraphs[1:-1]) if "?" in part), None)
    if asking is None:
        asking = paragraphs[0] if paragraphs else ""
    sentence = re.search(r"[^.!?\n]*\?", asking)
    asked = sentence[0].strip() if sentence else asking.partition("\n")[0]
    return asked, text.replace(asked, "", 1)
