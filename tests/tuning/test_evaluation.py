"""An evaluation asks each question once, keeps every row, tells endings apart, and goes on where it was interrupted."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.budget import Budget
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.report import run_store
from rlm_dspy.testing import action, fields, scripted
from rlm_dspy.tuning import contenders, scoring
from rlm_dspy.tuning.evaluation import Evaluation, Row, run_file_name
from rlm_dspy.tuning.metered_engine import PrefixMeter, common_prefix_length
from rlm_dspy.tuning.report import figure_tables, figures


def questions(count: int) -> list[dspy.Example]:
    return [
        dspy.Example(id=f"q{n}", task=f"t{n % 2}", context="the sky is blue", question=f"colour {n}?", answer="blue")
        .with_inputs("context", "question")
        for n in range(count)
    ]  # fmt: skip


class Program:
    """Answers as it is told to, and counts."""

    def __init__(self, *answers: Any, delay: float = 0.0) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.delay = delay
        self._lock = threading.Lock()

    def __call__(self, context: str, question: str) -> Any:
        with self._lock:
            self.asked.append(question)
        time.sleep(self.delay)
        answer = self.answers[int(question.split()[1][:-1]) % len(self.answers)]
        if isinstance(answer, BaseException):
            raise answer
        return dspy.Prediction(answer=answer)


def test_rows_come_in_the_order_of_the_questions_with_scores_and_endings() -> None:
    error = rlm_dspy.RLMError("gone")
    error.run = rlm_dspy.Run(id="r", status="stopped")
    extracted = dspy.Prediction(answer="blue", final_reasoning="Extract forced final output")
    program = Program("blue", "red", error, ValueError("broken"))
    rows = Evaluation(questions(4), metrics.exact, threads=3).run([contenders.Contender("x", program)])
    assert [row.id for row in rows] == ["q0", "q1", "q2", "q3"]
    assert [row.score for row in rows] == [1, 0, 0, 0]
    assert [row.status for row in rows] == ["submitted", "submitted", "stopped", "failed"]
    assert rows[3].error == "ValueError: broken"
    only = Evaluation(questions(1), metrics.exact).run([contenders.Contender("x", lambda **_: extracted)])
    assert only[0].status == "extracted"


def test_slow_questions_are_asked_once() -> None:
    program = Program("blue", delay=0.3)
    Evaluation(questions(4), metrics.exact, threads=4).run([contenders.Contender("x", program)])
    assert sorted(program.asked) == sorted(f"colour {n}?" for n in range(4))


def test_a_journal_is_gone_on_with_and_only_failures_are_asked_again(tmp_path: Path) -> None:
    journal = tmp_path / "deep/rows.jsonl"
    first = Program("blue", ValueError("down"))
    Evaluation(questions(4), metrics.exact, journal=journal).run([contenders.Contender("x", first)])
    journal.write_text(journal.read_text() + '{"key": "cut off by a ki')
    second = Program("blue")
    again = Evaluation(questions(6), metrics.exact, journal=journal)
    rows = again.run([contenders.Contender("x", second)])
    assert sorted(second.asked) == ["colour 1?", "colour 3?", "colour 4?", "colour 5?"]
    assert again.resumed == 2
    assert [row.score for row in rows] == [1] * 6
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.parametrize("text", ["my notes\n", "my notes, without an end", '{"id": 1}\n', "\ufeff\n", '{"id": 1}'])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    journal = tmp_path / "precious.txt"
    journal.write_text(text)
    program = Program("blue")
    with pytest.raises(ConfigurationError, match=r"precious\.txt:1 is not a row"):
        Evaluation(questions(1), metrics.exact, journal=journal).run([contenders.Contender("x", program)])
    assert journal.read_text() == text
    assert program.asked == []


def test_a_row_with_a_line_separator_of_unicode_is_one_row(tmp_path: Path) -> None:
    journal = tmp_path / "rows.jsonl"
    for resumed in (0, 1):
        evaluation = Evaluation(questions(1), metrics.exact, journal=journal)
        evaluation.run([contenders.Contender("x", Program(ValueError("a\u2028b\x85c")))])
        evaluation.run([contenders.Contender("x\u2028y", Program("blue"))])
        assert evaluation.resumed == resumed


def test_a_lone_surrogate_ends_no_evaluation(tmp_path: Path) -> None:
    journal = tmp_path / "rows.jsonl"
    program = Program("blue \udc80")
    asked = dspy.Example(id="\ud800", context="c", question="colour 0?", answer="\udfff")
    for _ in range(2):
        evaluation = Evaluation([asked.with_inputs("context", "question")], metrics.exact, journal=journal)
        (made,) = evaluation.run([contenders.Contender("x", program)])
        assert "blue" in (made.answer or "")
        assert json.loads(made.model_dump_json())["status"] == "submitted"
    assert len(program.asked) == 1


def test_a_row_keeps_its_question_its_texts_and_its_run(tmp_path: Path) -> None:
    lm, _ = scripted(lambda _: action("SUBMIT(answer='blue\\nsky' * 10_000, evidence=[])"))
    asked = questions(1)[0].copy(id="../a b\u202e", question="<b>" * 10_000).with_inputs("context", "question")
    with dspy.context(lm=lm):
        sides = [contenders.make_contender("rlm", Budget(max_iters=3))]
        (made,) = Evaluation([asked], metrics.exact, runs=tmp_path / "runs").run(sides)
    assert made.question.startswith("<b><b>")
    assert "characters cut" in made.question
    assert (made.answer or "").startswith("blue\nsky")
    assert len(made.answer or "") < 21_000
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name == run_file_name(made) == f"rlm-.._a_b_-{made.key[:8]}.json"
    assert run_store.load_run(path).run.id == made.run
    assert run_file_name(made.model_copy(update={"id": "q1"})) == "rlm-q1.json"


def test_rows_of_an_earlier_version_get_their_question(tmp_path: Path) -> None:
    journal = tmp_path / "rows.jsonl"
    asked = [contenders.Contender("x", Program("blue"))]
    Evaluation(questions(2), metrics.exact, journal=journal).run(asked)
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text(
        "".join(json.dumps({k: v for k, v in r.items() if k not in ("question", "run")}) + "\n" for r in rows)
    )
    again = Evaluation(questions(2), metrics.exact, journal=journal)
    assert [row.question for row in again.run(asked)] == ["colour 0?", "colour 1?"]
    assert again.resumed == 2


def test_another_model_program_or_metric_asks_again(tmp_path: Path) -> None:
    journal = tmp_path / "rows.jsonl"
    program = Program("blue")
    for metric, identity in ((metrics.exact, "a"), (metrics.exact, "b"), (metrics.f1, "b"), (metrics.f1, "b")):
        Evaluation(questions(1), metric, journal=journal, identity=identity).run([contenders.Contender("x", program)])
    assert len(program.asked) == 3


def test_a_metric_that_raises_is_told_and_loses_no_answer() -> None:
    def broken(expected: Any, got: Any) -> float:
        raise ZeroDivisionError("by nothing")

    rows = Evaluation(questions(1), metrics.of(broken)).run([contenders.Contender("x", Program("blue"))])
    assert rows[0].status == "failed"
    assert rows[0].error == "the metric broken raised ZeroDivisionError: by nothing"
    assert rows[0].answer == "blue"


def test_an_empty_dataset_and_an_unknown_side_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the dataset is empty"):
        Evaluation([], metrics.exact)
    with pytest.raises(ConfigurationError, match="'gpt' is not a side to compare"):
        contenders.make_contender("gpt", Budget())


def test_the_same_questions_go_to_all_three_sides_and_are_measured_alike() -> None:
    def reply(message: str) -> str:
        if message.startswith("[step ") or "repl_history" in message:
            return action("SUBMIT(answer='blue', evidence=['the sky is blue'])")
        return fields(answer="blue", evidence='[{"quote": "the sky is green"}]')

    lm, script = scripted(reply)
    with dspy.context(lm=lm):
        asked = [contenders.make_contender(name, Budget(max_iters=3)) for name in ("rlm", "direct", "dspy.RLM")]
        rows = Evaluation(questions(2), metrics.exact, threads=1).run(asked)
    made = figures.compare_sides(rows)
    assert list(made) == ["rlm", "direct", "dspy.RLM"]
    assert [found["score"] for found in made.values()] == [1, 1, 1]
    assert [found["calls"] for found in made.values()] == [2, 2, 2]
    assert made["rlm"]["evidence"] == 1
    assert made["direct"]["evidence"] == 0
    assert made["rlm"]["cost"] == pytest.approx(0.002)
    assert all(found["tokens"] > 100 for found in made.values())
    assert len(script.requests) == 6
    assert made["direct"]["difference"]["to"] == "rlm"


def row(side: str, score: float, **more: Any) -> Row:
    return Row(**{"key": "k", "side": side, "id": "q", "score": score, "status": "submitted", "task": "t", **more})


def test_the_table_the_page_and_the_figures_agree() -> None:
    rows = [row("a", 1.0, id=f"q{n}", seconds=n, cost=0.01) for n in range(10)]
    rows += [row("b", 0.0, id=f"q{n}", seconds=1, cost=None, status="failed", error="<down>") for n in range(10)]
    made = figures.compare_sides(rows)
    assert made["a"]["seconds_median"] == 4
    assert made["a"]["seconds_p95"] == 9
    assert made["b"]["cost"] is None
    table = {line[0]: line[1:] for line in figure_tables.figure_cells(made)}
    assert table["score"] == ["1.000", "failed"]
    assert table["95% interval"] == ["1.000–1.000", "–"]
    assert table["failed"] == ["0", "10"]
    assert table["cost"] == ["$0.1000", "unknown"]
    assert made["b"]["difference"] is None
    assert figure_tables.differences(made) == []
    assert figure_tables.task_cells(made) == [["task", "a", "b"], ["t", "1.000", "failed"]]
    lost = figures.compare_sides([*rows[:10], *(one.model_copy(update={"status": "stopped"}) for one in rows[10:])])
    assert lost["b"]["score"] == 0  # a run that its own limits ended is the program's fault
    assert figure_tables.differences(lost) == ["b − a: -1.000, 95% interval -1.000 to -1.000"]


@pytest.mark.parametrize(("share", "shown"), [(0, "····"), (1, "████"), (0.5, "██··"), (0.125, "▌···"), (2, "████")])
def test_bars(share: float, shown: str) -> None:
    assert figure_tables.score_bar(share, 4) == shown


def test_intervals_hold_the_mean_and_are_the_same_each_time() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    low, high = scoring.mean_interval(values)
    assert low < scoring.mean(values) < high
    assert scoring.mean_interval(values) == (low, high)
    assert scoring.mean_interval([1.0, 1.0]) == (1.0, 1.0)
    assert scoring.percentile([], 0.5) == 0


def test_the_prefix_share_is_what_a_prompt_has_in_common_with_an_earlier_one() -> None:
    watch = PrefixMeter()
    assert watch.prefix_share is None
    for prompt in ("a" * 100, "a" * 100 + "b" * 100, "c" * 100):
        watch.on_lm_start("id", None, {"prompt": prompt})
    assert watch.prefix_share == pytest.approx(100 / 300)
    assert common_prefix_length("", "abc") == 0
    assert common_prefix_length("abcd", "abxd") == 2
