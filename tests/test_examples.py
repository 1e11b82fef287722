"""The examples run as they are, on the offline engine or a scripted model, in a process of their own."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest

from example_process import FOLDER, run_example

GALLERY = runpy.run_path(str(FOLDER / "write_gallery.py"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
ALL_NAMES = [name for _, names in GALLERY["EXAMPLES"] for name in names]
# test_service.py runs the service; see below for the clusters.
RUN_NAMES = [name for name in ALL_NAMES if name not in GALLERY["NOT_RUN"]]
SHORTEST = {"optimizing": 40, "service": 120}
EXPECTED = {
    "cluster_dask": "4 hours.\n100% answered",
    "quickstart": "disk full",
    "typed_output": "1998 (line 1)",
    "composed": "14 days",
    "own_interpreter": "1931",
    "own_reader": "The gate opens\nat nine",
    "own_metric": "70.0 of 100",
    "many_questions": "Piet de Boer. (two.txt:3)\n100% answered",
    "recursive_summary": "Bergen, Leith, Brest (3 children)",
    "testing_a_program": "both hold",
    "conflicting_documents": "six months (amendment.txt: signed last, on 2025-02-01)\n",
    "react_agent": "every 90 hours (line 2: Oil it every 90 hours.)\ntools: find_manual, read_manual, finish",
    "optimizing": "33.33 -> 100.0 of 100",
}


def section(name: str) -> str:
    """Return the part of the gallery about one example."""
    return README.split(f"### `{GALLERY['example_path'](name).name}`\n")[1].split("\n### ")[0].split("\n## ")[0]


def names_in(script: str) -> dict[str, Any]:
    """Return what a script of the folder defines, without running it as a program."""
    return runpy.run_path(str(FOLDER / f"{script}.py"))


def true_book() -> str:
    novel = names_in("make_novel")["make_novel"]()
    assert len(novel.text) > 500_000
    holders = novel.holders[:61]  # from the beginning to the end of chapter 60
    changes = [holders[0]]
    for holder in holders:
        if holder != changes[-1]:
            changes.append(holder)
    return f"\n{', then '.join(changes)}\n"


def true_report() -> str:
    hours: Counter[str] = Counter()
    stations = names_in("make_report")["make_stations"]()
    assert len(stations) == 1_000
    for station in stations:
        hours[station.river] += station.hours_down
    river, total = hours.most_common(1)[0]
    worst = max(stations, key=lambda station: station.hours_down)
    return f"{river}: {total} hours\nreport.pdf:page {worst.page}: It stood still for {worst.hours_down} hours"


def true_logs(module: dict[str, Any]) -> str:
    logs = module["make_logs"]()
    failed = logs["shop.log"].count("ERROR")
    lines = logs["database.log"].splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "WARN" in line)
    return f"{failed} orders: no free connection: pool of 20 is exhausted\ndatabase.log:{number}: {lines[number - 1]}"


def true_tables(module: dict[str, Any], folder: Path) -> str:
    module["write_tables"](folder)
    with closing(sqlite3.connect(folder / "customers.db")) as database:
        countries = dict(database.execute("SELECT id, country FROM customers"))
    revenue: Counter[str] = Counter()
    for line in (folder / "orders.csv").read_text().splitlines()[1:]:
        customer, cents, state = line.split(",")
        revenue[countries[customer]] += int(cents) * (state != "cancelled")
    country, most = revenue.most_common(1)[0]
    return f"{country}: {most / 100:,.2f} euros"


def true_records(module: dict[str, Any]) -> str:
    lines = [line.split() for line in module["make_mailbox"]().splitlines() if line.startswith("Invoice")]
    return f"{len(lines)} invoices, {sum(float(words[5]) for words in lines):,.2f} euros\n"


def true_codebase() -> str:
    default = inspect.signature(dspy.ReAct.__init__).parameters["max_iters"].default
    return f"{default} iterations, ended by 'finish'\n"


def expected_text(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Return what an example has to print, from facts that its program does not see."""
    monkeypatch.syspath_prepend(str(FOLDER))  # as if the script were run
    match name:
        case "book":
            return true_book()
        case "large_report":
            return true_report()
        case "logs":
            return true_logs(names_in(name))
        case "tables":
            return true_tables(names_in(name), folder)
        case "typed_records":
            return true_records(names_in(name))
        case "codebase":
            return true_codebase()
        case "notebook":
            rain = [day * 37 % 101 for day in range(1, 20_001)]
            return f"{max(rain)} mm on {rain.count(max(rain))} days\nevent: probe\n"
    return EXPECTED[name]


