"""The examples run as they are, on the offline engine, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
ELSEWHERE = {
    "service",
    "cluster_slurm",
    "cluster_kubernetes",
}  # test_service.py runs the first, see below for the others
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ELSEWHERE)
EXPECTED = {
    "cluster_dask": "4 hours.\n100% answered",
    "quickstart": "disk full",
    "typed_output": "1998 (line 1)",
    "composed": "14 days",
    "own_interpreter": "1931",
    "own_reader": "The gate opens\nat nine",
    "many_questions": "Piet de Boer. (two.txt:3)\n100% answered",
    "recursive_summary": "Bergen, Leith, Brest (3 children)",
    "testing_a_program": "both hold",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_the_right_answer(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert EXPECTED[path.stem] in done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert path.read_text().count("\n") <= (60 if path.stem.startswith("cluster") else 40)


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
    test_an_example_is_short(path)
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


def test_the_service_is_short() -> None:
    assert (FOLDER / "service.py").read_text().count("\n") <= 120
