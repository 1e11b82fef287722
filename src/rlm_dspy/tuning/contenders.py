"""The programs to compare: our RLM, a direct call, and ``dspy.RLM``, all with the same signature and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from rlm_dspy.budget import Budget
from rlm_dspy.context import Context
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence import Evidence
from rlm_dspy.rlm.direct import SHOWN_PASSAGES, Direct, prompt_text
from rlm_dspy.rlm.module import RLM
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.tuning import program

CONTENDER_NAMES = ("rlm", "direct", "dspy.RLM", "retrieve")

SHORT_INSTRUCTIONS = (
    "Answer the question from the context alone, as briefly as it can be answered: a name, a number, or the items of "
    "a list separated by commas. If the context does not hold the answer, answer 'not in the corpus'."
)
INSTRUCTIONS = f"{SHORT_INSTRUCTIONS} Back the answer with quotes copied exactly from the context where there are any."


def signature(*, evidence: bool = True) -> type[dspy.Signature]:
    """Return the signature for datasets: a context and a question in, an answer and its evidence out."""
    task: type[dspy.Signature] = dspy.Signature(
        {
            "context": (Any, dspy.InputField(desc="the text or files to answer from")),
            "question": (str, dspy.InputField()),
            "answer": (str, dspy.OutputField(desc="the answer alone")),
            "evidence": (list[Evidence], dspy.OutputField(desc="short passages copied word for word from the context")),
        },
        INSTRUCTIONS,
    )
    return task if evidence else task.delete("evidence").with_instructions(SHORT_INSTRUCTIONS)


@dataclass
class Contender:
    """A named program; ``note`` says how it differs from what its authors ship."""

    name: str
    program: Any
    note: str = ""
    texts: bool = False  # whether its inputs must be plain texts

    def ask(self, inputs: Mapping[str, Any]) -> Any:
        """Ask the program one question."""
        if not self.texts:
            return self.program(**inputs)
        return self.program(**{name: _plain_text(value) for name, value in inputs.items()})


def _plain_text(value: Any) -> Any:
    """Convert a handle or a corpus to text, for programs that need it."""
    if isinstance(value, Context):
        return value.text
    if isinstance(value, Corpus):
        return prompt_text(value)
    return value


def make_contender(
    name: str, budget: Budget, *, sub_lm: Any = None, path: Path | None = None, evidence: bool = True
) -> Contender:
    """Make a contender by name.

    Args:
        name: one of ``CONTENDER_NAMES``.
        budget: the limits per question.
        sub_lm: the LM of sub-calls.
        path: a saved program for the contender ``rlm``.
        evidence: whether to ask for quotes too.

    Raises:
        ConfigurationError: the name is unknown, or the saved program does not fit.
    """
    task = signature(evidence=evidence)
    if name == "rlm":
        rlm = RLM(task, sub_lm=sub_lm, budget=budget)
        return Contender(name, program.load(rlm, path) if path else rlm)
    if name == "direct":
        return Contender(name, Direct(task, budget=budget))
    if name == "retrieve":
        return Contender(name, Direct(task, passages=SHOWN_PASSAGES, budget=budget))
    if name == "dspy.RLM":
        stock = dspy.RLM(
            task.with_updated_fields("context", type_=str),
            max_iters=budget.max_iters,
            max_llm_calls=budget.max_llm_calls,
            sub_lm=sub_lm,
            interpreter_factory=Sandbox,
        )
        return Contender(name, stock, note="dspy.RLM runs in our sandbox, not in Deno", texts=True)
    raise ConfigurationError(f"{name!r} is not a side to compare; choose from {', '.join(CONTENDER_NAMES)}")
