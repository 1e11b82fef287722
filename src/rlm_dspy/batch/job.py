"""Answer one question of a batch: a program in this process, or a job from which any process can make one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import dspy

from rlm_dspy import lms
from rlm_dspy._dspy import trim_history
from rlm_dspy.budget import Budget
from rlm_dspy.corpus import Corpus, read
from rlm_dspy.counting import estimate_tokens
from rlm_dspy.errors import ConfigurationError, CorpusError
from rlm_dspy.evidence import Evidence
from rlm_dspy.lms.rate_limits import SharedPace
from rlm_dspy.metering import token_cost
from rlm_dspy.report import json_output
from rlm_dspy.rlm.answerer import Answerer
from rlm_dspy.rlm.modes import DIRECT_TOKENS, Mode, first_mode
from rlm_dspy.rlm.module import RLM
from rlm_dspy.rlm.signatures import make_budget, read_signature, signature_facts

# Whether a question is asked again because its reply could not be read: DSPy's cache would return the same one.
ASKED_AGAIN: ContextVar[bool] = ContextVar("rlm_dspy_asked_again", default=False)
KEPT_CALLS = 256  # in DSPy's history: it would keep the prompts of the last 10,000, each perhaps with the whole corpus


@dataclass(frozen=True)
class Program:
    """An RLM or a direct call over one corpus; all questions share the LM and so its rate limit.

    Args:
        signature: a signature with the inputs ``context`` and ``question``.
        corpus: the corpus that the questions are about.
        lm: the main LM; None means the configured one.
        sub_lm: the LM for sub-calls.
        mode: as for :class:`~rlm_dspy.rlm.answerer.Answerer`.
        budget: the limits of each question.
        state: the state of a compiled RLM, from ``dump_state``.
    """

    signature: Any
    corpus: Corpus
    lm: Any = None
    sub_lm: Any = None
    mode: Mode = "auto"
    direct_tokens: int = DIRECT_TOKENS
    budget: Budget = field(default_factory=Budget)
    state: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "signature", read_signature(self.signature))
        if (names := set(self.signature.input_fields)) != {"context", "question"}:
            raise ConfigurationError(f"a batch's signature has the inputs context and question, not {sorted(names)}")
        self._answerer(None).make_rlm()  # reports an unusable limit or state before the first question

    @property
    def corpus_digest(self) -> str:
        """The digest of the texts."""
        return self.corpus.digest

    @cached_property
    def digest(self) -> str:
        """A digest of the program: signature, models, mode, limits and compiled state."""
        models = [_lm_identity(lm) for lm in (self.lm or dspy.settings.lm, self.sub_lm)]
        facts = [
            signature_facts(self.signature),
            models,
            self._first_mode,
            self.budget.model_dump(exclude_defaults=True),
            self.state,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def price(self) -> float:
        """The minimum cost of a question in US dollars: that of a direct call's prompt if known, else 0."""
        if self._first_mode != "direct":
            return 0.0
        model = str(getattr(self.lm or dspy.settings.lm, "model", ""))
        return token_cost(model, estimate_tokens(self.corpus.chars)) or 0.0

    @property
    def explores(self) -> bool:
        """Whether a question begins with a run of many steps, rather than with one call."""
        return self._first_mode == "rlm"

    @property
    def _first_mode(self) -> str:
        compiled = self.state is not None
        tokens = estimate_tokens(self.corpus.chars)
        return first_mode(self.mode, tokens, direct_tokens=self.direct_tokens, is_compiled=compiled)

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        """Answer one question for at most ``max_cost``, and return it as plain data.

        Raises:
            RLMError: with the partial run.
        """
        history_size = min(KEPT_CALLS, dspy.settings.max_history_size)
        lm = self.lm or dspy.settings.lm
        if ASKED_AGAIN.get():
            lm = lm.copy(cache=False)
        with dspy.context(lm=lm, trace=[], max_history_size=history_size):
            answered = self._answerer(max_cost).answer(self.corpus, question)
        trim_history(KEPT_CALLS)
        evidence = {name for name, item in self.signature.output_fields.items() if item.annotation == list[Evidence]}
        values = {name: answered.prediction.get(name) for name in self.signature.output_fields if name not in evidence}
        return json_output.answer_summary(answered.run, values, mode=answered.mode, corpus=self.corpus)

    def _answerer(self, max_cost: float | None) -> Answerer:
        """Return what answers one question, for the lower of the budget's ``max_cost`` and this one."""
        costs = [cost for cost in (max_cost, self.budget.max_cost) if cost is not None]
        return Answerer(
            self.signature,
            mode=self.mode,
            budget=make_budget(**{**self.budget.model_dump(), "max_cost": min(costs, default=None)}),
            sub_lm=self.sub_lm,
            direct_tokens=self.direct_tokens,
            compile_rlm=None if self.state is None else self._load_state,
        )

    def _load_state(self, rlm: RLM) -> RLM:
        try:
            rlm.load_state(dict(self.state or {}))
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"the state is not that of an RLM: {error} is missing in it") from error
        return rlm


