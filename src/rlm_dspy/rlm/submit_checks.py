"""Checks of what a model submits: its types, its evidence, and whether anything that it saw shows the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy

from rlm_dspy.evidence import (
    Evidence,
    printed_quotes,
    short_answers,
    unseen_numbers,
    unshown_answers,
    weak_advice,
)
from rlm_dspy.rlm import small_prompts
from rlm_dspy.rlm.inputs import is_context, quotable_inputs
from rlm_dspy.rlm.modes import asks_about_all
from rlm_dspy.rlm.outputs import answers_beside, holds_evidence, locate_evidence, parse_outputs, render_input
from rlm_dspy.run import cut_text

MAX_FOUND_QUOTES = 3  # that the host finds for a small model
NO_QUOTES = "no evidence: the model submitted the answer alone, and no line that was printed holds it"

OFFLINE_ANSWER = "the offline engine answered: it looks up words, and values of other types than text may be made up"
OFFLINE_PASSAGES = (
    "the offline engine does not count, add or compare: the answer is some passages with the words of the question, "
    "not a result"
)


def engine_warnings(model: str, question: str) -> list[str]:
    """Return warnings if what answers is not a language model."""
    if not model.startswith("offline/"):
        return []
    if asks_about_all(question):
        return [OFFLINE_ANSWER, OFFLINE_PASSAGES]
    return [OFFLINE_ANSWER]


class AnswerChecks:
    """Parses and checks what the model of one run submits.

    Args:
        signature: of the run.
        values: its inputs.
        shown_texts: returns the texts that the model saw.
        finds_quotes: whether to take printed lines that hold the answer as evidence if the model submits none.
        asks_for_source: whether to ask once for the source of an answer that nothing shows.

    Attributes:
        evidence: the checked quotes of the accepted answer.
        warnings: what was accepted although it is doubtful.
    """

    def __init__(
        self,
        signature: type[dspy.Signature],
        values: Mapping[str, Any],
        shown_texts: Callable[[], list[str]],
        *,
        finds_quotes: bool,
        asks_for_source: bool,
    ) -> None:
        self.signature = signature
        self.values = values
        self.evidence: list[Evidence] = []
        self.warnings: list[str] = []
        self._shown_texts = shown_texts
        self._finds_quotes = finds_quotes
        self._asks_for_source = asks_for_source
        self._asks_for_stronger = True

    def validate(self, value: Any, code: str, *, strict: bool) -> tuple[dict[str, Any], str | None]:
        """Return the outputs of a submitted value, or the problem with it as advice for the model.

        Args:
            value: what was submitted, or extracted at the end.
            code: the code that submitted it.
            strict: whether evidence that is not in the context is refused, and a doubtful answer asked for again.
        """
        value, warnings = self._with_quotes(value, strict=strict)
        outputs, problem = parse_outputs(self.signature, value)
        if problem:
            return {}, problem
        unfilled = [name for name, output in outputs.items() if isinstance(output, str) and output in ("...", "…")]
        if unfilled and strict:
            return {}, f'{", ".join(unfilled)}: "..." is only a placeholder; submit the value itself.'
        contexts, answers = quotable_inputs(self.values), answers_beside(self.signature, outputs)
        found: list[Evidence] = []
        for name in outputs:
            outputs[name], checked, problems = locate_evidence(outputs[name], contexts, answers)
            if problems and strict:
                return {}, " ".join(problems)
            warnings += [f"unverified evidence in {name}: {problem}" for problem in problems]
            found += checked
        if strict and (doubt := self._source_doubt(outputs, code)):
            return {}, doubt
        weak = [item for item in found if item.weak]
        if weak and len(weak) == len(found) and strict and self._asks_for_stronger:
            self._asks_for_stronger = False
            return {}, weak_advice(weak)
        self.evidence, self.warnings = found, warnings
        return outputs, None

    def unseen_numbers(self, outputs: Mapping[str, Any]) -> list[str]:
        """Flag numbers of the answer that appear in neither the outputs nor the inputs; evidence has its own check."""
        return unseen_numbers(self._plain_outputs(outputs), self._shown_texts(), self._input_texts())

    def _with_quotes(self, value: Any, *, strict: bool) -> tuple[Any, list[str]]:
        """Add printed lines that hold the answer as evidence if there is none; warn if there are no such lines."""
        lists = [name for name, field in self.signature.output_fields.items() if field.annotation == list[Evidence]]
        if not lists or not isinstance(value, Mapping) or any(value.get(name) for name in lists):
            return value, []
        names_evidence = all(name in value for name in lists)
        if not self._finds_quotes and (strict or names_evidence):
            return value, []
        contexts, quotes = quotable_inputs(self.values), []
        for quote in printed_quotes(short_answers(value), self._shown_texts()):
            if not locate_evidence(Evidence(quote=quote), contexts)[2]:
                quotes.append(quote)
        value = {**value, lists[0]: quotes[:MAX_FOUND_QUOTES], **{name: [] for name in lists[1:]}}
        if quotes or names_evidence:
            return value, []
        return value, [NO_QUOTES]

    def _source_doubt(self, outputs: Mapping[str, Any], code: str) -> str | None:
        """Ask once for the source of an answer that the code holds as a literal and that was never printed."""
        if not self._asks_for_source:
            return None
        plain = self._plain_outputs(outputs)
        is_nothing = bool(plain) and all(value in (0, "0", "", "[]", []) for value in plain.values())
        answers = [str(value) for value in plain.values()]
        if not is_nothing:
            answers = unshown_answers(plain, code, self._shown_texts(), self._input_texts())
        if not answers:
            return None
        self._asks_for_source = False
        quoted = ", ".join(f"`{cut_text(answer)}`" for answer in answers)
        if is_nothing:
            return small_prompts.NOTHING.format(quoted=quoted)
        return small_prompts.MADE_UP.format(quoted=quoted)

    def _plain_outputs(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs without evidence."""
        fields = self.signature.output_fields
        return {name: value for name, value in outputs.items() if not holds_evidence(fields[name].annotation)}

    def _input_texts(self) -> dict[str, Any]:
        """Return the inputs as texts or corpora."""
        return {name: value if is_context(value) else render_input(value) for name, value in self.values.items()}
