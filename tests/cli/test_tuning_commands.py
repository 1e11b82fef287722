"""``eval``, ``optimize`` and ``make-questions`` as users run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from rlm_dspy import corpus, data
from rlm_dspy.cli import model_choice, optimize
from rlm_dspy.testing import scripted
from schemas import check_output
from tuning.classroom import STUDENT, TEACHER, Classroom
from tuning.make_class import write as write_class

ROW = {"question": "Which colour has the sky?", "answer": "blue", "context": "The sky is blue.", "scorer": "f1"}


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Classroom]:
    """A server with a model that can be taught and one that can teach."""
    with Classroom() as served:
        monkeypatch.setenv("OPENAI_API_KEY", served.key)
        monkeypatch.setenv("OPENAI_API_BASE", f"{served.url}/v1")
        yield served


def test_eval_scores_all_sides_side_by_side_and_goes_on_where_it_was(run: Callable, home: Path) -> None:
    path = jsonl(home / "d.jsonl", ROW, {**ROW, "id": "second"})
    result = run("eval", path, "--compare", "direct,rlm", "--html", "page.html")
    assert result.code == 0, result.err
    assert result.out.splitlines()[0].split() == ["direct", "rlm"]
    assert "submitted" in result.out
    assert "rlm − direct: " in result.out
    page = (home / "page.html").read_text()
    assert page.count("<svg") >= 2
    for told in ("Which colour has the sky?", "offline", "max-iters 20", "d.jsonl", "rlm-dspy 0.", "seed of the"):
        assert told in page
    links = re.findall(r'href="([^"]+)"', page)
    names = [f"{side}-{name}" for side in ("direct", "rlm") for name in ("d-1", "second")]
    assert links == [f"./page-runs/{name}.json" for name in names]
    assert "question" in run("trace", links[-1]).out
    again = run("eval", path, "--compare", "direct,rlm", "--json", "-q")
    told = json.loads(again.out)
    assert [row["id"] for row in told["rows"]] == ["d-1", "second"] * 2
    assert told["sides"]["rlm"]["questions"] == 2
    assert "4 of 4 rows were reused from" in run("eval", path, "--compare", "direct,rlm").err
    assert "were in" not in run("eval", path, "--compare", "direct,rlm", "--fresh").err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("gone.jsonl",), 6, "gone.jsonl cannot be read"),
        (("bad.jsonl",), 6, "bad.jsonl:2: not valid JSON"),
        (("d.jsonl", "--metric", "best"), 2, "'best' is not a scorer; choose from"),
        (("object.jsonl",), 2, "question object-1: the answer {'text': ['13']} is or has an object. Write a text"),
        (("d.jsonl", "--metric", "closeness"), 2, "question d-1: closeness needs a number, and the answer is 'blue'"),
        (("letters.jsonl",), 6, "letters.jsonl:1: support must be a text or a list of texts, not 5"),
        (("d.jsonl", "--compare", "gpt"), 2, "'gpt' is not a side to compare"),
        (("d.jsonl", "--compare", ","), 2, "--compare is empty"),
        (("d.jsonl", "--program", "gone.json"), 2, "the program gone.json cannot be read"),
        (("d.jsonl", "--compare", "direct", "--program", "gone.json"), 2, "--program applies to the side rlm"),
        (("d.jsonl", "--html", "no/such/x.html"), 2, "--html no/such/x.html cannot be written"),
        (("d.jsonl", "--journal", "d.jsonl/x"), 2, "--journal d.jsonl/x cannot be written"),
        (("d.jsonl", "--program", "d.jsonl"), 2, "is not a program of this kind"),
    ],
)
def test_eval_tells_bad_input_in_one_line(
    args: tuple[str, ...], code: int, message: str, run: Callable, home: Path
) -> None:
    jsonl(home / "d.jsonl", ROW)
    jsonl(home / "bad.jsonl", ROW, "{")
    jsonl(home / "object.jsonl", {**ROW, "answer": {"text": ["13"]}})
    jsonl(home / "letters.jsonl", {**ROW, "support": 5})
    result = run("eval", *args)
    assert result.code == code
    assert message in result.err
    assert result.out == ""


@pytest.mark.parametrize("more", [(), ("--fresh",)])
def test_eval_refuses_a_journal_that_is_none_and_leaves_it_alone(
    more: tuple[str, ...], run: Callable, home: Path
) -> None:
    (home / "precious.txt").write_text("my only notes")
    result = run("eval", jsonl(home / "d.jsonl", ROW), "--journal", "precious.txt", *more)
    assert result.code == 2
    assert "precious.txt:1 is not a row of this journal" in result.err
    assert (home / "precious.txt").read_text() == "my only notes"


def test_rows_that_are_reused_link_to_their_own_runs_only(run: Callable, home: Path) -> None:
    path = jsonl(home / "d.jsonl", ROW, {**ROW, "id": "a/b"})
    run("eval", path, "-q")
    assert run("eval", path, "--html", "none.html", "-q").code == 0
    assert "href" not in (home / "none.html").read_text()  # the rows are from before, without a record
    assert run("eval", path, "--html", "odd & name.html", "--fresh", "-q").code == 0
    first = re.findall(r'href="([^"]+)"', (home / "odd & name.html").read_text())
    assert [link[:29] for link in first] == ["./odd%20%26%20name-runs/rlm-d", "./odd%20%26%20name-runs/rlm-a"]
    assert all((home / unquote(link)).is_file() for link in first)
    assert run("eval", path, "--html", "odd & name.html", "-q").code == 0
    assert re.findall(r'href="([^"]+)"', (home / "odd & name.html").read_text()) == first
    record = home / unquote(first[0])
    record.write_text(record.read_text().replace('"id": "', '"id": "0'))  # now it is another run's
    run("eval", path, "--html", "odd & name.html", "-q")
    assert re.findall(r'href="([^"]+)"', (home / "odd & name.html").read_text()) == first[1:]
    (home / "taken-runs").write_text("a file")
    refused = run("eval", path, "--html", "taken.html")
    assert refused.code == 2
    assert "the runs go to taken-runs, which is a file" in refused.err


def test_no_secret_is_on_the_page(run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sec<ret&value")
    told = {**ROW, "question": "Is sec<ret&value here?", "answer": "sec<ret&value", "context": "no"}
    assert run("eval", jsonl(home / "d.jsonl", told), "--html", "page.html").code == 0
    page = (home / "page.html").read_text()
    assert "********" in page
    assert "ret&amp;value" not in page
    runs = "".join(path.read_text() for path in (home / "page-runs").iterdir())
    assert "ret&value" not in runs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_eval_prints_its_figures_though_the_page_cannot_be_written(run: Callable, home: Path) -> None:
    result = run("eval", jsonl(home / "d.jsonl", ROW), "--html", "/dev/full")
    assert result.code == 1
    assert "submitted" in result.out
    assert "/dev/full cannot be written: No space left on device" in result.err


def test_eval_fails_when_every_question_did(run: Callable, home: Path, room: Classroom) -> None:
    result = run("eval", jsonl(home / "d.jsonl", ROW), "-m", "openai/no-such-model", "--html", "page.html")
    assert result.code == 1
    assert result.out.splitlines()[1].split() == ["score", "failed"]
    assert "failed: its one question" in (home / "page.html").read_text()
    told = json.loads(run("eval", str(home / "d.jsonl"), "-m", "openai/no-such-model", "--json", "-q").out)
    assert told["sides"]["rlm"]["score"] is None
    assert "1 of 1 questions failed; the first, d-1: " in result.err


def test_eval_fails_when_no_question_has_an_answer(run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, _ = scripted("I would rather not.")
    monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
    result = run("eval", jsonl(home / "d.jsonl", ROW), "--compare", "direct")
    assert result.code == 1
    assert "1 of 1 questions ended without an answer; the first, d-1: ActionError: " in result.err


@pytest.mark.slow
def test_optimize_plans_tunes_reports_and_its_program_answers(run: Callable, home: Path, room: Classroom) -> None:
    data = str(write_class(home / "tags.jsonl", 20, 7))
    models = ("-m", f"openai/{STUDENT}", "--metric", "exact", "--threads", "2")
    result = run("optimize", data, *models, "--prompt-model", f"openai/{TEACHER}", "--max-calls", "240", "--yes")
    assert result.code == 0, result.err
    assert "questions: 8 training, 6 validation, 6 test (asked twice)" in result.err
    assert "at most 240 calls" in result.err
    assert "after  1.000" in result.out
    folder = home / "tags-gepa"
    assert {path.name for path in folder.iterdir()} >= {
        "program.json", "card.md", "report.html", "report.md", "report.json", "log.txt",
    }  # fmt: skip
    card = (folder / "card.md").read_text()
    assert "| score after | 1.000 (95% interval" in card
    assert "| n | 6 test questions" in card
    report = json.loads((folder / "report.json").read_text())
    check_output("optimize", json.dumps({**report, "folder": str(folder), "schema_version": 1}))
    assert report["after"]["score"] == 1 > report["before"]["score"]
    measured = [one["calls"] for one in report["candidates"] if one["val_score"] is not None]
    assert measured == sorted(measured)
    assert report["before"]["calls"] < measured[0] < measured[-1] < report["calls"]
    page = (folder / "report.html").read_text()
    for told in ("changes against its parent", "test after: 1.000", "chosen", STUDENT, TEACHER, "6 test", "tags.jsonl"):
        assert told in page
    assert report["calls"] == sum(engine.calls for engine in room.engines.values())
    assert room.key not in "".join(path.read_text() for path in folder.glob("*.*") if path.is_file())
    program = str(folder / "program.json")
    tuned = run("eval", data, *models, "--limit", "4", "--program", program, "--json", "-q")
    assert json.loads(tuned.out)["sides"]["rlm"]["score"] == 1
    assert [row["path"] for row in json.loads(run("ls", ".", "--json").out)["files"]] == ["tags.jsonl"]
    again = run("optimize", data, *models, "--prompt-model", f"openai/{TEACHER}", "--max-calls", "240")
    assert again.code == 2
    assert "continue it with --resume" in again.err


def test_optimize_names_each_model_whose_price_is_unknown(run: Callable, home: Path, room: Classroom) -> None:
    data = str(write_class(home / "tags.jsonl", 8, 7))
    models = ("--prompt-model", f"openai/{TEACHER}", "--sub-model", "openai/gpt-4o-mini", "--max-iters", "1")
    result = run("optimize", data, *models, "--max-cost", "1", "--max-calls", "150", "--optimizer", "gepa")
    assert f"the price of openai/{TEACHER} is unknown, so only --max-calls limits it" in result.err
    assert "the price of openai/gpt-4o-mini" not in result.err
    assert "the price of offline" not in result.err


def test_optimize_refuses_what_cannot_be_paid_and_makes_no_folder(run: Callable, home: Path) -> None:
    data = str(write_class(home / "tags.jsonl", 20, 7))
    result = run("optimize", data, "--max-calls", "20")
    assert result.code == 2
    assert "max-calls 20 is too little for gepa" in result.err
    assert not (home / "tags-gepa").exists()
    few = run("optimize", jsonl(home / "d.jsonl", ROW), "--max-calls", "20")
    assert "too few for 3 parts" in few.err


def test_optimize_refuses_a_folder_that_cannot_be_made(run: Callable, home: Path) -> None:
    data = str(write_class(home / "tags.jsonl", 20, 7))
    result = run("optimize", data, "--max-calls", "400", "--out", f"{data}/run", "--yes")
    assert result.code == 2
    assert f"{data}/run cannot be written: Not a directory; choose another folder" in result.err


def test_optimize_refuses_a_question_in_two_parts(run: Callable, home: Path) -> None:
    data = str(write_class(home / "tags.jsonl", 8, 7))
    result = run("optimize", data, "--test", data, "--max-calls", "900")
    assert result.code == 2
    assert re.search("question tags-\\d is in test and in (train|val) too", result.err)


def test_optimize_refuses_the_same_question_under_another_name(run: Callable, home: Path) -> None:
    data = str(write_class(home / "tags.jsonl", 8, 7))
    (home / "other.jsonl").write_bytes((home / "tags.jsonl").read_bytes())
    result = run("optimize", data, "--test", "other.jsonl", "--max-calls", "900")
    assert result.code == 2
    assert ", as tags-" in result.err


def test_sets_of_the_same_file_name_are_used_together(run: Callable, home: Path) -> None:
    (home / "val").mkdir()
    rows = [{"question": f"What is {n}?", "answer": str(n), "context": f"It is {n}."} for n in range(30)]
    train, val = jsonl(home / "d.jsonl", *rows[:20]), jsonl(home / "val/d.jsonl", *rows[20:])
    result = run("optimize", train, "--val", val, "--max-calls", "20")
    assert "max-calls 20 is too little for gepa" in result.err


def test_fresh_asks_the_model_again_and_the_cache_is_named(run: Callable, home: Path, room: Classroom) -> None:
    path = str(write_class(home / "tags.jsonl", 3, 7))
    asked = ("eval", path, "-m", f"openai/{STUDENT}", "--compare", "direct")
    sent = []
    for more in ((), ("--metric", "f1"), ("--metric", "f1", "--fresh")):
        result = run(*asked, *more)
        assert result.code == 0, result.err
        sent.append(room.engines[STUDENT].calls)
        is_cached = more == ("--metric", "f1")
        assert ("3 of 3 calls were answered by DSPy's cache" in result.err) == is_cached
        assert ("3 (3 cached)" in result.out) == is_cached
    assert sent == [3, 3, 6]


def test_fresh_leaves_the_rows_of_other_questions(run: Callable, home: Path) -> None:
    jsonl(home / "d.jsonl", ROW)
    (home / "other").mkdir()
    jsonl(home / "other" / "d.jsonl", {**ROW, "question": "Is the sky blue?"})
    assert run("eval", "d.jsonl").code == run("eval", "other/d.jsonl", "--fresh").code == 0
    assert "1 of 1 rows were reused from" in run("eval", "d.jsonl").err


def test_make_questions_makes_a_dataset_that_eval_takes(run: Callable, home: Path, write: Callable) -> None:
    write("src/a.py", "LIMIT = 12\n\n\ndef first(path, depth=3):\n    return path\n\n\nclass Base:\n    pass\n")
    write("src/b.py", "from a import Base\n\n\nclass Child(Base):\n    pass\n\n\nclass Other(Base):\n    pass\n")
    write("notes/table.csv", "name,price\nchair,12\ntable,40\nlamp,9\n")
    write("notes/guide.md", "# Guide\n\n## Start\n\n## Middle\n\n## The end\n")
    result = run("make-questions", "src", "notes", "-n", "60", "--out", "made/q.jsonl")
    assert result.code == 0, result.err
    assert "only" in result.err
    rows = [json.loads(line) for line in (home / "made/q.jsonl").read_text().splitlines()]
    answers = {row["question"]: row["answer"] for row in rows}
    assert answers["What value does src/a.py assign to LIMIT?"] == 12
    assert answers["What is the default of the parameter depth of the function first?"] == 3
    assert answers["Which file defines the class that Child inherits from?"] == "src/a.py"
    assert answers["How many classes inherit directly from Base?"] == 2
    assert answers["In notes/table.csv, what is the sum of the column price?"] == 61
    assert answers["In notes/table.csv, what is the price of the row whose name is table?"] == "40"
    assert answers["Which is the last heading of notes/guide.md?"] == "The end"
    assert "not in the corpus" in answers.values()
    assert rows[0]["context"] == {"files": ["../src", "../notes"]}
    scored = run("eval", "made/q.jsonl", "--limit", "3", "-q")
    assert scored.code == 0
    refused = run("make-questions", "src", "--out", "made/q.jsonl")
    assert refused.code == 2
    assert "or --force" in refused.err
    assert run("make-questions", "src", "--out", "made/q.jsonl", "--force", "-n", "2").code == 0


def test_made_questions_do_not_change_what_they_ask_about(run: Callable, home: Path, write: Callable) -> None:
    write("a.csv", "name,price\nchair,12\ntable,40\nlamp,9\n")
    before = corpus.read([home])
    assert run("make-questions", ".", "-n", "8").code == 0
    row = json.loads((home / "questions.jsonl").read_text().splitlines()[0])
    write("questions-gepa/report.md", "# What became of them\n")
    assert data.context(row["context"], home).digest == before.digest
    refused = run("make-questions", "a.csv", "questions.jsonl", "--force")
    assert refused.code == 2
    assert "is also an input" in refused.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("gone",), 6, "gone"),
        (("-",), 2, "stdin cannot be used"),
        (("empty.bin",), 6, "empty.bin"),
    ],
)
def test_make_questions_tells_bad_input(
    args: tuple[str, ...], code: int, message: str, run: Callable, home: Path
) -> None:
    (home / "empty.bin").write_bytes(b"\0\1\2")
    result = run("make-questions", *args)
    assert result.code == code
    assert message in result.err


@pytest.mark.parametrize("command", ["eval", "optimize", "make-questions"])
def test_help_of_the_tuning_commands_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys; from rlm_dspy.cli import main; main(sys.argv[1:]); "
        "print(sorted({'dspy', 'litellm', 'pydantic', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, command, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]\n"


def test_an_optimizer_whose_library_is_missing_is_refused_before_anything_is_asked(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize.util, "find_spec", lambda name: None)
    result = run("optimize", jsonl(home / "d.jsonl", ROW), "--optimizer", "mipro", "--max-calls", "900", "-y")
    assert result.code == 2
    assert "--optimizer mipro needs optuna and numpy: pip install optuna numpy." in result.err


def test_bad_credentials_end_an_evaluation_at_once(run: Callable, home: Path) -> None:
    rows = jsonl(home / "d.jsonl", *({**ROW, "question": f"q{number}"} for number in range(8)))
    result = run("eval", rows, "-m", "groq/openai/gpt-oss-20b", "--threads", "1")
    assert result.code == 4
    assert "needs a key" in result.err
    assert "questions failed" not in result.err