@dataclass(frozen=True)
class Job:
    """A program as plain data that can be sent to other processes and machines; in a batch, each makes it once.

    Args:
        signature: a text, or a class that the other process can import.
        paths: the files to read; they must be the same wherever the job runs.
        model: a name for :func:`rlm_dspy.lm`; keys come from the environment of the process.
        sub_model: the same, for sub-calls.
        reading: keyword arguments of :func:`rlm_dspy.read`.
        connection: keyword arguments of :func:`rlm_dspy.lm`.
        mode: as for :class:`Program`.
        budget: as for :class:`Program`.
        state: as for :class:`Program`.
        expects: the digest that the texts must have; filled in by the batch.
        pace: keeps all processes together within the rate limits; None means that a batch with an executor uses
            :class:`~rlm_dspy.lms.file_pace.FilePace`, which keeps those of one machine.
    """

    signature: Any
    paths: tuple[str, ...]
    model: str
    sub_model: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = "auto"
    budget: Budget = field(default_factory=Budget)
    state: Mapping[str, Any] | None = None
    expects: str | None = None
    pace: SharedPace | None = None

    def program(self) -> Program:
        """Return this process's program for the job.

        Raises:
            CorpusError: the files are missing here, or differ from those the batch started with.
        """
        if self.expects is None:
            return self._make_program()
        key = self._cache_key
        with _LOCK:
            if key not in _MADE:
                _cache_program(key, self._make_program())
            return _MADE[key]

    def pinned(self) -> Job:
        """Return the job with the current digest of the texts; this process will not read them again for it."""
        program = self._make_program()
        job = replace(self, expects=program.corpus_digest)
        with _LOCK:
            _cache_program(job._cache_key, program)
        return job

    @property
    def _cache_key(self) -> str:
        facts = [str(value) for value in vars(self).values()]
        return json.dumps([facts, signature_facts(read_signature(self.signature))], default=str)

    def _make_program(self) -> Program:
        corpus = read(self.paths, **self.reading)
        if self.expects is not None and corpus.digest != self.expects:
            raise CorpusError(
                f"{', '.join(self.paths)}: the files here differ from those the batch started with; "
                "give every worker the same files, and do not change them while the batch runs"
            )
        connection = {"pace": self.pace, **self.connection}
        lm = lms.lm(self.model, **connection)
        if self.sub_model:
            sub_lm = lms.lm(self.sub_model, **connection)
        else:
            sub_lm = None
        return Program(self.signature, corpus, lm, sub_lm, self.mode, budget=self.budget, state=self.state)

    @property
    def corpus_digest(self) -> str:
        """The digest of the texts."""
        return self.program().corpus_digest

    @property
    def digest(self) -> str:
        """A digest of the program."""
        return self.program().digest

    @property
    def price(self) -> float:
        """The minimum cost of a question in US dollars."""
        return self.program().price

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        """Answer one question in this process."""
        return self.program().answer(question, max_cost)


_LOCK = threading.Lock()
_MADE: dict[str, Program] = {}  # this process's newest programs by the plain data of their jobs


def _cache_program(key: str, program: Program) -> None:
    while len(_MADE) > 3:
        del _MADE[next(iter(_MADE))]
    _MADE[key] = program


def _lm_identity(lm: Any) -> list[Any] | None:
    if lm is None:
        return None
    options = getattr(lm, "kwargs", {})
    return [getattr(lm, "model", type(lm).__name__), options.get("temperature"), options.get("max_tokens")]