@pytest.mark.parametrize("name", RUN_NAMES)
def test_an_example_prints_the_truth_and_what_the_gallery_shows(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run_example(GALLERY["example_path"](name), tmp_path / "home")
    assert found["errors"] == []  # no cell of a scripted model fails
    assert expected_text(name, monkeypatch, tmp_path) in found["output"]
    shown = section(name).split("```")[1].split("\n", 2)[2]
    if name == "notebook":
        assert "Take all figures and count the highest" in found["displayed"][-1]
    if name == "codebase":  # its quotes are lines of the version of DSPy that is installed
        assert shown.splitlines()[0] == found["output"].splitlines()[0]
    else:
        assert shown.strip() == found["output"].strip()


REAL_INPUT = ["book", "codebase", "conflicting_documents", "large_report", "logs", "tables", "typed_records"]


@pytest.mark.parametrize("name", [*REAL_INPUT, "react_agent"])
def test_an_example_passes_its_question_to_the_model_that_is_named(name: str, tmp_path: Path) -> None:
    assert run_example(FOLDER / f"{name}.py", tmp_path, "offline")["output"].strip()  # it looks up, and cannot compute


@pytest.mark.parametrize("name", ALL_NAMES)
def test_an_example_is_short_and_says_what_it_costs(name: str) -> None:
    text = GALLERY["example_path"](name).read_text(encoding="utf-8")
    if name != "notebook":
        assert text.count("\n") <= SHORTEST.get(name, 60)
    (cost,) = [line for line in section(name).splitlines() if line.startswith("Cost: ")]
    assert cost in text  # the same figures; prices change, so that they are not computed again here
    assert re.fullmatch(r"Cost: (nothing, no model is asked|\$[\d.]+–\$[\d.]+ with [\w/.-]+ \(.* tokens\))\.", cost)


def test_the_gallery_has_every_example_and_the_parts_that_do_not_run() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py")} | {path.stem for path in FOLDER.glob("*.ipynb")}
    assert scripts == {*ALL_NAMES, "make_novel", "make_report", "write_gallery"}
    parts = [GALLERY["HEAD"], *(GALLERY["section_text"](name).rstrip() for name in GALLERY["NOT_RUN"])]
    without_prices = [re.sub(r"\$[\d.]+", "$", part) for part in (README, *parts)]
    for part in without_prices[1:]:
        assert part in without_prices[0]


def test_the_generators_write_the_same_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = names_in("make_report")
    for name in ("one.pdf", "two.pdf"):
        made["write_report"](tmp_path / name, made["make_stations"](pages=3))
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    novel = names_in("make_novel")["make_novel"]
    assert novel() == novel()
    assert novel(seed=8) != novel()


# They take the arguments that the classes of dask-jobqueue 0.9 and dask-kubernetes 2026.3 take, and work on a thread.
STAND_IN = """
from distributed import LocalCluster

class OneWorker(LocalCluster):
    def __init__(self):
        super().__init__(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50)

class SLURMCluster(OneWorker):
    def __init__(self, *, cores, processes, memory, walltime, job_extra_directives, job_script_prologue,
                 worker_extra_args):
        super().__init__()
    def adapt(self, *, minimum_jobs, maximum_jobs): pass

def make_cluster_spec(name, image, n_workers, resources, worker_command):
    return {"spec": {"worker": {"spec": {"containers": [{"name": "worker", "image": image}]}}}}

class KubeCluster(OneWorker):
    def __init__(self, *, custom_cluster_spec):
        container, = custom_cluster_spec["spec"]["worker"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "model-keys"}}]
        super().__init__()
    def adapt(self, *, minimum, maximum): pass
"""


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_an_example_for_a_cluster_works_on_a_stand_in(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"cluster_{name}.py"
    (tmp_path / "dask_jobqueue.py").write_text(STAND_IN)
    (tmp_path / "dask_kubernetes").mkdir()
    (tmp_path / "dask_kubernetes" / "__init__.py").write_text("")
    (tmp_path / "dask_kubernetes" / "operator.py").write_text(STAND_IN)
    (tmp_path / "town.txt").write_text("The gate of Ulm opens at six.\n")
    (tmp_path / "questions.txt").write_text("When does the gate of Ulm open?\n")
    arguments = [str(tmp_path / part) for part in ("questions.txt", "answers.jsonl", "town.txt")]
    image = ["image"] if name == "kubernetes" else []
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(path), *arguments, *image, "offline"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "100% answered, 0 of them before\n"
